//! Moments as people and programs read them.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment by RFC 3339, like `2026-11-22T00:22:29Z`; empty for one in a year that has no four digits.
#[must_use]
pub fn rfc3339(moment: OffsetDateTime) -> String {
    moment.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_programs_expect_it() {
        let moment = OffsetDateTime::from_unix_timestamp(1_700_000_000).expect("a moment");
        assert_eq!(rfc3339(moment), "2023-11-14T22:13:20Z");
    }
}
