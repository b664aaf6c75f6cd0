//! How long a word and its echo take: lately, and when it goes badly.

use std::time::Duration;

/// Round trips of one tunnel, smoothed as TCP smooths its own (RFC 6298 §2).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RoundTrip {
    latest: Option<Duration>,
    smoothed: Duration,
    variation: Duration,
}

impl RoundTrip {
    /// Takes one measurement in.
    pub(crate) fn measured(&mut self, took: Duration) {
        if self.latest.replace(took).is_none() {
            self.smoothed = took;
            self.variation = took / 2;
            return;
        }
        self.variation = (self.variation * 3 + self.smoothed.abs_diff(took)) / 4;
        self.smoothed = (self.smoothed * 7 + took) / 8;
    }

    /// The newest measurement, once there is one.
    pub(crate) const fn latest(&self) -> Option<Duration> {
        self.latest
    }

    /// What a round trip takes when it goes badly, so that a path with stalls shows although most of it is fast.
    pub(crate) fn worst(&self) -> Option<Duration> {
        self.latest.map(|_| self.smoothed + self.variation * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(measurements: impl IntoIterator<Item = u64>) -> RoundTrip {
        let mut trip = RoundTrip::default();
        for ms in measurements {
            trip.measured(Duration::from_millis(ms));
        }
        trip
    }

    #[test]
    fn nothing_is_known_before_the_first() {
        assert_eq!(after([]).latest(), None);
        assert_eq!(after([]).worst(), None);
    }

    #[test]
    fn a_steady_path_is_hardly_ever_slower() {
        let trip = after([20; 40]);
        assert_eq!(trip.latest(), Some(Duration::from_millis(20)));
        assert!(
            trip.worst()
                .is_some_and(|worst| worst < Duration::from_millis(21))
        );
    }

    #[test]
    fn a_stall_now_and_then_shows() {
        let stalls = (0..40).map(|turn| if turn % 4 == 0 { 120 } else { 20 });
        assert!(after(stalls).worst() > Some(Duration::from_millis(100)));
    }
}
