//! Tells those in this process who listen to a key: each has a queue of its own, and who lets it fill up is told that
//! something is missing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::mpsc::{self, Receiver, Sender, error::TrySendError};

use crate::key::{Key, Prefix};

/// Who listens.
#[derive(Debug)]
pub(crate) struct Hub<T>(Mutex<Vec<(Prefix, Outbox<T>)>>);

/// Where the items for one listener are put. None is waited for.
#[derive(Debug)]
pub(crate) struct Outbox<T> {
    queue: Sender<T>,
    gap: Arc<Gap>,
}

/// What one listener has to hear.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    queue: Receiver<T>,
    gap: Arc<Gap>,
}

/// Whether something is missing, and who is to be woken by it.
#[derive(Debug, Default)]
struct Gap {
    is: AtomicBool,
    told: Notify,
}

/// What a listener is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told<T> {
    Item(T),
    /// Something was left out.
    Gap,
}

/// A queue in which `most` items wait (more than zero).
pub(crate) fn queue<T>(most: usize) -> (Outbox<T>, Inbox<T>) {
    let (sender, receiver) = mpsc::channel(most);
    let gap = Arc::default();
    let outbox = Outbox {
        queue: sender,
        gap: Arc::clone(&gap),
    };
    let inbox = Inbox {
        queue: receiver,
        gap,
    };
    (outbox, inbox)
}

impl<T> Default for Hub<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Hub<T> {
    /// Listens from now on, with room for `most` that wait (more than zero).
    pub(crate) fn listen(&self, prefix: Prefix, most: usize) -> Inbox<T> {
        let (outbox, inbox) = queue(most);
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|(_, outbox)| !outbox.is_closed());
        listeners.push((prefix, outbox));
        inbox
    }

    /// Tells `item` to all who listen to `key`, and how many those are.
    pub(crate) fn tell(&self, key: &Key, item: &T) -> usize {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut heard = 0_usize;
        listeners.retain(|(prefix, outbox)| {
            if !prefix.holds(key) {
                return true;
            }
            let hears = outbox.push(item.clone());
            heard = heard.saturating_add(usize::from(hears));
            hears
        });
        heard
    }
}

impl<T> Outbox<T> {
    /// Whether somebody still listens. An item that finds the queue full is left out, and that is told.
    pub(crate) fn push(&self, item: T) -> bool {
        match self.queue.try_send(item) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.gap(),
            Err(TrySendError::Closed(_)) => return false,
        }
        true
    }

    /// Tells that something is missing.
    pub(crate) fn gap(&self) {
        self.gap.is.store(true, Ordering::Release);
        self.gap.told.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Until nobody listens any more.
    pub(crate) async fn closed(&self) {
        self.queue.closed().await;
    }
}

impl<T> Inbox<T> {
    /// Leaves out what waits, for whoever has learnt all of it in another way.
    pub(crate) fn forget(&mut self) {
        while self.queue.try_recv().is_ok() {}
    }

    /// The next item, or that some are missing; none when nothing can come any more. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<Told<T>> {
        loop {
            if self.gap.is.swap(false, Ordering::Acquire) {
                return Some(Told::Gap);
            }
            tokio::select! {
                biased;
                () = self.gap.told.notified() => {}
                item = self.queue.recv() => return item.map(Told::Item),
            }
        }
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

    #[tokio::test]
    async fn a_gap_is_told_to_who_waits() {
        let (outbox, mut inbox) = queue::<()>(1);
        let telling = async { outbox.gap() };
        let (told, ()) = tokio::join!(inbox.next(), telling);
        assert_eq!(told, Some(Told::Gap));
    }
}
