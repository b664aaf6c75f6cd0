//! What stands in the store for a server that somebody has or is about to have.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Shortest and longest time to live that is believed.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);
pub(super) const LONGEST: Duration = Duration::from_secs(60 * 60);

/// Most logins that share a reservation.
pub(super) const MOST_LOGINS: usize = 64;

/// One server's value. It is free once it has not changed for its time to live, on the clock of whoever looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Value {
    ttl_ms: u64,
    pub(super) state: State,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    /// Somebody has begun to log in; who he is is not known yet.
    Held(Held),
    /// It is somebody's.
    Reserved(Reserved),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    /// Made by chance, so that a hold is told from a later one.
    pub(super) id: String,
    /// As it was typed.
    pub(super) account: String,
    /// From where.
    pub(super) source: String,
    /// Which relay was asked.
    pub(super) relay: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reserved {
    pub(super) holder: String,
    /// None at first: then it is the revision of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<u64>,
    /// Milliseconds since 1970, for people to read.
    pub(super) since_ms: u64,
    pub(super) logins: BTreeMap<String, Login>,
}

/// One login of the holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Login {
    /// Which relay keeps it up.
    pub(super) relay: String,
    /// Counts its renewals.
    pub(super) beat: u64,
    /// It has ended once it was not renewed for so long, whatever other relays have for theirs.
    ttl_ms: u64,
}

impl Login {
    pub(super) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms).clamp(SHORTEST, LONGEST)
    }
}

impl Value {
    pub(super) fn held(held: Held, lasts: Duration) -> Self {
        Self {
            ttl_ms: milliseconds(lasts),
            state: State::Held(held),
        }
    }

    /// For as long as any of the logins may last: each relay counts on what it has set for its own.
    pub(super) fn reserved(reserved: Reserved) -> Self {
        let longest = reserved.logins.values().map(Login::ttl).max();
        Self {
            ttl_ms: milliseconds(longest.unwrap_or(SHORTEST)),
            state: State::Reserved(reserved),
        }
    }

    pub(super) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms).clamp(SHORTEST, LONGEST)
    }
}

impl Reserved {
    /// A reservation with its first login, which lasts for `ttl` unless it is renewed.
    pub(super) fn by(holder: &str, (login, ttl): (&str, Duration), relay: &str) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let first = Self {
            holder: holder.to_owned(),
            token: None,
            since_ms: milliseconds(since.unwrap_or_default()),
            logins: BTreeMap::new(),
        };
        first.renewed((login, ttl), relay)
    }

    /// The same with one more sign of life of a login.
    pub(super) fn renewed(mut self, (login, ttl): (&str, Duration), relay: &str) -> Self {
        let new = || Login {
            relay: relay.to_owned(),
            beat: 0,
            ttl_ms: milliseconds(ttl),
        };
        let kept = self.logins.entry(login.to_owned()).or_insert_with(new);
        kept.beat = kept.beat.saturating_add(1);
        self
    }
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
