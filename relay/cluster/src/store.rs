//! The store: values under keys that last, each change of which has a number.

use std::fmt;
use std::num::NonZeroU64;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{BoxStream, Stream};
use serde::{Deserialize, Serialize};

use crate::error::{Answer, ClusterError};
use crate::key::{Key, Prefix};

/// Values under keys.
///
/// A change that was answered with `Ok` survives the end of this process at any moment. Who reads after it sees it or a
/// later one. A value is at most [`Limits::value`](crate::Limits::value) bytes long.
pub trait Store: fmt::Debug + Send + Sync {
    /// The value under `key`, if there is one.
    ///
    /// # Errors
    /// [`ClusterError`] when the store cannot tell.
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Option<Entry>>;

    /// Puts a value under `key`, whatever is there.
    ///
    /// # Errors
    /// [`ClusterError::TooLarge`], or what keeps the store from it.
    fn put<'a>(&'a self, key: &'a Key, value: Bytes) -> Answer<'a, Revision>;

    /// Puts a value under `key` if there is none.
    ///
    /// # Errors
    /// [`ClusterError::Conflict`] if there is one; else as [`put`](Store::put).
    fn create<'a>(&'a self, key: &'a Key, value: Bytes) -> Answer<'a, Revision>;

    /// Puts a value under `key` if what is there has the revision `known`: compare-and-set.
    ///
    /// # Errors
    /// [`ClusterError::Conflict`] if it has another one or is gone; else as [`put`](Store::put).
    fn replace<'a>(&'a self, key: &'a Key, value: Bytes, known: Revision) -> Answer<'a, Revision>;

    /// Takes the value under `key` away: any, also none, or only one with the revision `known`.
    ///
    /// # Errors
    /// [`ClusterError::Conflict`] if `known` is given and not there; else what keeps the store from it.
    fn delete<'a>(&'a self, key: &'a Key, known: Option<Revision>) -> Answer<'a, ()>;

    /// All values of the prefix, in the order of their keys.
    ///
    /// # Errors
    /// [`ClusterError`] when the store cannot tell.
    fn list<'a>(&'a self, prefix: &'a Prefix) -> Answer<'a, Vec<Entry>>;

    /// Follows the values of the prefix.
    ///
    /// # Errors
    /// [`ClusterError`] when the store refuses it for good; where it only cannot be reached, the watch waits for it.
    fn watch<'a>(&'a self, prefix: &'a Prefix) -> Answer<'a, Watch>;
}

/// The number of a change: higher than that of any earlier change under the same key, deletions included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(NonZeroU64);

/// A value with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub key: Key,
    /// What stands there.
    pub value: Bytes,
    /// The change that put it there.
    pub revision: Revision,
}

/// What a [`Watch`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// All that is there now, in the order of keys: what was known before and is not in it is gone. It comes first, and
    /// again whenever changes may have been missed.
    Snapshot(Vec<Entry>),
    /// A value is there, or is another one.
    Put(Entry),
    /// The value is gone.
    Deleted(Key),
}

/// Follows a prefix: a [snapshot](Change::Snapshot) first, then changes.
///
/// It tells the newest value of each key; values in between may be left out, and one may be told twice. Nothing is lost
/// silently: who reads too slowly, or loses the broker for a while, gets a new snapshot.
pub struct Watch(BoxStream<'static, Result<Change, ClusterError>>);

impl Revision {
    /// The revision with this number; zero is none.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Its number, from 1.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl Watch {
    /// A watch that tells what `changes` yields.
    pub fn new(changes: impl Stream<Item = Result<Change, ClusterError>> + Send + 'static) -> Self {
        Self(changes.boxed())
    }

    /// The next change. Safe to cancel.
    ///
    /// # Errors
    /// [`ClusterError`] when the watch is over; a store that only cannot be reached is waited for.
    pub async fn next(&mut self) -> Result<Change, ClusterError> {
        let next = self.0.next().await;
        next.unwrap_or(Err(ClusterError::Closed))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch(..)")
    }
}

/// Without the value, which may be private.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("bytes", &self.value.len())
            .field("revision", &self.revision.get())
            .finish()
    }
}
