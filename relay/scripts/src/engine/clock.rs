//! When the running function is interrupted.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The time of the running function. Clones are the same clock.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    until: Rc<Cell<Option<Instant>>>,
    fired: Rc<Cell<bool>>,
    each: Duration,
}

impl Clock {
    /// A clock that stands still and gives every function `each`.
    pub(super) fn new(each: Duration) -> Self {
        Self {
            until: Rc::default(),
            fired: Rc::default(),
            each,
        }
    }

    /// A function begins.
    pub(super) fn start(&self) {
        self.fired.set(false);
        self.until.set(Instant::now().checked_add(self.each));
    }

    /// It ended; what runs now is ours.
    pub(super) fn stop(&self) {
        self.until.set(None);
    }

    /// Time that was spent waiting for the relay does not count.
    pub(super) fn extend(&self, waited: Duration) {
        let until = self.until.get();
        self.until
            .set(until.and_then(|until| until.checked_add(waited)));
    }

    /// Asked by the engine every now and then, and by us between jobs.
    pub(super) fn is_over(&self) -> bool {
        if self
            .until
            .get()
            .is_some_and(|until| Instant::now() >= until)
        {
            self.fired.set(true);
        }
        self.fired.get()
    }

    /// Whether the function was found to be over its time.
    pub(super) fn has_fired(&self) -> bool {
        self.fired.get()
    }
}
