//! A budget that fills up again with time.

use std::time::Duration;

use tokio::time::Instant;

/// At most so many things at once, and as many again over the period.
///
/// Kept as the moment at which the budget would be whole again (the generic cell rate algorithm),
/// so that it needs no timer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    limit: u32,
    per: Duration,
    whole_at: Instant,
}

impl Bucket {
    pub(super) const fn new(limit: u32, per: Duration, now: Instant) -> Self {
        Self {
            limit,
            per,
            whole_at: now,
        }
    }

    /// Takes one; whether there was one to take.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.whole_at = self.whole_at.max(now) + self.per / self.limit.max(1);
        self.whole_at - now <= self.per
    }

    /// Whether three quarters are used.
    pub(super) fn is_low(&self, now: Instant) -> bool {
        self.whole_at.saturating_duration_since(now) >= self.per / 4 * 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_reached_and_grows_back() {
        let start = Instant::now();
        let mut bucket = Bucket::new(4, Duration::from_secs(8), start);

        assert!((0..2).all(|_| bucket.take(start)));
        assert!(!bucket.is_low(start));
        assert!((0..2).all(|_| bucket.take(start)));
        assert!(bucket.is_low(start));
        assert!(!bucket.take(start));

        let later = start + Duration::from_secs(4);
        assert!(bucket.take(later));
        assert!(!bucket.take(later));
    }
}
