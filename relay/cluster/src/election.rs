//! Which of many processes does what only one may do: it holds a lease, and another one takes over once that is free.

use std::hash::{BuildHasher as _, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::clock::Moment;
use crate::error::ClusterError;
use crate::key::{Key, NotAKey, Prefix};
use crate::lease::{Lease, LeaseError, Leases, taken};
use crate::store::{Change, Entry, Store};

/// Between two tries while the store does not answer.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What giving the seat back may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// By how much less than others a candidate waits, as a part of the time to live: they do not all ask at once.
const SPREAD: u32 = 20;

/// The time for which a process has the seat, as it stands now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    token: u64,
    until: Moment,
}

/// Who has the seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seat {
    /// Nobody, or the store cannot tell.
    Unknown,
    /// Another process, as it calls itself.
    Other(String),
    /// This one.
    Own(Term),
}

/// A seat that this process stands for. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Election(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Arc<dyn Store>,
    leases: Leases,
    seats: Prefix,
    key: Key,
    name: String,
    ttl: Duration,
    seat: watch::Sender<Seat>,
}

impl Term {
    /// The fencing token: higher than that of everyone who had the seat before.
    #[must_use]
    pub const fn token(&self) -> u64 {
        self.token
    }

    /// Whether nobody else can have the seat yet.
    #[must_use]
    pub fn is_held(&self) -> bool {
        Moment::now() < self.until
    }
}

impl Election {
    /// For the seat under `key`, one of `seats`, in the name of `name`. Nobody stands yet. A holder that ends without a word
    /// is followed after `ttl`.
    ///
    /// # Errors
    /// [`NotAKey`] if `seat` is no word of a key.
    pub fn new(
        store: Arc<dyn Store>,
        seats: &Prefix,
        seat: &str,
        name: &str,
        ttl: Duration,
    ) -> Result<Self, NotAKey> {
        Ok(Self(Arc::new(Shared {
            leases: Leases::new(Arc::clone(&store)),
            store,
            seats: seats.clone(),
            key: seats.key(seat)?,
            name: name.to_owned(),
            ttl,
            seat: watch::Sender::new(Seat::Unknown),
        })))
    }

    /// Who has the seat, and whoever gets it.
    #[must_use]
    pub fn seat(&self) -> watch::Receiver<Seat> {
        self.0.seat.subscribe()
    }

    /// Takes the seat whenever it is free and keeps it, until `leaving` is there: then it is given back.
    pub async fn stand(self, leaving: impl Future<Output = ()>) {
        let mut leaving = pin!(leaving);
        loop {
            let mut lease = tokio::select! {
                () = &mut leaving => return,
                lease = self.win() => lease,
            };
            let leaves = tokio::select! {
                () = &mut leaving => true,
                () = self.keep(&mut lease) => false,
            };
            self.tell(Seat::Unknown);
            if leaves {
                // else it is free when its time is over
                return drop(timeout(LEAVE_WITHIN, self.0.leases.release(lease)).await);
            }
            warn!(seat = %self.0.key, "the seat was lost: another relay may have it now");
        }
    }

    async fn win(&self) -> Lease {
        let shared = &self.0;
        loop {
            match shared
                .leases
                .take(&shared.key, &shared.name, shared.ttl)
                .await
            {
                Ok(lease) => {
                    info!(seat = %shared.key, token = lease.token(), "the seat is this relay's");
                    return lease;
                }
                Err(LeaseError::Taken(taken)) => self.tell(Seat::Other(taken.holder)),
                Err(error) => {
                    debug!(seat = %shared.key, %error, "the seat cannot be asked for now");
                    self.tell(Seat::Unknown);
                }
            }
            if let Err(error) = self.vacancy().await {
                debug!(seat = %shared.key, %error, "the seat cannot be watched now");
                self.tell(Seat::Unknown);
                sleep(AGAIN_AFTER).await;
            }
        }
    }

    /// Until the seat may be free.
    async fn vacancy(&self) -> Result<(), ClusterError> {
        let shared = &self.0;
        let mut watch = shared.store.watch(&shared.seats).await?;
        let mut free_at = None;
        loop {
            let changed = tokio::select! {
                changed = watch.next() => changed?,
                () = reached(free_at) => break,
            };
            let held = match changed {
                Change::Snapshot(entries) => {
                    entries.into_iter().find(|entry| entry.key == shared.key)
                }
                Change::Put(entry) if entry.key == shared.key => Some(entry),
                Change::Deleted(key) if key == shared.key => None,
                Change::Put(_) | Change::Deleted(_) => continue,
            };
            match held {
                Some(held) => free_at = Some(self.notice(&held)),
                None => break,
            }
        }
        sleep(spread(shared.ttl / SPREAD)).await;
        Ok(())
    }

