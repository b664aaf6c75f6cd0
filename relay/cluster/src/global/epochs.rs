//! Reading and changing the configuration in a store.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::{digest, rand};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::debug;

use super::bundle::{Bundle, BundleError, Change, Difference, Object};
use super::pointer::{self, Content, Record};
use crate::error::ClusterError;
use crate::key::{Key, NotAKey, Prefix};
use crate::seal::{LEAP, Opened, Seal};
use crate::signed::Distrust;
use crate::store::{Entry, Revision, Store};

/// Longest part of a content, in bytes: every store takes values of that length.
const PART: usize = 256 << 10;

/// Most parts of a content that is read.
const MOST_PARTS: usize = 64;

/// How often the newest epoch is looked for while others come.
const TRIES: u32 = 5;

/// The last epoch that is believed where none was accepted before. From whatever came up to it, those who know better can
/// be reached with one import.
const FIRST_UP_TO: u64 = LEAP;

/// The pointer's key below [`pointers`].
const CURRENT: &str = "current";

/// The configuration of a cluster in its store.
#[derive(Debug)]
pub struct Epochs {
    store: Arc<dyn Store>,
    seal: Seal,
    /// What was accepted here before: nothing older is believed.
    floor: Option<Applied>,
    /// Who makes the next epoch.
    by: String,
    place: Key,
    contents: Prefix,
}

/// An epoch with what it says.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Its number.
    pub epoch: u64,
    /// SHA-256 of the bundle's text, in hexadecimal digits.
    pub sha256: String,
    /// All its objects.
    pub bundle: Arc<Bundle>,
}

/// What a change would do or has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The epoch that holds now; 0 if there is none.
    pub epoch: u64,
    /// Whether this change made it.
    pub applied: bool,
    /// What becomes of each object that was spoken of.
    pub differences: Vec<Difference>,
}

/// One object as it is to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What it is to say; none if it is to go.
    #[serde(default)]
    pub object: Option<Object>,
}

