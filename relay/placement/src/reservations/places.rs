//! The values of servers in the store: read, judged, and changed by compare-and-set.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sallyport_cluster::{
    ClusterError, Distrust, Entry, Key, NotAKey, Prefix, Revision, Seal, Store, Unchanged,
};
use sallyport_wire::NodeName;
use tokio::time::sleep;

use super::Refused;
use super::value::{LONGEST, Reserved, State, Value};

/// How often a change is tried while others change the same value.
const TRIES: u32 = 16;

/// Longest pause between two tries, times the number of the try.
const PAUSE: Duration = Duration::from_millis(10);

/// A value is believed for so long by its own word. It is much longer than any time to live: clocks decide nothing.
const GOOD_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The last word of a server's key, so that one server's value can be watched alone.
const NOW: &str = "now";

/// All of them.
#[derive(Debug)]
pub(super) struct Places {
    store: Arc<dyn Store>,
    seal: Seal,
    all: Prefix,
    unchanged: Unchanged,
}

/// A value that is believed.
#[derive(Debug, Clone)]
pub(super) struct Current {
    pub(super) value: Value,
    revision: Revision,
    /// For how long it is known to have stood as it is.
    unchanged: Duration,
}

/// What becomes of a value.
#[derive(Debug)]
pub(super) enum Decision<T> {
    /// It stays.
    Keep(T),
    /// It is this from now on.
    Put(Value, T),
    /// It goes.
    Remove(T),
}

impl Current {
    /// Whether nobody keeps it up any more.
    pub(super) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// How long it lasts if nobody changes it.
    pub(super) fn left(&self) -> Duration {
        self.value.ttl().saturating_sub(self.unchanged)
    }

    /// The fencing token of a reservation.
    pub(super) fn token(&self, reserved: &Reserved) -> u64 {
        reserved.token.unwrap_or_else(|| self.revision.get())
    }

    /// The reservation with its token, if it is one of this holder.
    pub(super) fn reserved_by(&self, holder: &str) -> Option<Reserved> {
        match &self.value.state {
            State::Reserved(reserved) if reserved.holder == holder => Some(Reserved {
                token: Some(self.token(reserved)),
                ..reserved.clone()
            }),
            State::Reserved(_) | State::Held(_) => None,
        }
    }
}

impl Places {
    pub(super) fn new(store: Arc<dyn Store>, seal: Seal) -> Result<Self, NotAKey> {
        Ok(Self {
            store,
            seal,
            all: "reservations".parse()?,
            unchanged: Unchanged::default(),
        })
    }

    /// Where the values of all servers stand, or of one alone.
    pub(super) fn prefix(&self, only: Option<&NodeName>) -> Result<Prefix, NotAKey> {
        match only {
            Some(server) => Ok(Prefix::below(self.all.key(server.as_str())?)),
            None => Ok(self.all.clone()),
        }
    }

    pub(super) const fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Begins all looks anew, because changes may have been missed.
    pub(super) fn look_anew(&self) {
        self.unchanged.begin_anew(&self.all);
    }

    /// Which server a value is about.
    pub(super) fn server_of(&self, key: &Key) -> Option<NodeName> {
        let server: NodeName = key.words().nth(1)?.parse().ok()?;
        (self.key(&server).ok()? == *key).then_some(server)
    }

    fn key(&self, server: &NodeName) -> Result<Key, NotAKey> {
        self.all.key(&format!("{server}/{NOW}"))
    }

    /// What a value says. None if it is not believed and nobody keeps it up either.
    pub(super) fn judge(&self, entry: &Entry) -> Result<Option<Current>, Distrust> {
        let unchanged = self.unchanged.since_first_seen(entry);
        let opened = self.seal.open(&entry.key, &entry.value);
        let value = opened.and_then(|opened| {
            serde_json::from_slice(&opened.payload).map_err(|_other| Distrust::Malformed)
        });
        match value {
            Ok(value) => Ok(Some(Current {
                value,
                revision: entry.revision,
                unchanged,
            })),
            Err(_) if unchanged >= LONGEST => Ok(None),
            Err(distrust) => Err(distrust),
        }
    }

