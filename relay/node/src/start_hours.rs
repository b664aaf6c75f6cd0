//! When sessions may be started on a node: hours of the week in the node's own time zone.

use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most spans in one list.
pub const MOST_SPANS: usize = 32;

/// Minutes of a day.
const DAY: u16 = 24 * 60;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Hours of the week, such as `mon-fri 20:00-06:00, sat-sun`; none means always.
///
/// A span that ends before it begins goes on after midnight and belongs to the day on which it begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartHours(Vec<Span>);

/// Why hours cannot be read. Its text says how they are written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartHoursError {
    /// A span is none.
    #[error(
        "`{0}` is no span of hours: write days, times or both, like `mon-fri 20:00-06:00` or `sat-sun`, with commas between spans, or `always`"
    )]
    Span(String),
    /// There are too many.
    #[error("at most {MOST_SPANS} spans of hours")]
    TooMany,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    days: Option<(u8, u8)>,
    times: Option<(u16, u16)>,
}

impl StartHours {
    /// Whether there is no restriction.
    #[must_use]
    pub const fn is_always(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `local`, a time of the node's own clock, lies within.
    #[must_use]
    pub fn contain(&self, local: DateTime) -> bool {
        let day = u8::try_from(local.weekday().to_monday_zero_offset()).unwrap_or(0);
        let number = |part: i8| u16::try_from(part).unwrap_or(0);
        let minute = number(local.hour()) * 60 + number(local.minute());
        self.is_always() || self.0.iter().any(|span| span.contains(day, minute))
    }
}

impl Span {
    fn contains(self, day: u8, minute: u16) -> bool {
        let (from, to) = self.times.unwrap_or((0, DAY));
        if from < to {
            return self.is_on(day) && (from..to).contains(&minute);
        }
        let yesterday = (day + 6) % 7;
        (self.is_on(day) && minute >= from) || (self.is_on(yesterday) && minute < to)
    }

    fn is_on(self, day: u8) -> bool {
        match self.days {
            None => true,
            Some((first, last)) if first <= last => (first..=last).contains(&day),
            Some((first, last)) => day >= first || day <= last,
        }
    }
}

impl FromStr for StartHours {
    type Err = StartHoursError;

    fn from_str(text: &str) -> Result<Self, StartHoursError> {
        if text.trim() == "always" {
            return Ok(Self::default());
        }
        let spans = text.split(',').map(str::trim);
        if spans.clone().count() > MOST_SPANS {
            return Err(StartHoursError::TooMany);
        }
        let wrong = |text: &str| StartHoursError::Span(text.escape_debug().to_string());
        let spans = spans.map(|text| span(text).ok_or_else(|| wrong(text)));
        spans.collect::<Result<_, _>>().map(Self)
    }
}

fn span(text: &str) -> Option<Span> {
    let mut words = text.split_ascii_whitespace();
    let first = words.next()?;
    let (days, times) = match words.next() {
        Some(times) => (Some(days(first)?), Some(times_of(times)?)),
        None if first.contains(':') => (None, Some(times_of(first)?)),
        None => (Some(days(first)?), None),
    };
    words.next().is_none().then_some(Span { days, times })
}

fn days(text: &str) -> Option<(u8, u8)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((day(first)?, day(last)?))
}

fn day(name: &str) -> Option<u8> {
    let place = DAYS.iter().position(|day| *day == name)?;
    u8::try_from(place).ok()
}

fn times_of(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-')?;
    let times = (minute(from)?, minute(to)?);
    (times.0 != times.1 && times.0 < DAY).then_some(times)
}

/// `HH:MM`, up to `24:00`.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let is_number = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(hour) || !is_number(minute) {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let all = hour * 60 + minute;
    (minute < 60 && all <= DAY).then_some(all)
}

