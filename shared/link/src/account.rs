//! What the other side has taken of each stream, so that one whose tunnel is lost can go on at the right byte.
//!
//! A transport acknowledges what has reached a machine; this is what the reader there has taken. Readers tell it on the
//! control stream, alike over both transports: QUIC keeps its own credit to itself, and that of the mux comes by half
//! windows and never for the last bytes of a stream. It is told rarely, and for many streams at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sallyport_wire::message::{Ack, Taken};
use tokio::sync::Notify;

use crate::life::to_u64;
use crate::settings::Settings;

/// Streams that one message tells about: a third of what would fit.
const TOGETHER: usize = 1_024;

/// The accounts of a tunnel's streams.
#[derive(Debug)]
pub(crate) struct Accounts {
    every: u64,
    most_due: usize,
    /// What our readers have taken, by streams of which that is to be told.
    due: Mutex<BTreeMap<u64, u64>>,
    fell_due: Notify,
    /// What their readers have taken, by streams that are open here.
    told: Mutex<HashMap<u64, Arc<AtomicU64>>>,
}

impl Accounts {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            every: to_u64(settings.ack_every).max(1),
            most_due: settings.acks,
            due: Mutex::default(),
            fell_due: Notify::new(),
            told: Mutex::default(),
        }
    }

    /// Opens a stream's account.
    pub(crate) fn open(self: &Arc<Self>, number: u64) -> Account {
        let theirs = Arc::new(AtomicU64::new(0));
        locked(&self.told).insert(number, Arc::clone(&theirs));
        Account {
            number,
            read: 0,
            told: 0,
            sent: 0,
            theirs,
            accounts: Arc::clone(self),
        }
    }

    /// Waits until there is something to tell.
    pub(crate) async fn due(&self) -> Ack {
        loop {
            let fell_due = self.fell_due.notified();
            if let Some(ack) = self.take_due() {
                return ack;
            }
            fell_due.await;
        }
    }

    fn take_due(&self) -> Option<Ack> {
        let mut due = locked(&self.due);
        let mut taken = Vec::with_capacity(due.len().min(TOGETHER));
        while taken.len() < TOGETHER
            && let Some((stream, bytes)) = due.pop_first()
        {
            taken.push(Taken { stream, bytes });
        }
        (!taken.is_empty()).then_some(Ack { taken })
    }

    /// The other side tells. What concerns a stream that is over here is of no use any more.
    pub(crate) fn hear(&self, ack: &Ack) {
        let told = locked(&self.told);
        for taken in &ack.taken {
            if let Some(theirs) = told.get(&taken.stream) {
                theirs.fetch_max(taken.bytes, Ordering::Relaxed);
            }
        }
    }

    /// Has it told; false if too many streams wait for that.
    fn tell(&self, number: u64, read: u64) -> bool {
        let mut due = locked(&self.due);
        if due.len() >= self.most_due && !due.contains_key(&number) {
            return false;
        }
        due.insert(number, read);
        self.fell_due.notify_one();
        true
    }
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The account of one stream: bytes of payload both ways.
#[derive(Debug)]
pub(crate) struct Account {
    number: u64,
    read: u64,
    /// What of it was told.
    told: u64,
    sent: u64,
    theirs: Arc<AtomicU64>,
    accounts: Arc<Accounts>,
}

impl Account {
    /// So many bytes were read here; none is the end.
    pub(crate) fn was_read(&mut self, bytes: usize) {
        self.read += to_u64(bytes);
        let untold = self.read - self.told;
        let due = untold >= self.accounts.every || (bytes == 0 && untold > 0);
        if due && self.accounts.tell(self.number, self.read) {
            self.told = self.read;
        }
    }

    /// So many bytes were sent from here.
    pub(crate) fn was_sent(&mut self, bytes: usize) {
        self.sent += to_u64(bytes);
    }

    /// What the other side's reader has taken of that. Whatever it says, it cannot have taken more.
    pub(crate) fn taken(&self) -> u64 {
        self.theirs.load(Ordering::Relaxed).min(self.sent)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        locked(&self.accounts.told).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn accounts() -> Arc<Accounts> {
        let settings = Settings {
            ack_every: 100,
            acks: 2_000,
            ..Settings::relay()
        };
        Arc::new(Accounts::new(&settings))
    }

    fn told(accounts: &Accounts) -> Vec<(u64, u64)> {
        let ack = accounts.due().now_or_never().unwrap_or_default();
        let told = ack.taken.into_iter();
        told.map(|taken| (taken.stream, taken.bytes)).collect()
    }

    #[test]
    fn it_is_told_once_enough_was_read_and_at_the_end() {
        let accounts = accounts();
        let mut account = accounts.open(4);
        account.was_read(99);
        assert_eq!(told(&accounts), []);
        account.was_read(1);
        account.was_read(150);
        assert_eq!(told(&accounts), [(4, 250)]);
        account.was_read(7);
        assert_eq!(told(&accounts), []);
        account.was_read(0);
        account.was_read(0);
        assert_eq!(told(&accounts), [(4, 257)]);
        assert_eq!(told(&accounts), []);
    }

    #[test]
    fn one_message_tells_about_many_streams_and_not_about_too_many() {
        let accounts = accounts();
        let mut open: Vec<_> = (0..2_010).map(|number| accounts.open(number)).collect();
        for account in &mut open {
            account.was_read(100);
        }
        let first = told(&accounts);
        assert_eq!((first.len(), first[0]), (TOGETHER, (0, 100)));
        assert_eq!(told(&accounts).len(), 2_000 - TOGETHER, "the rest waits");
        let last = &mut open[2_009];
        last.was_read(1);
        assert_eq!(told(&accounts), [(2_009, 101)], "it is told later");
    }

    #[test]
    fn nobody_can_have_taken_more_than_was_sent_or_give_it_back() {
        let accounts = accounts();
        let mut account = accounts.open(4);
        account.was_sent(500);
        for (bytes, taken) in [(300, 300), (200, 300), (1_000, 500)] {
            let told = Taken { stream: 4, bytes };
            let stranger = Taken { stream: 6, bytes };
            accounts.hear(&Ack {
                taken: vec![told, stranger],
            });
            assert_eq!(account.taken(), taken);
        }
    }

    #[test]
    fn what_is_over_leaves_nothing_behind() {
        let accounts = accounts();
        drop(accounts.open(4));
        assert!(locked(&accounts.told).is_empty());
    }
}
