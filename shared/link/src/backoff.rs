//! When to dial again: full jitter, quick for a while after a loss, then slower and slower.
//!
//! Pure: the clock is an argument and the jitter comes from a seed, so that whole outages run in a test within a moment,
//! and again in the same way.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// The figures of a [`Backoff`].
#[derive(Debug, Clone)]
pub struct BackoffSettings {
    /// Ceiling of the first wait; it doubles with every try. Default 0.25 s.
    pub base: Duration,
    /// Highest ceiling while [`BackoffSettings::quick_for`] runs. Default 2 s.
    pub quick_cap: Duration,
    /// How long tries stay quick after a tunnel was lost. Default 30 s.
    pub quick_for: Duration,
    /// Highest ceiling after that. Default 30 s.
    pub cap: Duration,
    /// A tunnel that lived this long makes its loss one for quick tries, and the first of them comes within the base.
    /// Default 2 s: long enough to tell a gateway that restarts from one that drops whatever it admits.
    pub steady_after: Duration,
    /// A tunnel that lived this long sets the ceiling back to the base. Default 60 s.
    pub stable_after: Duration,
    /// Most of a `retry_after` that is obeyed, so that no gateway can park a relay for good. Default 300 s.
    pub longest_order: Duration,
}

impl Default for BackoffSettings {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(250),
            quick_cap: Duration::from_secs(2),
            quick_for: Duration::from_secs(30),
            cap: Duration::from_secs(30),
            steady_after: Duration::from_secs(2),
            stable_after: Duration::from_secs(60),
            longest_order: Duration::from_secs(300),
        }
    }
}

/// The waits between the tries to reach one gateway.
#[derive(Debug, Clone)]
pub struct Backoff {
    settings: BackoffSettings,
    /// Ceiling of the next wait.
    ceiling: Duration,
    up_since: Option<Instant>,
    /// Whether the next wait is the first after a steady tunnel.
    first: bool,
    quick_until: Option<Instant>,
    not_before: Option<Instant>,
    jitter: Jitter,
}

impl Backoff {
    /// For a gateway that has not been dialled yet. The first try needs no wait.
    #[must_use]
    pub const fn new(settings: BackoffSettings, seed: u64) -> Self {
        Self {
            ceiling: settings.base,
            settings,
            up_since: None,
            first: false,
            quick_until: None,
            not_before: None,
            jitter: Jitter {
                tries: 0,
                mask: 0,
                numbers: Numbers(seed),
            },
        }
    }

    /// A tunnel came up.
    pub const fn up(&mut self, now: Instant) {
        self.up_since = Some(now);
        self.not_before = None;
    }

    /// That tunnel was lost.
    pub fn lost(&mut self, now: Instant) {
        let Some(since) = self.up_since.take() else {
            return;
        };
        let lived = now.saturating_duration_since(since);
        if lived >= self.settings.stable_after {
            self.ceiling = self.settings.base;
        }
        if lived >= self.settings.steady_after {
            self.first = true;
            self.quick_until = Some(now + self.settings.quick_for);
            self.ceiling = self.ceiling.min(self.settings.quick_cap);
        }
    }

    /// The gateway said when to come back. The next try is at that time plus the usual jitter, lest all
    /// who were told the same come at once.
    pub fn retry_after(&mut self, now: Instant, wait: Duration) {
        let order = now + wait.min(self.settings.longest_order);
        self.not_before = self.not_before.max(Some(order));
    }

    /// When to try next. The wait is counted from when the last try began, or the tunnel was lost: a try that hangs,
    /// since nobody answers, must not keep the next one waiting too.
    pub fn next(&mut self, since: Instant) -> Instant {
        let quick = self.quick_until.is_some_and(|end| since < end);
        let cap = if quick {
            self.settings.quick_cap
        } else {
            self.settings.cap
        };
        let ceiling = if std::mem::take(&mut self.first) {
            self.settings.base
        } else {
            self.ceiling.min(cap)
        };
        self.ceiling = self.ceiling.max(ceiling.saturating_mul(2)).min(cap);
        let from = self
            .not_before
            .take()
            .map_or(since, |order| order.max(since));
        from + self.jitter.of(ceiling)
    }

