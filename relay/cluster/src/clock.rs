//! Time that goes on while the machine is suspended, as it does for everybody else in the cluster.
//!
//! Timers and [`Instant`] stand still meanwhile, so who only looked at them would wake up and believe to hold what others
//! have taken long ago.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::time::{Instant, sleep};

/// Longest time for which one timer is believed: so late at most is noticed that the machine was suspended.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Milliseconds by which what is read may be wrong because the reader was interrupted.
const NOISE: u64 = 20;

/// Milliseconds that this machine was suspended, as they were seen last: the same for the whole process.
static SUSPENDED: AtomicU64 = AtomicU64::new(0);

/// A moment, with the time counted in which the machine was suspended. Moments of one process are compared with each other
/// alone. On tokio's paused clock they follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Instant);

impl Moment {
    /// This one.
    #[must_use]
    pub fn now() -> Self {
        Self(Instant::now()).after(suspended())
    }

    /// The moment that is `time` later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.checked_add(time).unwrap_or(self.0))
    }

    /// How long after `earlier` it is; zero if it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }

    /// Waits for it. It is over at once if it was reached while the machine was suspended.
    pub async fn reached(self) {
        loop {
            let left = self.since(Self::now());
            if left.is_zero() {
                return;
            }
            sleep(left.min(LOOK_EVERY)).await;
        }
    }
}

/// How long the machine was suspended since it was started. It changes with a suspension alone.
fn suspended() -> Duration {
    // an interruption between the two clocks makes it longer, never shorter
    let read = (0..3).map(|_| difference()).min().unwrap_or_default();
    let known = SUSPENDED.load(Ordering::Relaxed);
    let now = without_noise(known, read);
    if now != known {
        SUSPENDED.store(now, Ordering::Relaxed);
    }
    Duration::from_millis(now)
}

const fn without_noise(known: u64, read: u64) -> u64 {
    if read.abs_diff(known) <= NOISE {
        known
    } else {
        read
    }
}

fn difference() -> u64 {
    let awake = milliseconds(clock_gettime(ClockId::Monotonic));
    milliseconds(clock_gettime(ClockId::Boottime)).saturating_sub(awake)
}

fn milliseconds(time: Timespec) -> u64 {
    let whole = u64::try_from(time.tv_sec).unwrap_or_default();
    let part = u64::try_from(time.tv_nsec).unwrap_or_default();
    whole.saturating_mul(1000).saturating_add(part / 1_000_000)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_paused_clock_to_the_millisecond() {
        let begun = Moment::now();
        advance(Duration::from_millis(1500)).await;
        assert_eq!(Moment::now().since(begun), Duration::from_millis(1500));
        assert_eq!(begun.since(Moment::now()), Duration::ZERO);

        begun.after(Duration::from_secs(60)).reached().await;
        assert_eq!(Moment::now().since(begun), Duration::from_secs(60));
    }

    #[test]
    fn an_hour_of_sleep_counts_and_an_interruption_does_not() {
        let hour = 3_600_000;
        assert_eq!(without_noise(7, 7 + hour), 7 + hour);
        assert_eq!(without_noise(hour, hour + NOISE), hour);
    }
}
