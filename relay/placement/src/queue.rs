//! What waits for a server because none is free: in the store, in turn, and seen by every relay as it changes.
//!
//! One relay of all [runs](run) it. Modules use only modules that stand below them.

mod runner;
mod line;
mod users;
mod ticket;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sallyport_cluster::{ClusterError, ClusterKey, Distrust, Key, NotAKey, Prefix, Seal, Store};
use sallyport_ops::Tasks;
use serde_json::Value;
use tokio::sync::watch;
use tracing::{info, info_span};

use self::line::Line;
use self::users::Users;
use crate::values::{Decision, Unchangeable, Values};

pub use line::{Placed, Waiting};
pub use runner::{Failure, MOST_ATTEMPTS, Starter, run};
pub use ticket::{State, Ticket};

/// After so long nobody waits any more.
pub const WAITS_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A value is believed for so long by its own word: longer than anything waits, with clocks that differ.
const GOOD_FOR: Duration = Duration::from_secs(8 * 24 * 60 * 60);

/// Longest description of what is to be started, in bytes.
pub const MAX_WHAT: usize = 16 << 10;

/// Longest name of a user, in bytes.
const MAX_USER: usize = 256;

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of all users together.
    pub all: usize,
    /// Of one user.
    pub per_user: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            all: 1000,
            per_user: 20,
        }
    }
}