/// Why the configuration cannot be read or changed. Its text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// The store.
    #[error(transparent)]
    Store(#[from] ClusterError),
    /// There is nothing to sign with.
    #[error(
        "there is no cluster key to sign the configuration with: copy cluster-keys.json beside relay.toml or broker.json"
    )]
    NoKey,
    /// The pointer is not from this cluster.
    #[error("the configuration in the store is not believed: {0}")]
    Distrust(#[from] Distrust),
    /// The store shows less than was there.
    #[error(
        "the store has epoch {epoch} of the configuration, but epoch {floor} was accepted here: it was set back or set up anew; \
         `config import` or `config rollback` on this node makes an epoch that holds"
    )]
    Older {
        /// What the store has; 0 for none.
        epoch: u64,
        /// What was accepted.
        floor: u64,
    },
    /// What the store has is incomplete, or something else than the pointer says.
    #[error(
        "epoch {epoch} of the configuration is damaged in the store ({what}); `config rollback` to another one"
    )]
    Damaged {
        /// Which.
        epoch: u64,
        /// What was found.
        what: String,
    },
    /// Somebody else was faster.
    #[error(
        "somebody else changed the configuration meanwhile, so nothing was applied: look at it again (--dry-run), then repeat"
    )]
    Changed,
    /// There is no such epoch to go back to.
    #[error("epoch {epoch} is not kept; there are: {there}")]
    NoEpoch {
        /// As it was asked for.
        epoch: u64,
        /// Those that are kept.
        there: String,
    },
    /// There is no such object to take away.
    #[error("there is no {name} among the {kind}")]
    NoObject {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// Objects.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Never: names that are made here are keys.
    #[error(transparent)]
    Key(#[from] NotAKey),
}

/// What a change begins with.
struct Base {
    /// Of the pointer; none if there is none.
    revision: Option<Revision>,
    /// The pointer's epochs, as far as they are believed.
    records: Vec<Record>,
    /// The epoch that holds, and what it says.
    now: Option<Applied>,
    /// Why that is not what the store has, if it is not.
    fault: Option<EpochError>,
}

impl Base {
    fn epoch(&self) -> u64 {
        let known = self.records.iter().map(|record| record.epoch).max();
        let now = self.now.as_ref().map_or(0, |now| now.epoch);
        now.max(known.unwrap_or(0))
    }

    fn record(&self, epoch: u64) -> Result<&Record, EpochError> {
        let found = self.records.iter().find(|record| record.epoch == epoch);
        found.ok_or_else(|| {
            let there: Vec<_> = self
                .records
                .iter()
                .map(|record| record.epoch.to_string())
                .collect();
            EpochError::NoEpoch {
                epoch,
                there: there.join(", "),
            }
        })
    }

    fn bundle(&self) -> Bundle {
        let now = self.now.as_ref();
        // kinds that a later version has come up with have no objects yet
        Bundle::empty().with(
            &now.map(|now| Bundle::clone(&now.bundle))
                .unwrap_or_default(),
        )
    }
}

/// Where the pointer stands: whoever watches it sees every new epoch, and no contents.
///
/// # Errors
/// [`NotAKey`], never.
pub fn pointers() -> Result<Prefix, NotAKey> {
    "config".parse()
}

impl Epochs {
    /// Those in `store`, changed in the name of `by`, where `floor` was accepted before.
    ///
    /// # Errors
    /// [`NotAKey`], never.
    pub fn new(
        store: Arc<dyn Store>,
        seal: Seal,
        floor: Option<Applied>,
        by: &str,
    ) -> Result<Self, NotAKey> {
        Ok(Self {
            store,
            seal,
            floor,
            by: by.to_owned(),
            place: pointers()?.key(CURRENT)?,
            contents: "config-parts".parse()?,
        })
    }

    /// The epoch that holds, with all that it says; none if there was never one.
    ///
    /// # Errors
    /// [`EpochError`]; then what was accepted before still holds.
    pub async fn newest(&self) -> Result<Option<Applied>, EpochError> {
        let (_, _, now) = self.look().await?;
        Ok(now)
    }

    /// As [`newest`](Self::newest); what was accepted before, where the store cannot be believed.
    ///
    /// # Errors
    /// [`EpochError`], when there is nothing that was accepted either.
    pub async fn holding(&self) -> Result<Option<Applied>, EpochError> {
        let base = self.base().await?;
        match (base.now, base.fault) {
            (None, Some(fault)) => Err(fault),
            (now, _) => Ok(now),
        }
    }

    /// The epochs that are kept, the newest last.
    ///
    /// # Errors
    /// [`EpochError`].
    pub async fn history(&self) -> Result<Vec<Record>, EpochError> {
        Ok(self
            .pointer()
            .await?
            .map_or_else(Vec::new, |(_, records)| records))
    }

    /// Makes a new epoch of the kinds that `incoming` speaks of and all others as they are; or says what that would change.
    /// Where it would change nothing, no epoch is made.
    ///
    /// # Errors
    /// [`EpochError`]; unless it is that of a store that did not answer, nothing was changed.
    pub async fn import(&self, incoming: &Bundle, dry_run: bool) -> Result<Outcome, EpochError> {
        let mut base = self.base().await?;
        // kinds that are not spoken of stay as they are, which nobody knows
        if base.now.is_none() && !incoming.is_of_all_kinds() {
            base.fault.take().map_or(Ok(()), Err)?;
        }
        self.advance(&base, incoming, dry_run).await
    }

    /// Makes a new epoch in which one object is as given, or is not there any more, and all else as it is.
    ///
    /// # Errors
    /// As [`import`](Self::import); [`EpochError::NoObject`] if one is to go that is not there.
    pub async fn put(&self, put: &Put, dry_run: bool) -> Result<Outcome, EpochError> {
        let mut base = self.base().await?;
        if base.now.is_none() {
            base.fault.take().map_or(Ok(()), Err)?;
        }
        let (kind, name) = (&put.kind, &put.name);
        let old = base.bundle();
        if put.object.is_none() && old.object(kind, name).is_none() {
            let (kind, name) = (kind.clone(), name.clone());
            return Err(EpochError::NoObject { kind, name });
        }
        let new = old.with_object(kind, name, put.object.clone());
        // checked as if somebody had imported it
        let incoming = Bundle::from_value(new.only(kind)?.to_value())?;
        let mut outcome = self.advance(&base, &incoming, dry_run).await?;
        outcome
            .differences
            .retain(|difference| difference.name == *name);
        Ok(outcome)
    }

    /// The next epoch: the kinds that `incoming` speaks of, and all others as they are.
    async fn advance(
        &self,
        base: &Base,
        incoming: &Bundle,
        dry_run: bool,
    ) -> Result<Outcome, EpochError> {
        let old = base.bundle();
        let new = old.with(incoming);
        new.check_whole()?;
        let differences = old.differences(incoming);
        let is_same = |difference: &Difference| difference.change == Change::Same;
        let nothing_to_do = base.fault.is_none() && differences.iter().all(is_same);
        let mut epoch = base.epoch();
        let applied = !dry_run && !nothing_to_do;
        if applied {
            let content = self.write(&new, base.revision).await?;
            let pointed = self.point(base, &new, content.clone(), None).await;
            if let Err(EpochError::Changed) = &pointed {
                self.discard(&content).await;
            }
            epoch = pointed?;
        }
        Ok(Outcome {
            epoch,
            applied,
            differences,
        })
    }

    /// What an epoch that is kept says.
    ///
    /// # Errors
    /// [`EpochError`].
    pub async fn at(&self, epoch: u64) -> Result<Bundle, EpochError> {
        let base = self.base().await?;
        let record = base.record(epoch)?;
        self.content(record).await
    }

    /// Makes a new epoch that says what the epoch `to` said.
    ///
    /// # Errors
    /// As [`import`](Self::import); [`EpochError::NoEpoch`].
    pub async fn rollback(&self, to: u64, dry_run: bool) -> Result<Outcome, EpochError> {
        let base = self.base().await?;
        let record = base.record(to)?;
        let old = self.content(record).await?;
        let differences = base.bundle().differences(&Bundle::empty().with(&old));
        let mut epoch = base.epoch();
        if !dry_run {
            let content = record.content.clone();
            epoch = self.point(&base, &old, content, Some(to)).await?;
        }
        Ok(Outcome {
            epoch,
            applied: !dry_run,
            differences,
        })
    }

    /// Signs the pointer anew where it lacks the newest key, so that older ones can be revoked.
    ///
    /// # Errors
    /// [`EpochError`].
    pub async fn renew_seal(&self) -> Result<(), EpochError> {
        let Some((entry, records)) = self.pointer().await? else {
            return Ok(());
        };
        if self.seal.is_new(&entry.value) {
            return Ok(());
        }
        let epoch = records.last().map_or(0, |record| record.epoch);
        let sealed = self.sealed(epoch, records)?;
        match self
            .store
            .replace(&self.place, sealed, entry.revision)
            .await
        {
            // another node was faster
            Ok(_) | Err(ClusterError::Conflict(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What a change begins with: what the store has, or what was accepted here where that is not to be believed.
    async fn base(&self) -> Result<Base, EpochError> {
        let error = match self.look().await {
            Ok((revision, records, now)) => {
                return Ok(Base {
                    revision,
                    records,
                    now,
                    fault: None,
                });
            }
            Err(error) => error,
        };
        let mends = match &error {
            EpochError::Damaged { .. } => true,
            EpochError::Distrust(_) | EpochError::Older { .. } => self.floor.is_some(),
            EpochError::Store(_)
            | EpochError::NoKey
            | EpochError::Changed
            | EpochError::NoEpoch { .. }
            | EpochError::NoObject { .. }
            | EpochError::Bundle(_)
            | EpochError::Key(_) => false,
        };
        if !mends {
            return Err(error);
        }
        let entry = self.store.get(&self.place).await?;
        let records = entry.as_ref().and_then(|entry| self.read(entry).ok());
        Ok(Base {
            revision: entry.map(|entry| entry.revision),
            records: records.unwrap_or_default(),
            now: self.floor.clone(),
            fault: Some(error),
        })
    }

    /// The pointer's revision and epochs, and the newest of them with its content.
    async fn look(&self) -> Result<(Option<Revision>, Vec<Record>, Option<Applied>), EpochError> {
        let mut tries = 0_u32;
        loop {
            let Some((entry, records)) = self.pointer().await? else {
                return self.accepts(None).map(|()| (None, Vec::new(), None));
            };
            let Some(newest) = records.last() else {
                return Err(Distrust::Malformed.into());
            };
            self.accepts(Some(newest))?;
            let error = match self.content(newest).await {
                Ok(bundle) => {
                    let now = Applied {
                        epoch: newest.epoch,
                        sha256: newest.content.sha256.clone(),
                        bundle: Arc::new(bundle),
                    };
                    return Ok((Some(entry.revision), records, Some(now)));
                }
                Err(error) => error,
            };
            // a content goes when there are so many later ones that it is not kept
            tries = tries.saturating_add(1);
            let there = self.store.get(&self.place).await?;
            let moved = there.is_none_or(|there| there.revision != entry.revision);
            if !moved || tries >= TRIES {
                return Err(error);
            }
        }
    }

    /// Refuses what is older than what was accepted, or another epoch of the same number.
    fn accepts(&self, newest: Option<&Record>) -> Result<(), EpochError> {
        let Some(floor) = &self.floor else {
            return Ok(());
        };
        let is_later = newest.is_some_and(|newest| {
            let is_same = newest.epoch == floor.epoch && newest.content.sha256 == floor.sha256;
            newest.epoch > floor.epoch || is_same
        });
        if is_later {
            return Ok(());
        }
        Err(EpochError::Older {
            epoch: newest.map_or(0, |newest| newest.epoch),
            floor: floor.epoch,
        })
    }

    async fn pointer(&self) -> Result<Option<(Entry, Vec<Record>)>, EpochError> {
        let Some(entry) = self.store.get(&self.place).await? else {
            return Ok(None);
        };
        let records = self.read(&entry)?;
        Ok(Some((entry, records)))
    }

    /// The last epoch that is believed now. Epochs are counted one by one, so nobody comes to a later one in order.
    fn most(&self) -> u64 {
        let floor = self.floor.as_ref();
        floor.map_or(FIRST_UP_TO, |floor| floor.epoch.saturating_add(LEAP))
    }

    fn read(&self, entry: &Entry) -> Result<Vec<Record>, Distrust> {
        let most = self.most();
        let Opened { payload, version } = self.seal.open_up_to(most, &self.place, &entry.value)?;
        let records = pointer::read(&payload).ok_or(Distrust::Malformed)?;
        let newest = records.last().map(|record| record.epoch);
        if version.is_some_and(|version| Some(version) != newest) {
            return Err(Distrust::Malformed);
        }
        Ok(records)
    }

    /// What an epoch says.
    async fn content(&self, record: &Record) -> Result<Bundle, EpochError> {
        let content = &record.content;
        let damaged = |what: &str| EpochError::Damaged {
            epoch: record.epoch,
            what: what.to_owned(),
        };
        if content.parts > MOST_PARTS {
            return Err(damaged("too many parts"));
        }
        let mut text = Vec::new();
        for part in 0..content.parts {
            let entry = self.store.get(&self.part(&content.set, part)?).await?;
            let entry = entry.ok_or_else(|| damaged("a part is missing"))?;
            text.extend_from_slice(&entry.value);
        }
        if sha256(&text) != content.sha256 {
            return Err(damaged("it is something else than was applied"));
        }
        Ok(Bundle::parse(&text)?)
    }

    /// Puts a content beside those that are there; nothing points to it yet.
    ///
    /// Its place begins with the revision of the pointer that it is to take the place of: once the pointer has a later
    /// one, nobody can point to this content any more.
    async fn write(
        &self,
        bundle: &Bundle,
        revision: Option<Revision>,
    ) -> Result<Content, EpochError> {
        let text = bundle.to_bytes();
        if text.len() > super::MOST_BYTES {
            return Err(BundleError::TooLarge(text.len()).into());
        }
        // said before anything is written
        self.seal
            .seal(&self.place, 0, &[], None)
            .ok_or(EpochError::NoKey)?;
        let content = Content {
            set: format!("{}-{:016x}", number(revision), nonce()?),
            parts: text.len().div_ceil(PART),
            bytes: text.len(),
            sha256: sha256(&text),
        };
        for (number, part) in text.chunks(PART).enumerate() {
            let key = self.part(&content.set, number)?;
            self.store
                .create(&key, Bytes::copy_from_slice(part))
                .await?;
        }
        Ok(content)
    }

    /// Makes the next epoch of a content.
    async fn point(
        &self,
        base: &Base,
        bundle: &Bundle,
        content: Content,
        from: Option<u64>,
    ) -> Result<u64, EpochError> {
        let (version, most) = (base.epoch(), self.most());
        let next = version.checked_add(1);
        let epoch = next.ok_or(Distrust::TooFar { version, most })?;
        let mut records = base.records.clone();
        records.push(Record {
            epoch,
            made: now(),
            by: self.by.clone(),
            from,
            objects: bundle.len() as u64,
            content,
        });
        let surplus = records.len().saturating_sub(bundle.kept());
        records.drain(..surplus);
        let sets: BTreeSet<_> = records
            .iter()
            .map(|record| record.content.set.clone())
            .collect();
        let sealed = self.sealed(epoch, records)?;
        let revision = self.set_pointer(sealed, base.revision).await?;
        if let Err(error) = self.sweep(&sets, revision).await {
            debug!(%error, "contents that nobody needs stay until the next change");
        }
        Ok(epoch)
    }

    fn sealed(&self, epoch: u64, records: Vec<Record>) -> Result<Bytes, EpochError> {
        let payload = pointer::write(records);
        let sealed = self.seal.seal(&self.place, epoch, &payload, None);
        sealed.ok_or(EpochError::NoKey)
    }

    async fn set_pointer(
        &self,
        sealed: Bytes,
        known: Option<Revision>,
    ) -> Result<Revision, EpochError> {
        let set = match known {
            Some(known) => self.store.replace(&self.place, sealed.clone(), known).await,
            None => self.store.create(&self.place, sealed.clone()).await,
        };
        match set {
            Ok(revision) => Ok(revision),
            Err(ClusterError::Conflict(_)) => Err(EpochError::Changed),
            // it may have been made, though nobody said so
            Err(ClusterError::TimedOut) => {
                let there = self.store.get(&self.place).await?;
                let there = there.filter(|there| there.value == sealed);
                let made = there.map(|there| there.revision);
                made.ok_or_else(|| ClusterError::TimedOut.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes away contents that no kept epoch needs: those of epochs that are not kept any more, and of changes that were
    /// interrupted or lost. One that is for the pointer of this `revision` or a later one is somebody's who is at work.
    async fn sweep(&self, kept: &BTreeSet<String>, revision: Revision) -> Result<(), EpochError> {
        for entry in self.store.list(&self.contents).await? {
            let set = entry.key.words().nth(1).unwrap_or_default();
            let (base, _) = set.split_once('-').unwrap_or_default();
            let is_past = base.parse::<u64>().is_ok_and(|base| base < revision.get());
            if is_past && !kept.contains(set) {
                self.store.delete(&entry.key, None).await?;
            }
        }
        Ok(())
    }

    async fn discard(&self, content: &Content) {
        for part in 0..content.parts {
            if let Ok(key) = self.part(&content.set, part) {
                // what stays is swept by the next change
                drop(self.store.delete(&key, None).await);
            }
        }
    }

    fn part(&self, set: &str, number: usize) -> Result<Key, NotAKey> {
        self.contents.key(&format!("{set}/{number}"))
    }
}

fn number(revision: Option<Revision>) -> u64 {
    revision.map_or(0, Revision::get)
}

fn nonce() -> Result<u64, EpochError> {
    let mut bytes = [0; 8];
    let filled = rand::fill(&mut bytes);
    filled.map_err(|_unspecified| {
        ClusterError::Broken("the system has no random numbers".to_owned())
    })?;
    Ok(u64::from_be_bytes(bytes))
}

fn sha256(text: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, text);
    let mut digits = String::new();
    for byte in digest.as_ref() {
        // writing to a String cannot fail
        let _infallible = write!(digits, "{byte:02x}");
    }
    digits
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
