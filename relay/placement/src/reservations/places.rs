//! The values of servers in the store: read, judged, and changed by compare-and-set.

use std::sync::Arc;
use std::time::Duration;

use sallyport_cluster::{
    ClusterError, Distrust, Entry, Key, NotAKey, Prefix, Revision, Seal, Store, Unchanged,
};
use sallyport_wire::NodeName;

use super::Refused;
use super::value::{LONGEST, Reserved, State, Value};
use crate::values::{Decided, Decision, Unchangeable, Values};

/// A value is believed for so long by its own word. It is much longer than any time to live: clocks decide nothing.
const GOOD_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The last word of a server's key, so that one server's value can be watched alone.
const NOW: &str = "now";

/// All of them.
#[derive(Debug)]
pub(super) struct Places {
    values: Values<Value>,
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
            values: Values::new(store, seal, GOOD_FOR),
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
        &self.values.store
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
        match self.values.open(entry) {
            Ok(value) => Ok(Some(Current {
                value,
                revision: entry.revision,
                unchanged,
            })),
            Err(_) if unchanged >= LONGEST => Ok(None),
            Err(distrust) => Err(distrust),
        }
    }

    /// Changes what stands there for a server as `decide` says, and tells the revision of what stands there then.
    pub(super) async fn change<T>(
        &self,
        server: &NodeName,
        mut decide: impl FnMut(Option<Current>) -> Result<Decision<Value, T>, Refused>,
    ) -> Result<(T, Option<Revision>), Refused> {
        let key = self.key(server)?;
        let read = |entry: &Entry| self.judge(entry);
        let changed = self
            .values
            .change(&key, read, |current| decide(current.flatten()));
        let Decided { outcome, entry } = changed.await.map_err(|cause| refused(server, cause))?;
        if let Some(entry) = &entry {
            // the count of its time begins here too
            self.unchanged.since_first_seen(entry);
        }
        Ok((outcome, entry.map(|entry| entry.revision)))
    }

    /// Takes away whatever stands there, believed or not; whether anything did.
    pub(super) async fn clear(&self, server: &NodeName) -> Result<bool, Refused> {
        let key = self.key(server)?;
        let there = self.values.store.get(&key).await?.is_some();
        self.values.store.delete(&key, None).await?;
        self.unchanged.forget(&key);
        Ok(there)
    }

    /// Takes away what nobody keeps up any more, and says how many those were.
    pub(super) async fn sweep(&self) -> Result<usize, Refused> {
        let entries = self.values.store.list(&self.all).await?;
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
            match self
                .values
                .store
                .delete(&entry.key, Some(entry.revision))
                .await
            {
                Ok(()) => swept = swept.saturating_add(1),
                // it is somebody's again
                Err(ClusterError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(swept)
    }
}

fn refused(server: &NodeName, cause: Unchangeable<Refused>) -> Refused {
    match cause {
        Unchangeable::Refused(refused) => refused,
        Unchangeable::Store(error) => error.into(),
        Unchangeable::NoKey => Refused::NoKey,
        Unchangeable::Busy => Refused::Busy(server.clone()),
        Unchangeable::Distrusted(cause) => Refused::Distrusted {
            server: server.clone(),
            cause,
        },
    }
}
