//! Requests that came before their relay did: each waits for one name, and few wait at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Who waits, by the name of a session or pool.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<Waiters>);

#[derive(Debug, Default)]
struct Waiters {
    bells: HashMap<String, Bell>,
    count: usize,
}

/// What those are woken by who wait for one name, and how many they are.
#[derive(Debug, Default)]
struct Bell {
    bell: Arc<Notify>,
    waiters: usize,
}

impl Waiting {
    /// A place among those who wait for `name`; none if `most` wait already, for whatever.
    pub fn enter(&self, name: &str, most: usize) -> Option<Waiter<'_>> {
        let mut waiters = self.waiters();
        if waiters.count >= most {
            return None;
        }
        waiters.count += 1;
        let bell = waiters.bells.entry(name.to_owned()).or_default();
        bell.waiters += 1;
        Some(Waiter {
            waiting: self,
            name: name.to_owned(),
            bell: Arc::clone(&bell.bell),
        })
    }

    /// Wakes everybody who waits for one of these names.
    pub fn ring(&self, names: impl IntoIterator<Item = impl AsRef<str>>) {
        let waiters = self.waiters();
        if waiters.count == 0 {
            return;
        }
        for name in names {
            if let Some(bell) = waiters.bells.get(name.as_ref()) {
                bell.bell.notify_waiters();
            }
        }
    }

    fn leave(&self, name: &str) {
        let mut waiters = self.waiters();
        waiters.count = waiters.count.saturating_sub(1);
        if let Some(bell) = waiters.bells.get_mut(name) {
            bell.waiters = bell.waiters.saturating_sub(1);
            if bell.waiters == 0 {
                waiters.bells.remove(name);
            }
        }
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits; gives the place back when dropped.
#[derive(Debug)]
pub struct Waiter<'w> {
    waiting: &'w Waiting,
    name: String,
    bell: Arc<Notify>,
}

impl Waiter<'_> {
    /// Resolves at the next ring after this call, so that a look between the two misses nothing.
    pub fn rung(&self) -> Notified<'_> {
        self.bell.notified()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.waiting.leave(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_done(future: impl Future) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(future).poll(&mut context).is_ready()
    }

    #[test]
    fn a_ring_wakes_those_who_wait_for_that_name() {
        let waiting = Waiting::default();
        let desk = waiting.enter("desk", 9).expect("a place");
        let other = waiting.enter("other", 9).expect("a place");
        let (at_desk, at_other) = (desk.rung(), other.rung());
        waiting.ring(["shell", "desk"]);

        assert!(is_done(at_desk));
        assert!(!is_done(at_other));
        assert!(!is_done(desk.rung()), "it is over");
    }

    #[test]
    fn so_many_wait_and_leave_nothing_behind() {
        let waiting = Waiting::default();
        let one = waiting.enter("desk", 2).expect("a place");
        let two = waiting.enter("desk", 2).expect("a place");
        assert!(waiting.enter("other", 2).is_none());

        drop(one);
        assert!(waiting.enter("other", 2).is_some());
        drop(two);
        assert!(waiting.waiters().bells.is_empty());
    }
}
