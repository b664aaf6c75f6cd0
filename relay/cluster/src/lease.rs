//! Leases: what one holder has until it stops renewing it. They are plain values that are changed by compare-and-set, so
//! that they mean the same on every store.
//!
//! A lease is free once its value has not changed for its whole time to live *on the clock of whoever looks*, counted
//! from when that one first saw it; the holder counts from before it asked, and stops a tenth earlier, so that what it
//! begins at the last moment is over too. So no difference between two machines' clocks can take a lease from a live
//! holder, and one whose machine was suspended knows it. The expiry in the value is for people to read.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::error::ClusterError;
use crate::key::{Key, Prefix};
use crate::store::{Entry, Revision, Store};
use crate::unchanged::Unchanged;

/// Shortest time to live: what is below cannot be renewed in time through a broker.
pub const MIN_TTL: Duration = Duration::from_secs(1);

/// Longest time to live, and the one of a lease that cannot be read.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The part of its time to live by which a holder stops believing in its lease before others may take it.
const MARGIN: u32 = 10;

/// A lease that is held here.
#[derive(Debug)]
pub struct Lease {
    key: Key,
    holder: String,
    ttl: Duration,
    token: u64,
    revision: Revision,
    /// When it was taken or renewed last: before the store was asked.
    begun: Moment,
}

/// Who has a lease that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// As it calls itself; empty if the value cannot be read.
    pub holder: String,
    /// When it is over unless it is renewed, by the holder's clock.
    pub expires: SystemTime,
}

/// Why a lease is not held.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else has it.
    #[error("`{}` has it", .0.holder)]
    Taken(Taken),
    /// It was renewed too late, and is free or somebody else's now.
    #[error("the lease `{0}` was lost")]
    Lost(Key),
    /// The store cannot tell, so nobody may count on the lease.
    #[error(transparent)]
    Store(#[from] ClusterError),
}

/// The leases in a store, as this process sees them.
#[derive(Debug)]
pub struct Leases {
    store: Arc<dyn Store>,
    /// The leases of others.
    unchanged: Unchanged,
}

/// The value of a lease.
#[derive(Debug, Serialize, Deserialize)]
struct Value {
    holder: String,
    ttl_ms: u64,
    /// Milliseconds since 1970 by the holder's clock.
    expires_ms: u64,
    /// None at first: then it is the revision of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<u64>,
}

impl Lease {
    /// What is held.
    #[must_use]
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// The fencing token: higher than that of everyone who held this lease before. Whoever acts on the holder's word can
    /// refuse one that is lower than the last.
    #[must_use]
    pub const fn token(&self) -> u64 {
        self.token
    }

    /// Whether nobody else can have it yet.
    #[must_use]
    pub fn is_held(&self) -> bool {
        Moment::now() < self.until()
    }

    /// When it is over unless it is renewed: [a tenth](trusted) before others may take it.
    #[must_use]
    pub fn until(&self) -> Moment {
        self.begun.after(trusted(self.ttl))
    }

    /// When it should be renewed: early enough for a second try.
    #[must_use]
    pub fn renew_at(&self) -> Moment {
        self.begun.after(self.ttl / 3)
    }

    fn value(&self) -> Bytes {
        encode(&self.holder, self.ttl, Some(self.token))
    }
}

