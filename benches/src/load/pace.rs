//! Doing things at their time, and quantiles of how late they were.

use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The scheduler wakes a sleeper this late on an idle machine.
const EARLY: Duration = Duration::from_micros(80);

/// Quantiles of times in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Half were shorter.
    pub p50: f64,
    /// One in a hundred was longer.
    pub p99: f64,
}

impl Times {
    /// Of a histogram of nanoseconds.
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile: f64| {
            let nanos = histogram.value_at_quantile(quantile);
            Duration::from_nanos(nanos).as_secs_f64() * 1e6
        };
        Self {
            p50: at(0.5),
            p99: at(0.99),
        }
    }
}

/// A histogram of times with three digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are possible")
}

/// Records how long ago something was meant to happen.
pub(super) fn record(histogram: &mut Histogram<u64>, meant: Instant) {
    let late = Instant::now().saturating_duration_since(meant);
    let nanos = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
    histogram.record(nanos).expect("the histogram grows");
}

/// Sleeps until `then`.
pub(super) fn sleep_until(then: Instant) {
    thread::sleep(then.saturating_duration_since(Instant::now()));
}

/// Sleeps almost until `then`, and spins for the rest.
pub(super) fn spin_until(then: Instant) {
    sleep_until(then.checked_sub(EARLY).unwrap_or(then));
    while Instant::now() < then {
        std::hint::spin_loop();
    }
}
