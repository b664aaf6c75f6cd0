//! Tells those in this process who listen to a key: each has a queue of its own, and who lets it fill up is told that
//! something is missing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{self, Receiver, Sender, error::TrySendError};

use crate::key::{Key, Prefix};

/// Who listens.
#[derive(Debug)]
pub(crate) struct Hub<T>(Mutex<Vec<Listener<T>>>);

#[derive(Debug)]
struct Listener<T> {
    prefix: Prefix,
    queue: Sender<T>,
    gap: Arc<AtomicBool>,
}

/// What one listener has to hear.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    queue: Receiver<T>,
    gap: Arc<AtomicBool>,
}

/// What a listener is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told<T> {
    Item(T),
    /// Something was left out, because the queue was full.
    Gap,
}

impl<T> Default for Hub<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Hub<T> {
    /// Listens from now on, with room for `most` that wait (more than zero).
    pub(crate) fn listen(&self, prefix: Prefix, most: usize) -> Inbox<T> {
        let (sender, queue) = mpsc::channel(most);
        let gap = Arc::new(AtomicBool::new(false));
        let listener = Listener {
            prefix,
            queue: sender,
            gap: Arc::clone(&gap),
        };
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| !listener.queue.is_closed());
        listeners.push(listener);
        Inbox { queue, gap }
    }

    /// Tells `item` to all who listen to `key`, and how many those are.
    pub(crate) fn tell(&self, key: &Key, item: &T) -> usize {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut heard = 0_usize;
        listeners.retain(|listener| {
            if !listener.prefix.holds(key) {
                return true;
            }
            match listener.queue.try_send(item.clone()) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => listener.gap.store(true, Ordering::Release),
                Err(TrySendError::Closed(_)) => return false,
            }
            heard = heard.saturating_add(1);
            true
        });
        heard
    }
}

impl<T> Inbox<T> {
    /// Leaves out what waits, for whoever has learnt all of it in another way.
    pub(crate) fn forget(&mut self) {
        while self.queue.try_recv().is_ok() {}
    }

    /// The next item, or that some are missing; none when the hub is gone. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<Told<T>> {
        // A full queue is never empty, so whoever missed something always comes by here.
        if self.gap.swap(false, Ordering::Acquire) {
            return Some(Told::Gap);
        }
        self.queue.recv().await.map(Told::Item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        text.parse().expect("a key")
    }

    #[tokio::test]
    async fn each_hears_what_it_listens_to_while_it_listens() {
        let hub = Hub::default();
        let mut a = hub.listen("a".parse().expect("a prefix"), 8);
        let all = hub.listen(Prefix::all(), 8);

        assert_eq!(hub.tell(&key("a/x"), &1), 2);
        drop(all);
        assert_eq!(hub.tell(&key("b/x"), &2), 0);
        assert_eq!(hub.tell(&key("a/y"), &3), 1);

        assert_eq!(a.next().await, Some(Told::Item(1)));
        assert_eq!(a.next().await, Some(Told::Item(3)));
        drop(hub);
        assert_eq!(a.next().await, None);
    }

    #[tokio::test]
    async fn who_is_too_slow_is_told_so_and_holds_up_nobody() {
        let hub = Hub::default();
        let mut slow = hub.listen(Prefix::all(), 2);
        for n in 0..5 {
            assert_eq!(hub.tell(&key("a"), &n), 1);
        }

        assert_eq!(slow.next().await, Some(Told::Gap));
        assert_eq!(slow.next().await, Some(Told::Item(0)));
        assert_eq!(slow.next().await, Some(Told::Item(1)));
        hub.tell(&key("a"), &9);
        assert_eq!(slow.next().await, Some(Told::Item(9)));
    }
}
