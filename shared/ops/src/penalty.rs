//! Sources that failed to authenticate wait, longer each time.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::source::Source;

/// How much a failure costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prices {
    /// What each failure adds.
    pub each: Duration,
    /// A source is refused once its sum reaches this, and then until the sum has passed.
    pub enforced_from: Duration,
    /// The sum never exceeds this.
    pub most: Duration,
    /// Sources remembered; beyond it the one whose sum passes first is forgotten.
    pub sources: usize,
}

impl Default for Prices {
    fn default() -> Self {
        Self {
            each: Duration::from_secs(5),
            enforced_from: Duration::from_secs(15),
            most: Duration::from_secs(600),
            sources: 65_536,
        }
    }
}

/// Penalties per [source](Source). Time alone redeems.
#[derive(Debug, Default)]
pub struct Penalties {
    prices: Prices,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_source: HashMap<Source, Penalty>,
    by_end: BTreeSet<(Instant, Source)>,
}

#[derive(Debug, Clone, Copy)]
struct Penalty {
    until: Instant,
    enforced: bool,
}

impl Penalties {
    /// Nobody is punished; 5 s a failure, refused from 15 s on, 600 s at most, 65,536 sources.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With other prices.
    #[must_use]
    pub fn with(prices: Prices) -> Self {
        Self {
            prices,
            table: Mutex::default(),
        }
    }

    /// Adds a failure of this source.
    pub fn punish(&self, address: IpAddr) {
        let now = Instant::now();
        let source = Source::of(address);
        let mut table = self.lock();
        table.forget_until(now);
        let old = table.remove(source);
        if old.is_none() && table.by_source.len() >= self.prices.sources {
            table.forget_first();
        }
        table.insert(source, self.prices.raise(old, now));
    }

    /// How long this source is still refused; `None` when it is not.
    #[must_use]
    pub fn is_punished(&self, address: IpAddr) -> Option<Duration> {
        let penalty = self.lock().by_source.get(&Source::of(address)).copied()?;
        let left = penalty.until.saturating_duration_since(Instant::now());
        (penalty.enforced && !left.is_zero()).then_some(left)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prices {
    fn raise(&self, old: Option<Penalty>, now: Instant) -> Penalty {
        let from = old.map_or(now, |old| old.until.max(now));
        let until = (from + self.each).min(now + self.most);
        let was_enforced = old.is_some_and(|old| old.enforced);
        Penalty {
            until,
            enforced: was_enforced || until - now >= self.enforced_from,
        }
    }
}

impl Table {
    fn insert(&mut self, source: Source, penalty: Penalty) {
        self.by_end.insert((penalty.until, source));
        self.by_source.insert(source, penalty);
    }

    fn remove(&mut self, source: Source) -> Option<Penalty> {
        let penalty = self.by_source.remove(&source)?;
        self.by_end.remove(&(penalty.until, source));
        Some(penalty)
    }

    fn forget_until(&mut self, now: Instant) {
        while self.by_end.first().is_some_and(|(until, _)| *until <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, source)) = self.by_end.pop_first() {
            self.by_source.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));
    const C: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 3));

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn the_third_failure_in_a_row_is_enforced_until_the_sum_has_passed() {
        let penalties = Penalties::new();
        penalties.punish(A);
        penalties.punish(A);
        assert_eq!(penalties.is_punished(A), None);
        penalties.punish(A);
        assert_eq!(penalties.is_punished(A), Some(secs(15)));
        assert_eq!(penalties.is_punished(B), None);

        advance(secs(14)).await;
        assert_eq!(penalties.is_punished(A), Some(secs(1)));
        advance(secs(1)).await;
        assert_eq!(penalties.is_punished(A), None);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_far_apart_never_add_up() {
        let penalties = Penalties::new();
        for _ in 0..20 {
            penalties.punish(A);
            advance(secs(5)).await;
        }
        assert_eq!(penalties.is_punished(A), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_sum_has_an_upper_end() {
        let penalties = Penalties::new();
        (0..1000).for_each(|_| penalties.punish(A));
        assert_eq!(penalties.is_punished(A), Some(secs(600)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_table_forgets_the_one_that_ends_first() {
        let prices = Prices {
            sources: 2,
            enforced_from: secs(5),
            ..Prices::default()
        };
        let penalties = Penalties::with(prices);
        penalties.punish(A);
        penalties.punish(A);
        penalties.punish(B);
        penalties.punish(C);

        let punished = [A, B, C].map(|source| penalties.is_punished(source).is_some());
        assert_eq!(punished, [true, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_forgotten() {
        let penalties = Penalties::new();
        penalties.punish(A);
        advance(secs(5)).await;
        penalties.punish(B);

        let table = penalties.lock();
        assert_eq!((table.by_source.len(), table.by_end.len()), (1, 1));
    }
}
