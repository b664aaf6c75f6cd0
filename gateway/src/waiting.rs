//! Requests that came before their relay did: each waits for one name, and few wait at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sallyport_wire::ClusterName;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Who waits, by cluster and the name of a session or pool.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<Waiters>);

#[derive(Debug, Default)]
struct Waiters {
    bells: HashMap<ClusterName, HashMap<String, Bell>>,
    count: usize,
}

/// What those are woken by who wait for one name, and how many they are.
#[derive(Debug, Default)]
struct Bell {
    bell: Arc<Notify>,
    waiters: usize,
}

impl Waiting {
    /// A place among those who wait for `name` of a cluster; none if `most` wait already, for whatever.
    pub fn enter(&self, cluster: &ClusterName, name: &str, most: usize) -> Option<Waiter<'_>> {
        let mut waiters = self.waiters();
        if waiters.count >= most {
            return None;
        }
        waiters.count += 1;
        let bells = waiters.bells.entry(cluster.clone()).or_default();
        let bell = bells.entry(name.to_owned()).or_default();
        bell.waiters += 1;
        Some(Waiter {
            waiting: self,
            cluster: cluster.clone(),
            name: name.to_owned(),
            bell: Arc::clone(&bell.bell),
        })
    }

    /// Wakes everybody who waits for one of these names of a cluster.
    pub fn ring(&self, cluster: &ClusterName, names: impl IntoIterator<Item = impl AsRef<str>>) {
        let waiters = self.waiters();
        let Some(bells) = waiters.bells.get(cluster) else {
            return;
        };
        for name in names {
            if let Some(bell) = bells.get(name.as_ref()) {
                bell.bell.notify_waiters();
            }
        }
    }

    fn leave(&self, cluster: &ClusterName, name: &str) {
        let mut waiters = self.waiters();
        waiters.count = waiters.count.saturating_sub(1);
        let Some(bells) = waiters.bells.get_mut(cluster) else {
            return;
        };
        if let Some(bell) = bells.get_mut(name) {
            bell.waiters = bell.waiters.saturating_sub(1);
            if bell.waiters == 0 {
                bells.remove(name);
            }
        }
        if bells.is_empty() {
            waiters.bells.remove(cluster);
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
    cluster: ClusterName,
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
        self.waiting.leave(&self.cluster, &self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    const CLUSTER: &ClusterName = &ClusterName::DEFAULT;

    fn is_done(future: impl Future) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(future).poll(&mut context).is_ready()
    }

    #[test]
    fn a_ring_wakes_those_who_wait_for_that_name() {
        let waiting = Waiting::default();
        let desk = waiting.enter(CLUSTER, "desk", 9).expect("a place");
        let other = waiting.enter(CLUSTER, "other", 9).expect("a place");
        let bio: ClusterName = "bio".parse().expect("a name");
        let namesake = waiting.enter(&bio, "desk", 9).expect("a place");
        let (at_desk, at_other, at_namesake) = (desk.rung(), other.rung(), namesake.rung());
        waiting.ring(CLUSTER, ["shell", "desk"]);

        assert!(is_done(at_desk));
        assert!(!is_done(at_other));
        assert!(!is_done(at_namesake));
        assert!(!is_done(desk.rung()), "it is over");
    }

    #[test]
    fn so_many_wait_and_leave_nothing_behind() {
        let waiting = Waiting::default();
        let one = waiting.enter(CLUSTER, "desk", 2).expect("a place");
        let two = waiting.enter(CLUSTER, "desk", 2).expect("a place");
        assert!(waiting.enter(CLUSTER, "other", 2).is_none());

        drop(one);
        assert!(waiting.enter(CLUSTER, "other", 2).is_some());
        drop(two);
        assert!(waiting.waiters().bells.is_empty());
    }
}
