//! When the running function is interrupted.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// The time of the running function. Clones are the same clock.
///
/// It is the processor's: a node that is busy with other work gives a worker few turns, for which no function is to blame. Time
/// as others have it counts too, and there is more of it.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    until: Rc<Cell<Option<(Timespec, Instant)>>>,
    fired: Rc<Cell<bool>>,
    each: Timespec,
    latest: Duration,
}

impl Clock {
    /// A clock that stands still and gives every function `each` of the processor's time, within `latest`.
    pub(super) fn new(each: Duration, latest: Duration) -> Self {
        Self {
            until: Rc::default(),
            fired: Rc::default(),
            each: Timespec::try_from(each).unwrap_or_default(),
            latest,
        }
    }

    /// A function begins. What is done for it takes `beside` of the processor's time more.
    pub(super) fn start(&self, beside: Duration) {
        self.fired.set(false);
        let beside = Timespec::try_from(beside).unwrap_or_default();
        let used_up = used().checked_add(self.each);
        let used_up = used_up.and_then(|used_up| used_up.checked_add(beside));
        self.until
            .set(used_up.zip(Instant::now().checked_add(self.latest)));
    }

    /// It ended; what runs now is ours.
    pub(super) fn stop(&self) {
        self.until.set(None);
    }

    /// Time that was spent waiting for the relay does not count.
    pub(super) fn extend(&self, waited: Duration) {
        let until = self.until.get();
        self.until
            .set(until.and_then(|(used_up, latest)| Some((used_up, latest.checked_add(waited)?))));
    }

    /// Asked by the engine every now and then, and by us between jobs.
    pub(super) fn is_over(&self) -> bool {
        let is_over = |(used_up, latest)| Instant::now() >= latest || used() >= used_up;
        if self.until.get().is_some_and(is_over) {
            self.fired.set(true);
        }
        self.fired.get()
    }

    /// Whether the function was found to be over its time.
    pub(super) fn has_fired(&self) -> bool {
        self.fired.get()
    }
}

/// What this thread has had of a processor.
fn used() -> Timespec {
    clock_gettime(ClockId::ThreadCPUTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn spins_until_over(clock: &Clock) -> Duration {
        let begun = used();
        while !clock.is_over() {}
        (used() - begun).try_into().expect("time goes on")
    }

    #[test]
    fn what_counts_is_the_processors_time_and_in_the_end_any() {
        let each = Duration::from_millis(30);
        let clock = Clock::new(each, LONG);
        clock.start(each);
        std::thread::sleep(3 * each);
        assert!(!clock.is_over(), "it had no turn");
        assert!(spins_until_over(&clock) >= each);

        let clock = Clock::new(LONG, each);
        clock.start(Duration::ZERO);
        let latest = |clock: &Clock| clock.until.get().expect("it runs").1;
        let before = latest(&clock);
        clock.extend(each);
        assert_eq!(latest(&clock) - before, each);
        std::thread::sleep(2 * each);
        assert!(clock.is_over());
    }
}
