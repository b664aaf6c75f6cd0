//! When to dial again: full jitter, quick for a while after a loss, then slower and slower.
//!
//! Pure: the clock and the randomness are arguments, so that whole outages run in a test within a moment.

use std::time::{Duration, Instant};

use aws_lc_rs::rand;

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
    /// A tunnel that lived this long makes its loss one for quick tries. Default 2 s: long enough to tell a
    /// gateway that restarts from one that drops whatever it admits.
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
    quick_until: Option<Instant>,
    ordered: Duration,
    jitter: Jitter,
}

impl Backoff {
    /// For a gateway that has not been dialled yet. The first try needs no wait.
    #[must_use]
    pub const fn new(settings: BackoffSettings) -> Self {
        Self {
            ceiling: settings.base,
            settings,
            up_since: None,
            quick_until: None,
            ordered: Duration::ZERO,
            jitter: Jitter { tries: 0, mask: 0 },
        }
    }

    /// A tunnel came up.
    pub const fn up(&mut self, now: Instant) {
        self.up_since = Some(now);
        self.ordered = Duration::ZERO;
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
            self.quick_until = Some(now + self.settings.quick_for);
            self.ceiling = self.ceiling.min(self.settings.quick_cap);
        }
    }

    /// The gateway said when to come back. The next wait is at least that, plus the usual jitter, lest all
    /// who were told the same come at once.
    pub fn retry_after(&mut self, wait: Duration) {
        self.ordered = self.ordered.max(wait.min(self.settings.longest_order));
    }

    /// How long to wait before the next try. `random` is drawn anew for each call: [`draw`].
    pub fn next(&mut self, now: Instant, random: u32) -> Duration {
        let quick = self.quick_until.is_some_and(|end| now < end);
        let cap = if quick {
            self.settings.quick_cap
        } else {
            self.settings.cap
        };
        let ceiling = self.ceiling.min(cap);
        self.ceiling = ceiling.saturating_mul(2).min(cap);
        std::mem::take(&mut self.ordered).saturating_add(self.jitter.of(ceiling, random))
    }
}

/// Full jitter in strata: every wait is uniform from nothing to the ceiling, yet any four in a row fall into
/// the four quarters of it, each once. A run of short waits, which plain jitter deals out now and then, cannot
/// come, so the number of tries in an outage hardly varies.
#[derive(Debug, Clone)]
struct Jitter {
    tries: u8,
    mask: u32,
}

impl Jitter {
    /// Bits of a draw that choose the order of the quarters; the others choose the place within one.
    const FRACTION_BITS: u32 = 30;

    fn of(&mut self, ceiling: Duration, random: u32) -> Duration {
        const ORDER: [u32; 4] = [0, 3, 1, 2];
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

/// A random number for [`Backoff::next`]. Without the system's randomness it is the middle, which is a wait
/// that still works and only spreads nothing.
#[must_use]
pub fn draw() -> u32 {
    let mut bytes = [0; 4];
    match rand::fill(&mut bytes) {
        Ok(()) => u32::from_be_bytes(bytes),
        Err(_none) => u32::MAX / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A small generator (SplitMix64), so that a failing run can be repeated.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u32 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            u32::try_from(mixed >> 32).expect("32 bits are left")
        }
    }

    /// The times, counted from the loss, at which one relay tries during an outage.
    fn tries(seed: u64, lived: Duration, outage: Duration) -> Vec<Duration> {
        let (start, mut numbers) = (Instant::now(), Numbers(seed));
        let mut backoff = Backoff::new(BackoffSettings::default());
        backoff.up(start);
        let lost = start + lived;
        backoff.lost(lost);
        let mut at = Duration::ZERO;
        let mut times = Vec::new();
        loop {
            at += backoff.next(lost + at, numbers.next());
            if at > outage {
                return times;
            }
            times.push(at);
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
        let mut backoff = Backoff::new(BackoffSettings::default());
        let mut now = Instant::now();
        for _ in 0..12 {
            backoff.up(now);
            now += Duration::from_secs(1);
            backoff.lost(now);
            backoff.next(now, 0);
        }
        assert_eq!(backoff.ceiling, Duration::from_secs(30));
    }

    #[test]
    fn only_a_stable_tunnel_sets_the_ceiling_back() {
        let mut backoff = Backoff::new(BackoffSettings::default());
        let mut now = Instant::now();
        for _ in 0..12 {
            backoff.next(now, 0);
        }
        for (lived, ceiling) in [(59, 2_000), (60, 250)] {
            backoff.up(now);
            now += Duration::from_secs(lived);
            backoff.lost(now);
            assert_eq!(backoff.ceiling, Duration::from_millis(ceiling), "{lived}");
        }
    }

    #[test]
    fn an_order_to_wait_is_obeyed_once_and_within_reason() {
        let mut backoff = Backoff::new(BackoffSettings::default());
        let now = Instant::now();

        backoff.retry_after(Duration::from_secs(20));
        let first = backoff.next(now, u32::MAX);
        assert!((Duration::from_secs(20)..=Duration::from_millis(20_250)).contains(&first));
        assert!(backoff.next(now, u32::MAX) < Duration::from_secs(1));

        backoff.retry_after(Duration::from_secs(1_000_000));
        assert!(backoff.next(now, 0) < Duration::from_secs(302));
    }

    proptest! {
        #[test]
        fn every_wait_is_within_its_ceiling(randoms in prop::collection::vec(any::<u32>(), 1..64)) {
            let mut backoff = Backoff::new(BackoffSettings::default());
            let now = Instant::now();
            for random in randoms {
                let ceiling = backoff.ceiling;
                prop_assert!(backoff.next(now, random) < ceiling);
            }
            prop_assert!(backoff.ceiling <= Duration::from_secs(30));
        }
    }
}