    /// Changes what stands there for a server as `decide` says, which is asked again when somebody else was faster, or
    /// when it is not known whether the change was made. Tells the revision of a value that was put.
    pub(super) async fn change<T>(
        &self,
        server: &NodeName,
        mut decide: impl FnMut(Option<Current>) -> Result<Decision<T>, Refused>,
    ) -> Result<(T, Option<Revision>), Refused> {
        let key = self.key(server)?;
        let mut last = Refused::Busy(server.clone());
        for turn in 0..TRIES {
            pause(turn).await;
            let entry = self.store.get(&key).await?;
            let current = match entry.as_ref().map(|entry| self.judge(entry)).transpose() {
                Ok(current) => current.flatten(),
                // it was read before somebody else's later one was
                Err(cause) => {
                    last = distrusted(server, cause)?;
                    continue;
                }
            };
            let known = entry.map(|entry| entry.revision);
            let (done, outcome) = match decide(current)? {
                Decision::Keep(outcome) => return Ok((outcome, known)),
                Decision::Put(value, outcome) => (self.put(&key, &value, known).await, outcome),
                Decision::Remove(outcome) => (self.remove(&key, known).await, outcome),
            };
            match done {
                Ok(revision) => return Ok((outcome, revision)),
                Err(Refused::Store(ClusterError::Conflict(_))) => {}
                Err(error @ Refused::Store(ClusterError::TimedOut)) if turn == 0 => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    async fn put(
        &self,
        key: &Key,
        value: &Value,
        known: Option<Revision>,
    ) -> Result<Option<Revision>, Refused> {
        // texts and numbers always become JSON
        let payload = serde_json::to_vec(value).unwrap_or_default();
        let version = self.seal.next_version(key);
        let sealed = self.seal.seal(key, version, &payload, Some(GOOD_FOR));
        let sealed: Bytes = sealed.ok_or(Refused::NoKey)?;
        let value = sealed.clone();
        let revision = match known {
            Some(known) => self.store.replace(key, sealed, known).await?,
            None => self.store.create(key, sealed).await?,
        };
        // the count of its time begins here too
        self.unchanged.since_first_seen(&Entry {
            key: key.clone(),
            value,
            revision,
        });
        Ok(Some(revision))
    }

    async fn remove(
        &self,
        key: &Key,
        known: Option<Revision>,
    ) -> Result<Option<Revision>, Refused> {
        if known.is_some() {
            self.store.delete(key, known).await?;
        }
        Ok(None)
    }

    /// Takes away whatever stands there, believed or not; whether anything did.
    pub(super) async fn clear(&self, server: &NodeName) -> Result<bool, Refused> {
        let key = self.key(server)?;
        let there = self.store.get(&key).await?.is_some();
        self.store.delete(&key, None).await?;
        self.unchanged.forget(&key);
        Ok(there)
    }

    /// Takes away what nobody keeps up any more, and says how many those were.
    pub(super) async fn sweep(&self) -> Result<usize, Refused> {
        let entries = self.store.list(&self.all).await?;
        self.unchanged.forget_gone(&self.all, &entries);
        let mut swept = 0_usize;
        for entry in entries {
            let is_over = match self.judge(&entry) {
                Ok(current) => current.is_none_or(|current| current.is_over()),
                Err(_unbelieved) => false,
            };
            if !is_over {
                continue;
            }
            match self.store.delete(&entry.key, Some(entry.revision)).await {
                Ok(()) => swept = swept.saturating_add(1),
                // it is somebody's again
                Err(ClusterError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(swept)
    }
}

/// An older value than one that was seen may be what another task has just overwritten; all else stays as it is.
fn distrusted(server: &NodeName, cause: Distrust) -> Result<Refused, Refused> {
    let is_passing = matches!(cause, Distrust::Replayed { .. });
    let refused = Refused::Distrusted {
        server: server.clone(),
        cause,
    };
    if is_passing {
        Ok(refused)
    } else {
        Err(refused)
    }
}

/// The first try waits for nobody.
async fn pause(turn: u32) {
    if turn > 0 {
        let most = PAUSE.saturating_mul(turn).as_micros();
        let most = u64::try_from(most).unwrap_or(1).max(1);
        sleep(Duration::from_micros(
            RandomState::new().hash_one(()) % most,
        ))
        .await;
    }
}
