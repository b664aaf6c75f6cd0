//! How good a tunnel is beside the others of its node: whether it lags behind them, and whether it is busy.
//!
//! A node has tunnels over TLS and over QUIC where both get through. TLS costs less for each byte; where packets are
//! lost or UDP is held back, one of the two is slower, and pings show which.

use std::time::Duration;

use sallyport_link::Tunnel;
use tracing::info;

use crate::registry::Member;

/// So many looks in a row make a tunnel one that lags. Looks are two seconds apart.
const LOOKS_TO_LAG: u32 = 3;

/// And so many make it one that does not, so that a path that is bad now and then is left alone.
const LOOKS_TO_RECOVER: u32 = 15;

/// Differences below this are nobody's concern.
const SLACK: Duration = Duration::from_millis(5);

/// Bytes between two looks from which on a tunnel is busy: what is opened anew had better not wait behind them.
const BUSY: u64 = 2 * 1_024 * 1_024;

/// Watches one tunnel, look by look.
#[derive(Debug, Default)]
pub struct Quality {
    verdict: Verdict,
    moved: u64,
}

impl Quality {
    /// Takes a look at a tunnel and at the others of its node, and tells it how it does.
    pub fn look(&mut self, member: &Member<Tunnel>, others: impl Iterator<Item = Duration>) {
        let figures = member.tunnel.figures();
        let moved = figures.sent.saturating_add(figures.received);
        member.set_busy(moved.saturating_sub(self.moved) >= BUSY);
        self.moved = moved;
        let (Some(delay), best) = (member.tunnel.delay(), others.min()) else {
            return;
        };
        let was = self.verdict.lags;
        let lags = self.verdict.after(delay, best);
        member.set_lagging(lags);
        if lags != was {
            let (delay_ms, best_ms) = (delay.as_millis(), best.map(|best| best.as_millis()));
            info!(lags, delay_ms, best_ms, "tunnel judged anew");
        }
    }
}

/// Whether a tunnel lags behind, with hysteresis.
#[derive(Debug, Default)]
struct Verdict {
    lags: bool,
    /// Looks in a row that spoke against the verdict.
    against: u32,
}

impl Verdict {
    /// The verdict after a look at which the tunnel had `delay`, and the best other one had `best`.
    fn after(&mut self, delay: Duration, best: Option<Duration>) -> bool {
        let against = match best {
            None => self.lags,
            Some(best) if self.lags => delay <= best * 5 / 4 + SLACK,
            Some(best) => delay > best * 2 + SLACK,
        };
        self.against = if against { self.against + 1 } else { 0 };
        let enough = if self.lags {
            LOOKS_TO_RECOVER
        } else {
            LOOKS_TO_LAG
        };
        if best.is_none() || self.against >= enough {
            self.lags = best.is_some() && !self.lags;
            self.against = 0;
        }
        self.lags
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn verdicts(looks: impl IntoIterator<Item = (u64, u64)>) -> Vec<bool> {
        let mut verdict = Verdict::default();
        let look = |(delay, best)| verdict.after(ms(delay), Some(ms(best)));
        looks.into_iter().map(look).collect()
    }

    #[test]
    fn a_tunnel_lags_after_three_bad_looks_and_recovers_after_fifteen_good_ones() {
        let bad = verdicts([(100, 20); 3]);
        assert_eq!(bad, [false, false, true]);
        let then = verdicts([[(100, 20); 3].as_slice(), &[(20, 20); 15]].concat());
        assert!(then[2..17].iter().all(|lags| *lags));
        assert!(!then[17]);
    }

    #[test]
    fn a_path_that_is_bad_now_and_then_changes_nothing() {
        let looks = (0..100).map(|turn| if turn % 3 == 2 { (20, 20) } else { (100, 20) });
        assert!(verdicts(looks).iter().all(|lags| !lags));
    }

    #[test]
    fn small_differences_do_not_count() {
        assert!(verdicts([(5, 1); 50]).iter().all(|lags| !lags));
    }

    #[test]
    fn alone_no_tunnel_lags() {
        let mut verdict = Verdict::default();
        for _ in 0..3 {
            verdict.after(ms(100), Some(ms(20)));
        }
        assert!(verdict.lags);
        assert!(!verdict.after(ms(100), None));
    }

    proptest! {
        /// Of two tunnels that are judged beside each other, one at least does not lag, unless they change too fast for
        /// either verdict to follow.
        #[test]
        fn of_steady_tunnels_the_best_never_lags(delays in prop::collection::vec(1_u64..1_000, 2..5)) {
            let best = *delays.iter().min().expect("two at least");
            let place = delays.iter().position(|delay| *delay == best).expect("it is there");
            let others = delays.iter().enumerate().filter(|(other, _)| *other != place);
            let second = others.map(|(_, delay)| *delay).min().expect("another");
            prop_assert!(verdicts(vec![(best, second); 40]).iter().all(|lags| !lags));
        }
    }
}