    /// A random part of a time over which many relays are to be spread.
    pub fn part(&mut self, of: Duration) -> Duration {
        of.mul_f64(f64::from(self.jitter.numbers.next()) / f64::from(u32::MAX))
    }
}

/// Full jitter in strata: every wait is uniform from nothing to the ceiling, yet any four in a row fall into
/// the four quarters of it, each once. A run of short waits, which plain jitter deals out now and then, cannot
/// come, so the number of tries in an outage hardly varies.
#[derive(Debug, Clone)]
struct Jitter {
    tries: u8,
    mask: u32,
    numbers: Numbers,
}

impl Jitter {
    /// Bits of a draw that choose the order of the quarters; the others choose the place within one.
    const FRACTION_BITS: u32 = 30;

    fn of(&mut self, ceiling: Duration) -> Duration {
        const ORDER: [u32; 4] = [0, 3, 1, 2];
        let random = self.numbers.next();
        let place = self.tries % 4;
        if place == 0 {
            self.mask = random >> Self::FRACTION_BITS;
        }
        self.tries = (place + 1) % 4;
        let quarter = ORDER
            .get(usize::from(place))
            .map_or(0, |quarter| quarter ^ self.mask);
        let within = f64::from(random & ((1 << Self::FRACTION_BITS) - 1));
        let within = within / f64::from(1_u32 << Self::FRACTION_BITS);
        ceiling.mul_f64((f64::from(quarter) + within) / 4.0)
    }
}

/// Random enough to spread relays, and the same again from the same seed (`SplitMix64`).
#[derive(Debug, Clone)]
struct Numbers(u64);

impl Numbers {
    const fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [a, b, c, d, ..] = (mixed ^ (mixed >> 31)).to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}