impl fmt::Display for StartHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_always() {
            return f.write_str("always");
        }
        for (place, span) in self.0.iter().enumerate() {
            let between = if place == 0 { "" } else { ", " };
            write!(f, "{between}{span}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |day: u8| DAYS.get(usize::from(day)).copied().unwrap_or_default();
        match self.days {
            Some((first, last)) if first == last => f.write_str(name(first))?,
            Some((first, last)) => write!(f, "{}-{}", name(first), name(last))?,
            None => {}
        }
        let Some((from, to)) = self.times else {
            return Ok(());
        };
        let between = if self.days.is_some() { " " } else { "" };
        let (h1, m1, h2, m2) = (from / 60, from % 60, to / 60, to % 60);
        write!(f, "{between}{h1:02}:{m1:02}-{h2:02}:{m2:02}")
    }
}

impl Serialize for StartHours {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StartHours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use proptest::prelude::*;

    use super::*;

    /// A time in the week that begins on Monday, 2 November 2026.
    fn at(day: i8, hour: i8, minute: i8) -> DateTime {
        date(2026, 11, 2 + day).at(hour, minute, 0, 0)
    }

    fn hours(text: &str) -> StartHours {
        text.parse().expect(text)
    }

    #[test]
    fn nights_belong_to_the_day_on_which_they_begin() {
        let nights = hours("mon-fri 20:00-06:00");

        assert!(nights.contain(at(0, 20, 0)) && nights.contain(at(1, 5, 59)));
        assert!(!nights.contain(at(1, 6, 0)) && !nights.contain(at(1, 19, 59)));
        assert!(nights.contain(at(5, 3, 0)), "Friday's night");
        assert!(!nights.contain(at(0, 3, 0)), "Sunday's night");
    }

    #[test]
    fn days_times_and_lists_of_both() {
        let both = hours("mon-fri 18:00-24:00, sat-sun");
        assert!(both.contain(at(5, 0, 0)) && both.contain(at(6, 23, 59)));
        assert!(both.contain(at(4, 23, 59)) && !both.contain(at(4, 17, 59)));

        let every_day = hours("12:00-13:30");
        assert!(every_day.contain(at(3, 13, 29)) && !every_day.contain(at(3, 13, 30)));

        let over_the_week = hours("sat-mon");
        assert!(over_the_week.contain(at(0, 9, 0)) && !over_the_week.contain(at(1, 9, 0)));
        assert!(hours("always").contain(at(2, 2, 2)));
    }

    #[test]
    fn what_is_no_span_is_named() {
        for wrong in [
            "",
            "noon",
            "mon-",
            "20:00",
            "20-22",
            "24:00-06:00",
            "20:00-20:00",
            "20:60-21:00",
            "+1:00-02:00",
            "mon 20:00-22:00 x",
            "25:00-26:00",
            "mon,",
            "Mon",
        ] {
            let error = wrong.parse::<StartHours>().expect_err(wrong);
            assert!(error.to_string().contains("mon-fri 20:00-06:00"), "{error}");
        }
        let many = vec!["mon"; MOST_SPANS];
        assert!(many.join(",").parse::<StartHours>().is_ok());
        let too_many = vec!["mon"; MOST_SPANS + 1].join(",");
        assert_eq!(
            too_many.parse::<StartHours>(),
            Err(StartHoursError::TooMany)
        );
    }

    fn spans() -> impl Strategy<Value = Span> {
        let days = prop::option::of((0_u8..7, 0_u8..7));
        let times = prop::option::of((0..DAY, 1..=DAY));
        (days, times)
            .prop_filter("something is said", |(days, times)| {
                (days.is_some() || times.is_some()) && times.is_none_or(|(from, to)| from != to)
            })
            .prop_map(|(days, times)| Span { days, times })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(spans in prop::collection::vec(spans(), 0..5)) {
            let hours = StartHours(spans);
            prop_assert_eq!(hours.to_string().parse::<StartHours>(), Ok(hours));
        }

        #[test]
        fn nothing_that_is_read_panics(text in "[a-z0-9:, -]{0,40}|.*") {
            let _either = text.parse::<StartHours>();
        }
    }
}