    /// When the seat is free, if its holder says nothing more.
    fn notice(&self, held: &Entry) -> Moment {
        self.tell(Seat::Other(taken(held).holder));
        Moment::now().after(self.0.leases.free_in(held))
    }

    /// Until the seat is lost.
    async fn keep(&self, lease: &mut Lease) {
        loop {
            self.tell(Seat::Own(Term {
                token: lease.token(),
                until: lease.until(),
            }));
            lease.renew_at().reached().await;
            while let Err(error) = self.0.leases.renew(lease).await {
                debug!(seat = %self.0.key, %error, "the seat was not renewed");
                if matches!(error, LeaseError::Lost(_)) || !lease.is_held() {
                    return;
                }
                sleep(AGAIN_AFTER.min(self.0.ttl / SPREAD)).await;
            }
        }
    }

    fn tell(&self, seat: Seat) {
        self.0.seat.send_if_modified(|now| {
            let news = *now != seat;
            *now = seat;
            news
        });
    }
}

async fn reached(moment: Option<Moment>) {
    match moment {
        Some(moment) => moment.reached().await,
        None => std::future::pending().await,
    }
}

/// By chance up to `most`.
fn spread(most: Duration) -> Duration {
    let most = u64::try_from(most.as_micros()).unwrap_or(1).max(1);
    Duration::from_micros(RandomState::new().hash_one(()) % most)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tempfile::TempDir;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{Embedded, Limits};

    const TTL: Duration = Duration::from_secs(10);

    fn store() -> (TempDir, Arc<Embedded>) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Embedded::open(&dir.path().join("store"), Limits::default()).expect("a store");
        (dir, Arc::new(store))
    }

    fn candidate(store: &Arc<Embedded>, name: &str) -> Election {
        let seats = "seats".parse().expect("a prefix");
        Election::new(Arc::clone(store) as _, &seats, "queue", name, TTL).expect("keys")
    }

    async fn term(election: &Election) -> Term {
        let mut seat = election.seat();
        let own = seat.wait_for(|seat| matches!(seat, Seat::Own(_))).await;
        match *own.expect("it stands") {
            Seat::Own(term) => term,
            Seat::Unknown | Seat::Other(_) => panic!("it was waited for"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_takes_over_within_the_time_to_live_with_a_higher_token() {
        let (_dir, store) = store();
        let (one, other) = (candidate(&store, "one"), candidate(&store, "other"));
        let mut first = Box::pin(one.clone().stand(pending()));
        let won = tokio::select! {
            () = &mut first => panic!("it stands for ever"),
            term = term(&one) => term,
        };
        let mut second = Box::pin(other.clone().stand(pending()));
        let mut seen = other.seat();
        let long = sleep(TTL * 5);
        tokio::select! {
            () = &mut first => panic!("it stands for ever"),
            () = &mut second => panic!("it stands for ever"),
            () = long => {}
        }
        assert_eq!(*seen.borrow_and_update(), Seat::Other("one".to_owned()));

        drop(first); // as if it was killed
        let killed = Moment::now();
        let next = tokio::select! {
            () = &mut second => panic!("it stands for ever"),
            term = term(&other) => term,
        };

        let took = Moment::now().since(killed);
        assert!(took <= TTL + TTL / SPREAD, "{took:?}");
        assert!(next.token() > won.token() && next.is_held());
        assert!(!matches!(*one.seat().borrow(), Seat::Own(term) if term.is_held()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_gives_the_seat_back_at_once() {
        let (_dir, store) = store();
        let (one, other) = (candidate(&store, "one"), candidate(&store, "other"));
        let (leave, leaving) = oneshot::channel::<()>();
        let standing = one.clone().stand(async { drop(leaving.await) });
        let mut standing = Box::pin(standing);
        tokio::select! {
            () = &mut standing => panic!("nobody asked it to leave"),
            _term = term(&one) => {}
        }
        leave.send(()).expect("it stands");
        standing.await;
        let left = Moment::now();

        let second = other.clone().stand(pending());
        tokio::select! {
            () = second => panic!("it stands for ever"),
            _term = term(&other) => {}
        }
        assert!(Moment::now().since(left) < Duration::from_secs(1));
    }
}
