//! When a new key ends, as a person writes it.

use std::str::FromStr;

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// The end of a key: a time like `2027-01-31T00:00:00Z`, or days like `90d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// At this time.
    At(OffsetDateTime),
    /// So many days after the key is made.
    Days(u16),
}

/// A time that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write a time like 2027-01-31T00:00:00Z, or days like 90d")]
pub struct NoExpiry;

/// A key that would be dead from the start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is in the past")]
pub struct Past(String);

impl Expiry {
    /// The end of a key that is made `now`, in whole seconds.
    ///
    /// # Errors
    /// [`Past`].
    pub fn end(self, now: OffsetDateTime) -> Result<OffsetDateTime, Past> {
        let end = match self {
            Self::At(end) => end,
            Self::Days(days) => now.saturating_add(Duration::days(days.into())),
        };
        let end = end.replace_nanosecond(0).unwrap_or(end);
        if end <= now {
            Err(Past(end.format(&Rfc3339).unwrap_or_default()))
        } else {
            Ok(end)
        }
    }
}

impl FromStr for Expiry {
    type Err = NoExpiry;

    fn from_str(text: &str) -> Result<Self, NoExpiry> {
        let days = text.strip_suffix('d').and_then(|days| days.parse().ok());
        let at = || OffsetDateTime::parse(text, &Rfc3339).ok().map(Self::At);
        days.map(Self::Days).or_else(at).ok_or(NoExpiry)
    }
}