/// Why something does not wait, or is not changed. The text is for whoever asked for it.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// No more may wait.
    #[error("{0} wait already, and no more may: try again later")]
    Full(usize),
    /// No more of this user may wait.
    #[error("you have {0} waiting already, and may have no more: cancel some, or try again later")]
    FullForUser(usize),
    /// What is to be started cannot be kept.
    #[error("what is to be started takes {0} bytes: at most {MAX_WHAT} are kept")]
    TooLarge(usize),
    /// The name of a user is empty or too long.
    #[error("the name of a user has 1 to {MAX_USER} bytes")]
    User,
    /// Nothing has this name.
    #[error("nothing with the id `{0}` waits: see `queue list`")]
    NoTicket(String),
    /// It is too late.
    #[error("`{id}` is just being started on {server}: end the session instead, once it is there")]
    Starting {
        /// What was named.
        id: String,
        /// Where.
        server: String,
    },
    /// The store cannot tell.
    #[error("the queue cannot be used now: {0}")]
    Store(#[from] ClusterError),
    /// There is nothing to sign with.
    #[error("nothing can wait without a cluster key: copy cluster-keys.json beside relay.toml")]
    NoKey,
    /// What the store has is not from this cluster.
    #[error("what the store says of it is not believed: {0}")]
    Distrusted(#[from] Distrust),
    /// Others changed it all the time.
    #[error("too many change it at once: try again")]
    Busy,
    /// Never: names of the queue's own are keys.
    #[error(transparent)]
    Key(#[from] NotAKey),
}

impl From<Unchangeable<Self>> for QueueError {
    fn from(cause: Unchangeable<Self>) -> Self {
        match cause {
            Unchangeable::Refused(error) => error,
            Unchangeable::Store(error) => error.into(),
            Unchangeable::NoKey => Self::NoKey,
            Unchangeable::Distrusted(cause) => cause.into(),
            Unchangeable::Busy => Self::Busy,
        }
    }
}

/// The queue, as one relay sees it. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    values: Values<Ticket>,
    all: Prefix,
    limits: Mutex<Limits>,
    users: Users,
    line: Line,
}

impl Queue {
    /// The one in `store`.
    ///
    /// # Errors
    /// [`NotAKey`], never.
    pub fn new(store: Arc<dyn Store>, seal: Seal) -> Result<Self, NotAKey> {
        Ok(Self(Arc::new(Shared {
            values: Values::new(store, seal, GOOD_FOR),
            all: "queue".parse()?,
            limits: Mutex::default(),
            users: Users::default(),
            line: Line::new(),
        })))
    }

    /// How much may wait from now on; what waits already stays.
    pub fn limit(&self, limits: Limits) {
        *self.0.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Signs and checks with other keys from now on.
    pub fn rotate(&self, keys: &[ClusterKey]) {
        self.0.values.seal.rotate(keys);
        self.0.users.forget();
        self.0.line.judge_again();
    }

    /// Follows the store from now on.
    pub fn follow(&self, tasks: &Tasks) {
        tasks.spawn(info_span!("queue"), line::follow(self.clone()));
    }

    /// What waits as far as it is followed, in turn, and every change of that.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Waiting>> {
        self.0.line.changes()
    }

    /// What waits, as the store has it now, in turn.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    pub async fn list(&self) -> Result<Waiting, QueueError> {
        let entries = self.0.values.store.list(&self.0.all).await?;
        let tickets = entries
            .iter()
            .filter_map(|entry| self.0.values.open(entry).ok());
        Ok(line::placed(tickets))
    }

    /// Has something wait: what it is, whose, and why it is not started at once.
    ///
    /// # Errors
    /// [`QueueError`]. Two relays that are asked at the same instant may let one more wait each.
    pub async fn submit(
        &self,
        user: &str,
        what: Value,
        reason: &str,
    ) -> Result<Ticket, QueueError> {
        if !(1..=MAX_USER).contains(&user.len()) {
            return Err(QueueError::User);
        }
        let bytes = what.to_string().len();
        if bytes > MAX_WHAT {
            return Err(QueueError::TooLarge(bytes));
        }
        self.check_room(user).await?;
        let ticket = Ticket::new(nonce(), user.to_owned(), what, reason);
        let key = self.key(&ticket.id)?;
        let read = |entry: &_| self.0.values.open(entry);
        let put = self.0.values.change(&key, read, |there| {
            Ok::<_, QueueError>(match there {
                // it was made, though nobody said so
                Some(_) => Decision::Keep(()),
                None => Decision::Put(ticket.clone(), ()),
            })
        });
        put.await?;
        info!(id = %ticket.id, user, reason, "something waits for a server");
        Ok(ticket)
    }

    async fn check_room(&self, user: &str) -> Result<(), QueueError> {
        let limits = *self.0.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = self.0.values.store.list(&self.0.all).await?;
        let (all, own) = self.0.users.count(&entries, user, |entry| {
            self.0.values.open(entry).ok().map(|ticket| ticket.user)
        });
        if all >= limits.all {
            return Err(QueueError::Full(all));
        }
        if own >= limits.per_user {
            return Err(QueueError::FullForUser(own));
        }
        Ok(())
    }

    /// Leaves something out until it is released; its place is kept.
    ///
    /// # Errors
    /// [`QueueError::NoTicket`], [`QueueError::Starting`], or what keeps it from being changed.
    pub async fn hold(&self, id: &str) -> Result<Ticket, QueueError> {
        let held = self.change(id, |ticket| {
            Ok(match ticket.state {
                State::Held => Decision::Keep(ticket),
                State::Waiting | State::Starting { .. } => {
                    let held = ticket.with(State::Held, "held by command");
                    Decision::Put(held.clone(), held)
                }
            })
        });
        held.await
    }

    /// Lets something wait again that was held.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub async fn release(&self, id: &str) -> Result<Ticket, QueueError> {
        let released = self.change(id, |ticket| {
            Ok(match ticket.state {
                State::Held => {
                    let mut waiting = ticket.with(State::Waiting, "released by command");
                    waiting.attempts = 0;
                    Decision::Put(waiting.clone(), waiting)
                }
                State::Waiting | State::Starting { .. } => Decision::Keep(ticket),
            })
        });
        released.await
    }

    /// Takes something out of the queue for good.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub async fn cancel(&self, id: &str) -> Result<Ticket, QueueError> {
        self.change(id, |ticket| Ok(Decision::Remove(ticket))).await
    }

    /// Changes what is not being started.
    async fn change(
        &self,
        id: &str,
        mut decide: impl FnMut(Ticket) -> Result<Decision<Ticket, Ticket>, QueueError>,
    ) -> Result<Ticket, QueueError> {
        let changed = self.decide(id, |ticket| {
            let ticket = ticket.ok_or_else(|| QueueError::NoTicket(shown(id)))?;
            if let State::Starting { server, .. } = &ticket.state {
                return Err(QueueError::Starting {
                    id: ticket.id.clone(),
                    server: server.to_string(),
                });
            }
            decide(ticket)
        });
        let ticket = changed.await?;
        info!(id = %ticket.id, user = %ticket.user, state = ?ticket.state, "what waits was changed by command");
        Ok(ticket)
    }

    async fn decide<T>(
        &self,
        id: &str,
        decide: impl FnMut(Option<Ticket>) -> Result<Decision<Ticket, T>, QueueError>,
    ) -> Result<T, QueueError> {
        let Ok(key) = self.key(id) else {
            return Err(QueueError::NoTicket(shown(id)));
        };
        let read = |entry: &_| self.0.values.open(entry);
        let decided = self.0.values.change(&key, read, decide).await?;
        Ok(decided.outcome)
    }

    fn key(&self, id: &str) -> Result<Key, NotAKey> {
        self.0.all.key(id)
    }
}

fn shown(id: &str) -> String {
    let cut: String = id.chars().take(80).collect();
    cut.escape_debug().to_string()
}

/// A name that nothing else has.
fn nonce() -> String {
    format!("{:016x}", RandomState::new().hash_one(()))
}

#[cfg(test)]
mod tests;
