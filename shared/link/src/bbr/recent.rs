//! The most of late.

use std::time::{Duration, Instant};

/// What was noted is forgotten after one to two spans of so many rounds, and not sooner than of this time: rounds on a
/// near way are shorter than a host's pauses.
const ROUNDS: u64 = 5;
const TIME: Duration = Duration::from_millis(150);

/// The largest of the values of one to two spans.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recent {
    current: u64,
    before: u64,
    since: Instant,
    round: u64,
}

impl Recent {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            current: 0,
            before: 0,
            since: now,
            round: 0,
        }
    }

    pub(super) fn note(&mut self, value: u64, now: Instant, round: u64) {
        if round >= self.round + ROUNDS && now.saturating_duration_since(self.since) >= TIME {
            *self = Self {
                current: 0,
                before: self.current,
                since: now,
                round,
            };
        }
        self.current = self.current.max(value);
    }

    pub(super) fn most(&self) -> u64 {
        self.current.max(self.before)
    }

    pub(super) fn forget(&mut self) {
        (self.current, self.before) = (0, 0);
    }
}
