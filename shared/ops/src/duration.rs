//! Times as configuration files and commands write them.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// Reads `"10s"`, `"500ms"`, `"5m"`, `"1h"` or whole seconds; for `deserialize_with`.
///
/// # Errors
/// The deserialiser's own, if it is none of these.
pub fn duration<'de, D: Deserializer<'de>>(source: D) -> Result<Duration, D::Error> {
    source.deserialize_any(DurationVisitor)
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"10s\", \"500ms\", \"5m\", \"1h\", or whole seconds")
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<Duration, E> {
        u64::try_from(seconds)
            .map(Duration::from_secs)
            .map_err(|_negative| E::invalid_value(Unexpected::Signed(seconds), &self))
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<Duration, E> {
        Ok(Duration::from_secs(seconds))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// A time as an argument of a command.
///
/// # Errors
/// What to write instead.
pub fn argument(text: &str) -> Result<Duration, String> {
    let wrong = || "write a time like 30m or 48h".to_owned();
    parse(text).ok_or_else(wrong)
}

/// The duration that such a text with a unit says.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(count)),
        "s" => Some(Duration::from_secs(count)),
        "m" => count.checked_mul(60).map(Duration::from_secs),
        "h" => count.checked_mul(3_600).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    struct Table {
        #[serde(deserialize_with = "duration")]
        wait: Duration,
    }

    fn read(text: &str) -> Option<Duration> {
        let table: Option<Table> = toml::from_str(&format!("wait = {text}")).ok();
        table.map(|table| table.wait)
    }

    #[test]
    fn times_have_a_unit_or_are_whole_seconds() {
        for (text, milliseconds) in [
            ("\"1500ms\"", 1_500),
            ("\"10s\"", 10_000),
            ("\"3m\"", 180_000),
            ("\"2h\"", 7_200_000),
            ("5", 5_000),
        ] {
            assert_eq!(
                read(text),
                Some(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "\"\"",
            "\"10\"",
            "\"s\"",
            "\"-1s\"",
            "\"1.5s\"",
            "\"1d\"",
            "\"1 s\"",
            "\"99999999999999999999h\"",
            "-1",
            "true",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
