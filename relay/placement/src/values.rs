//! Values of one kind in the store: sealed, and changed by compare-and-set.

use std::hash::{BuildHasher as _, RandomState};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use sallyport_cluster::{ClusterError, Distrust, Entry, Key, Revision, Seal, Store};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::sleep;

/// How often a change is tried while others change the same value.
const TRIES: u32 = 16;

/// Longest pause between two tries, times the number of the try.
const PAUSE: Duration = Duration::from_millis(10);

/// All values of a kind.
#[derive(Debug)]
pub(crate) struct Values<V> {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) seal: Seal,
    /// A value is believed for so long by its own word.
    pub(crate) good_for: Duration,
    kind: PhantomData<fn() -> V>,
}

/// What becomes of a value.
#[derive(Debug)]
pub(crate) enum Decision<V, T> {
    /// It stays.
    Keep(T),
    /// It is this from now on.
    Put(V, T),
    /// It goes.
    Remove(T),
}

/// What was decided, and what stands there now.
#[derive(Debug)]
pub(crate) struct Decided<T> {
    pub(crate) outcome: T,
    pub(crate) entry: Option<Entry>,
}

/// Why a value was not changed.
#[derive(Debug)]
pub(crate) enum Unchangeable<E> {
    /// Whoever decides does not want it.
    Refused(E),
    Store(ClusterError),
    /// No key is live.
    NoKey,
    Distrusted(Distrust),
    /// Others changed it all the time.
    Busy,
}

impl<V: Serialize + DeserializeOwned> Values<V> {
    pub(crate) fn new(store: Arc<dyn Store>, seal: Seal, good_for: Duration) -> Self {
        Self {
            store,
            seal,
            good_for,
            kind: PhantomData,
        }
    }

    /// What a value says.
    pub(crate) fn open(&self, entry: &Entry) -> Result<V, Distrust> {
        let opened = self.seal.open(&entry.key, &entry.value)?;
        serde_json::from_slice(&opened.payload).map_err(|_other| Distrust::Malformed)
    }

    /// Changes what stands under `key` as `decide` says, who is given what `read` makes of it. It is asked again when
    /// somebody else was faster, or when it is not known whether the change was made.
    pub(crate) async fn change<R, T, E>(
        &self,
        key: &Key,
        read: impl Fn(&Entry) -> Result<R, Distrust>,
        mut decide: impl FnMut(Option<R>) -> Result<Decision<V, T>, E>,
    ) -> Result<Decided<T>, Unchangeable<E>> {
        let mut last = Unchangeable::Busy;
        for turn in 0..TRIES {
            pause(turn).await;
            let entry = self.store.get(key).await.map_err(Unchangeable::Store)?;
            let current = match entry.as_ref().map(&read).transpose() {
                Ok(current) => current,
                // it was read before somebody else's later one was
                Err(cause @ Distrust::Replayed { .. }) => {
                    last = Unchangeable::Distrusted(cause);
                    continue;
                }
                Err(cause) => return Err(Unchangeable::Distrusted(cause)),
            };
            let known = entry.as_ref().map(|entry| entry.revision);
            let (done, outcome) = match decide(current).map_err(Unchangeable::Refused)? {
                Decision::Keep(outcome) => return Ok(Decided { outcome, entry }),
                Decision::Put(value, outcome) => (self.put(key, &value, known).await?, outcome),
                Decision::Remove(outcome) => (self.remove(key, known).await, outcome),
            };
            match done {
                Ok(entry) => return Ok(Decided { outcome, entry }),
                Err(ClusterError::Conflict(_)) => {}
                Err(ClusterError::TimedOut) if turn == 0 => {
                    last = Unchangeable::Store(ClusterError::TimedOut);
                }
                Err(error) => return Err(Unchangeable::Store(error)),
            }
        }
        Err(last)
    }

    async fn put<E>(
        &self,
        key: &Key,
        value: &V,
        known: Option<Revision>,
    ) -> Result<Result<Option<Entry>, ClusterError>, Unchangeable<E>> {
        // our own types always become JSON
        let payload = serde_json::to_vec(value).unwrap_or_default();
        let version = self.seal.next_version(key);
        let sealed = self.seal.seal(key, version, &payload, Some(self.good_for));
        let value = sealed.ok_or(Unchangeable::NoKey)?;
        let put = match known {
            Some(known) => self.store.replace(key, value.clone(), known).await,
            None => self.store.create(key, value.clone()).await,
        };
        let entry = |revision| Entry {
            key: key.clone(),
            value,
            revision,
        };
        Ok(put.map(|revision| Some(entry(revision))))
    }

    async fn remove(
        &self,
        key: &Key,
        known: Option<Revision>,
    ) -> Result<Option<Entry>, ClusterError> {
        match known {
            Some(_) => self.store.delete(key, known).await.map(|()| None),
            None => Ok(None),
        }
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