/// A seed that no other process has.
#[must_use]
pub fn seed() -> u64 {
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn fresh(seed: u64) -> Backoff {
        Backoff::new(BackoffSettings::default(), seed)
    }

    /// The times, counted from the loss, at which one relay tries during an outage.
    fn tries(seed: u64, lived: Duration, outage: Duration) -> Vec<Duration> {
        let start = Instant::now();
        let mut backoff = fresh(seed);
        backoff.up(start);
        let lost = start + lived;
        backoff.lost(lost);
        let mut last = lost;
        let mut times = Vec::new();
        loop {
            last = backoff.next(last);
            if last > lost + outage {
                return times;
            }
            times.push(last - lost);
        }
    }

    #[test]
    fn ten_minutes_take_at_most_eighty_tries() {
        let most = (0..1_000)
            .map(|seed| tries(seed, MINUTE, 10 * MINUTE).len())
            .max();
        let least = (0..1_000)
            .map(|seed| tries(seed, MINUTE, 10 * MINUTE).len())
            .min();

        assert!(most <= Some(80), "{most:?}");
        assert!(least >= Some(60), "{least:?}");
    }

    #[test]
    fn a_gateway_that_is_back_soon_is_redialled_within_two_seconds() {
        for lived in [Duration::from_secs(2), MINUTE] {
            for seed in 0..1_000 {
                let times = tries(seed, lived, 2 * MINUTE);
                let early = times.iter().take_while(|at| **at < Duration::from_secs(28));
                let gaps = early.zip(times.iter().skip(1)).map(|(a, b)| *b - *a);
                assert!(gaps.max() <= Some(Duration::from_secs(2)));
            }
        }
    }

    #[test]
    fn a_thousand_relays_do_not_herd() {
        let outage = 5 * MINUTE;
        let times: Vec<f64> = (0..1_000)
            .flat_map(|seed| tries(seed, MINUTE, outage))
            .map(|at| at.as_secs_f64())
            .collect();
        // Steady phases: quick tries from the 5th to the 30th second, slow ones in the last two minutes.
        for (from, to) in [(5.0, 30.0), (180.0, 300.0)] {
            let mut slots = vec![0_u32; 50];
            let width = (to - from) / 50.0;
            for at in times.iter().filter(|at| (from..to).contains(*at)) {
                let slot = (0_u32..)
                    .zip(&mut slots)
                    .find(|(n, _)| *at < from + width * f64::from(n + 1));
                *slot.expect("within the range").1 += 1;
            }
            let mean = f64::from(slots.iter().sum::<u32>()) / 50.0;
            let worst = f64::from(*slots.iter().max().expect("fifty slots"));
            assert!(
                worst < 1.5 * mean,
                "{worst} in a slot, {mean} on average: {slots:?}"
            );
        }
    }

    #[test]
    fn the_first_tries_of_a_thousand_relays_are_spread_evenly() {
        let mut quarters = [0_u32; 4];
        for seed in 0..1_000 {
            let first = tries(seed, MINUTE, MINUTE).first().copied().expect("a try");
            let quarter = quarters
                .iter_mut()
                .zip(1_u32..)
                .find(|(_, n)| first.as_millis() < u128::from(n * 63));
            *quarter.expect("below a quarter of a second").0 += 1;
        }
        assert!(
            quarters.iter().all(|count| (200..300).contains(count)),
            "{quarters:?}"
        );
    }

    #[test]
    fn a_gateway_that_drops_what_it_admits_is_not_tried_quickly() {
        let mut backoff = fresh(0);
        let mut now = Instant::now();
        for _ in 0..12 {
            backoff.up(now);
            now += Duration::from_secs(1);
            backoff.lost(now);
            backoff.next(now);
        }
        assert_eq!(backoff.ceiling, Duration::from_secs(30));
    }

    #[test]
    fn only_a_stable_tunnel_sets_the_ceiling_back() {
        let mut backoff = fresh(0);
        let mut now = Instant::now();
        for _ in 0..12 {
            backoff.next(now);
        }
        for (lived, ceiling) in [(59, 2_000), (60, 250)] {
            backoff.up(now);
            now += Duration::from_secs(lived);
            backoff.lost(now);
            assert_eq!(backoff.ceiling, Duration::from_millis(ceiling), "{lived}");
        }
    }

    #[test]
    fn a_steady_tunnel_is_soon_tried_again_whatever_was_before() {
        let mut backoff = fresh(0);
        let mut now = Instant::now();
        for _ in 0..12 {
            backoff.next(now);
        }
        for _ in 0..12 {
            backoff.up(now);
            now += Duration::from_secs(2);
            backoff.lost(now);
            let wait = backoff.next(now) - now;
            assert!(wait <= Duration::from_millis(250), "{wait:?}");
            assert_eq!(backoff.ceiling, Duration::from_secs(2));
        }
    }

    #[test]
    fn an_order_to_wait_is_obeyed_once_and_within_reason() {
        let mut backoff = fresh(0);
        let (began, answered) = (Instant::now(), Instant::now() + Duration::from_secs(3));

        backoff.retry_after(answered, Duration::from_secs(20));
        let first = backoff.next(began) - answered;
        assert!((Duration::from_secs(20)..=Duration::from_millis(20_250)).contains(&first));
        assert!(backoff.next(answered) - answered < Duration::from_secs(1));

        backoff.retry_after(answered, Duration::from_secs(1_000_000));
        assert!(backoff.next(answered) - answered < Duration::from_secs(302));
    }

    #[test]
    fn a_part_is_anywhere_in_the_whole() {
        let mut backoff = fresh(0);
        let whole = Duration::from_secs(10);
        let mut parts: Vec<_> = (0..100).map(|_| backoff.part(whole)).collect();
        parts.sort_unstable();

        assert!(parts[10] < whole / 4 && parts[90] > whole / 4 * 3);
        assert!(parts[99] <= whole);
    }

    proptest! {
        #[test]
        fn every_wait_is_within_its_ceiling(seed in any::<u64>(), tries in 1..64) {
            let mut backoff = fresh(seed);
            let now = Instant::now();
            for _ in 0..tries {
                let ceiling = backoff.ceiling;
                prop_assert!(backoff.next(now) < now + ceiling);
            }
            prop_assert!(backoff.ceiling <= Duration::from_secs(30));
        }
    }
}
