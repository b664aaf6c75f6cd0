//! Waiting for a state, with a bound far above any figure that we promise.

use std::thread;
use std::time::{Duration, Instant};

/// How long a state may take before the test fails: not a figure of the product.
pub const BOUND: Duration = Duration::from_secs(30);

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits until `state` holds.
///
/// # Panics
/// If it does not hold within [`BOUND`].
pub fn eventually(what: &str, mut state: impl FnMut() -> bool) {
    eventually_some(what, || state().then_some(()));
}

/// Waits until `state` yields something, and returns it.
///
/// # Panics
/// If it yields nothing within [`BOUND`].
pub fn eventually_some<T>(what: &str, mut state: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + BOUND;
    loop {
        if let Some(found) = state() {
            return found;
        }
        assert!(Instant::now() < until, "still not after {BOUND:?}: {what}");
        thread::sleep(LOOK_AGAIN);
    }
}
