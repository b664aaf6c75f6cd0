//! Connections that nobody knows yet, in limited number: when there are too many, one at random goes.
//!
//! Dropping one that waits rather than the one that comes keeps the door open: whoever fills it with silent
//! connections loses those, and a client that finishes its handshake in time is hardly ever the one.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use sallyport_ops::Slots;
use tokio::sync::watch;

/// Connections that are not established yet.
#[derive(Debug, Clone)]
pub struct Newcomers {
    waiting: Arc<Waiting>,
    slots: Slots,
}

#[derive(Debug)]
struct Waiting {
    most: usize,
    chance: RandomState,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    last: u64,
    present: Vec<(u64, watch::Sender<bool>)>,
}

/// One connection's place among them; given back when dropped.
#[derive(Debug)]
pub struct Newcomer {
    number: u64,
    gone: watch::Receiver<bool>,
    waiting: Arc<Waiting>,
}

impl Newcomers {
    /// Room for `most`, of which one source may take `per_source`.
    pub fn new(most: usize, per_source: usize, exempt: Vec<IpNet>) -> Self {
        let waiting = Waiting {
            most,
            chance: RandomState::new(),
            list: Mutex::new(List::default()),
        };
        // Those that were told to go hold their slots a moment longer.
        let slots = Slots::new(most.saturating_mul(2), per_source, exempt);
        Self {
            waiting: Arc::new(waiting),
            slots,
        }
    }

    /// Slots for the sockets themselves.
    pub fn slots(&self) -> Slots {
        self.slots.clone()
    }

    /// Takes a connection in; if that is one too many, another one is told to go.
    pub fn enter(&self) -> Newcomer {
        let mut list = self.waiting.list();
        list.last = list.last.wrapping_add(1);
        let number = list.last;
        if list.present.len() >= self.waiting.most {
            let unlucky = self.waiting.chance.hash_one(number);
            let place = usize::try_from(unlucky).unwrap_or(0) % list.present.len().max(1);
            if place < list.present.len() {
                let (_, tell) = list.present.swap_remove(place);
                tell.send_replace(true);
            }
        }
        let (tell, gone) = watch::channel(false);
        list.present.push((number, tell));
        drop(list);
        Newcomer {
            number,
            gone,
            waiting: Arc::clone(&self.waiting),
        }
    }
}

impl Waiting {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Newcomer {
    /// Resolves when this connection is to go.
    pub async fn dropped(&self) {
        let mut gone = self.gone.clone();
        // The sender goes only after it has told.
        let _told_or_gone = gone.wait_for(|gone| *gone).await.is_ok();
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.waiting
            .list()
            .present
            .retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn is_dropped(newcomer: &Newcomer) -> bool {
        timeout(Duration::from_millis(1), newcomer.dropped())
            .await
            .is_ok()
    }

    async fn dropped(newcomers: &[Newcomer]) -> usize {
        let mut count = 0;
        for newcomer in newcomers {
            count += usize::from(is_dropped(newcomer).await);
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_stays_and_one_of_the_others_goes() {
        let newcomers = Newcomers::new(4, 100, Vec::new());
        let mut all: Vec<_> = (0..4).map(|_| newcomers.enter()).collect();
        assert_eq!(dropped(&all).await, 0);

        for surplus in 1..=3 {
            all.push(newcomers.enter());
            assert_eq!(dropped(&all).await, surplus);
            assert!(!is_dropped(&all[3 + surplus]).await, "the newest stays");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_given_back() {
        let newcomers = Newcomers::new(2, 100, Vec::new());
        let first = newcomers.enter();
        drop(newcomers.enter());
        let third = newcomers.enter();

        assert_eq!(dropped(&[first, third]).await, 0);
    }
}