impl Leases {
    /// The leases in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            unchanged: Unchanged::default(),
        }
    }

    /// Takes the lease `key` for `holder`, for `ttl` from now ([`MIN_TTL`] to [`MAX_TTL`]; what is beyond is cut).
    ///
    /// A free lease may have to be asked for again after its time to live, since that is how long it is looked at.
    ///
    /// # Errors
    /// [`LeaseError::Taken`] if somebody has it; [`LeaseError::Store`].
    pub async fn take(&self, key: &Key, holder: &str, ttl: Duration) -> Result<Lease, LeaseError> {
        let (begun, ttl) = (Moment::now(), ttl.clamp(MIN_TTL, MAX_TTL));
        let there = self.store.get(key).await?;
        let value = encode(holder, ttl, None);
        let set = match &there {
            None => self.store.create(key, value).await,
            Some(entry) if self.is_free(entry) => {
                self.store.replace(key, value, entry.revision).await
            }
            Some(entry) => return Err(LeaseError::Taken(taken(entry))),
        };
        let revision = match set {
            Ok(revision) => revision,
            Err(ClusterError::Conflict(_)) => return Err(self.rival(key).await?),
            Err(error) => return Err(error.into()),
        };
        self.unchanged.forget(key);
        Ok(Lease {
            key: key.clone(),
            holder: holder.to_owned(),
            ttl,
            token: revision.get(),
            revision,
            begun,
        })
    }

    /// Holds the lease for its whole time to live again.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] if it is not held any more. After [`LeaseError::Store`] it is held as long as it
    /// [says](Lease::is_held), and may be renewed again.
    pub async fn renew(&self, lease: &mut Lease) -> Result<(), LeaseError> {
        let begun = Moment::now();
        let set = self
            .store
            .replace(&lease.key, lease.value(), lease.revision);
        let set = match set.await {
            Err(ClusterError::Conflict(_)) => {
                lease.revision = self.own_revision(lease).await?;
                let again = self
                    .store
                    .replace(&lease.key, lease.value(), lease.revision);
                again.await
            }
            set => set,
        };
        lease.revision = set.map_err(|error| lost_or(lease, error))?;
        lease.begun = begun;
        Ok(())
    }

    /// Gives the lease back at once. One that was lost is none of ours and stays.
    ///
    /// # Errors
    /// [`LeaseError::Store`]: it is then free when its time is over.
    pub async fn release(&self, mut lease: Lease) -> Result<(), LeaseError> {
        let known = Some(lease.revision);
        let deleted = match self.store.delete(&lease.key, known).await {
            Err(ClusterError::Conflict(_)) => match self.own_revision(&lease).await {
                Ok(revision) => {
                    lease.revision = revision;
                    self.store.delete(&lease.key, Some(revision)).await
                }
                Err(LeaseError::Lost(_)) => return Ok(()),
                Err(error) => return Err(error),
            },
            deleted => deleted,
        };
        match deleted {
            Err(ClusterError::Conflict(_)) => Ok(()),
            deleted => Ok(deleted?),
        }
    }

    /// Removes the leases of the prefix that are free, and says how many. Called now and then by one process, it leaves
    /// none behind of those who are gone.
    ///
    /// # Errors
    /// [`LeaseError::Store`].
    pub async fn sweep(&self, prefix: &Prefix) -> Result<usize, LeaseError> {
        let entries = self.store.list(prefix).await?;
        self.unchanged.forget_gone(prefix, &entries);
        let mut swept = 0_usize;
        let is_free = |entry: &&Entry| self.unchanged.since_seen_if_room(entry) >= ttl_of(entry);
        for entry in entries.iter().filter(is_free) {
            match self.store.delete(&entry.key, Some(entry.revision)).await {
                Ok(()) => swept = swept.saturating_add(1),
                // it is somebody's again
                Err(ClusterError::Conflict(_)) => continue,
                Err(error) => return Err(error.into()),
            }
            self.unchanged.forget(&entry.key);
        }
        Ok(swept)
    }

    /// How long it takes until the lease is free if nobody renews it; zero if it is. To look begins the count.
    pub(crate) fn free_in(&self, entry: &Entry) -> Duration {
        ttl_of(entry).saturating_sub(self.unchanged.since_first_seen(entry))
    }

    fn is_free(&self, entry: &Entry) -> bool {
        self.free_in(entry).is_zero()
    }

    /// The revision of a lease that a write set whose answer never came.
    async fn own_revision(&self, lease: &Lease) -> Result<Revision, LeaseError> {
        let there = self.store.get(&lease.key).await?;
        let own = there.filter(|entry| {
            decode(entry).is_some_and(|value| {
                let token = value.token.unwrap_or_else(|| entry.revision.get());
                value.holder == lease.holder && token == lease.token
            })
        });
        own.map(|entry| entry.revision)
            .ok_or_else(|| LeaseError::Lost(lease.key.clone()))
    }

    /// Somebody was faster.
    async fn rival(&self, key: &Key) -> Result<LeaseError, ClusterError> {
        let there = self.store.get(key).await?;
        let taken = there.map_or_else(
            || Taken {
                holder: String::new(),
                expires: SystemTime::now(),
            },
            |entry| {
                self.is_free(&entry);
                taken(&entry)
            },
        );
        Ok(LeaseError::Taken(taken))
    }
}

/// How much of a time to live a holder may count on.
#[must_use]
pub fn trusted(ttl: Duration) -> Duration {
    ttl.saturating_sub(ttl / MARGIN)
}

fn lost_or(lease: &Lease, error: ClusterError) -> LeaseError {
    if matches!(error, ClusterError::Conflict(_)) {
        return LeaseError::Lost(lease.key.clone());
    }
    error.into()
}

pub(crate) fn taken(entry: &Entry) -> Taken {
    let value = decode(entry);
    let expires = value.as_ref().map_or(0, |value| value.expires_ms);
    let expires = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(expires));
    Taken {
        holder: value.map(|value| value.holder).unwrap_or_default(),
        expires: expires.unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

fn ttl_of(entry: &Entry) -> Duration {
    decode(entry).map_or(MAX_TTL, |value| {
        Duration::from_millis(value.ttl_ms).clamp(MIN_TTL, MAX_TTL)
    })
}

fn decode(entry: &Entry) -> Option<Value> {
    serde_json::from_slice(&entry.value).ok()
}

fn encode(holder: &str, ttl: Duration, token: Option<u64>) -> Bytes {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let expires = since_1970.unwrap_or_default().saturating_add(ttl);
    let value = Value {
        holder: holder.to_owned(),
        ttl_ms: millis(ttl),
        expires_ms: millis(expires),
        token,
    };
    // text and numbers always become JSON
    serde_json::to_vec(&value).unwrap_or_default().into()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
