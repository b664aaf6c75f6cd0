//! Which node key a node's name belongs to: bound on first use, and kept in a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use sallyport_ops::files;
use sallyport_wire::{Code, NodeName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::error;

/// Nobody waits longer for the disk: a relay gives its gateway 5 s to answer.
const SAVE_WITHIN: Duration = Duration::from_secs(4);

/// Between attempts to write the names when the disk refuses.
const SAVE_AGAIN: Duration = Duration::from_secs(1);

/// Public key of a node (Ed25519).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeKey([u8; 32]);

/// Text that is not a node key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node key is 64 hexadecimal digits")]
pub struct NodeKeyError;

impl NodeKey {
    /// A key from its bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<String> for NodeKey {
    type Error = NodeKeyError;

    fn try_from(text: String) -> Result<Self, NodeKeyError> {
        let mut key = [0; 32];
        let digits = text.as_bytes();
        if digits.len() != key.len() * 2 {
            return Err(NodeKeyError);
        }
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_utf8| NodeKeyError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_digit| NodeKeyError)?;
        }
        Ok(Self(key))
    }
}

impl From<NodeKey> for String {
    fn from(key: NodeKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whose a name is, and by what it became theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Public key of the node.
    pub key: NodeKey,
    /// Key of gateway.json, or of the cluster, that the node proved when it bound the name.
    pub kid: String,
    /// Whether that key was for nodes without a disk: only then may another node key take the name over.
    pub ephemeral: bool,
}

/// What came of a claim to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The name belongs to this key already.
    Known,
    /// The name was free and belongs to this key from now on.
    Bound,
    /// The name belonged to another key of a node without a disk, and to this one from now on.
    Rekeyed,
}

/// Why a claim failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The name belongs to another node key.
    #[error("the name belongs to another node key")]
    Taken,
    /// As many names are bound as may be.
    #[error("as many names are bound as may be")]
    Full,
    /// As many names were bound with this key of gateway.json as may be.
    #[error("as many names are bound with its key as may be")]
    Share,
}

impl ClaimError {
    /// The code that the relay hears.
    pub const fn code(self) -> Code {
        match self {
            Self::Taken => Code::NameTaken,
            Self::Full | Self::Share => Code::Limit,
        }
    }
}

/// Why it is not known that the names are on disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSaved {
    /// The file system refused.
    #[error("{0}")]
    Refused(String),
    /// It took too long.
    #[error("the disk took longer than {0:?}")]
    TooSlow(Duration),
}

/// Why the names could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what this program writes.
    #[error("{path}: {source}; move it away to let every node bind its name anew")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// Names and the node keys that they belong to: of nodes of one cluster, or `N` that tells those of several apart.
#[derive(Debug)]
pub struct Names<N = NodeName> {
    path: PathBuf,
    most: usize,
    per_kid: usize,
    bound: Mutex<Bound<N>>,
    /// Held while the file is written, so that an older state never replaces a newer one.
    writing: Mutex<()>,
    saved: watch::Sender<Saved>,
    changed: Notify,
}

/// How far the file has come.
#[derive(Debug, Default)]
struct Saved {
    /// The last change that was to be written.
    tried: u64,
    /// The last change that is on disk.
    written: u64,
    /// Why the one is not the other.
    fault: String,
}

#[derive(Debug)]
struct Bound<N> {
    owners: BTreeMap<N, Owner>,
    changes: u64,
}

#[derive(Debug)]
struct Owner {
    binding: Binding,
    /// The change that made it the owner; 0 if it was read from disk.
    since: u64,
}

impl<N: Ord + Clone> Bound<N> {
    fn get(&self, node: &N) -> Option<&Binding> {
        self.owners.get(node).map(|owner| &owner.binding)
    }

    const fn change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    fn count_of(&self, kid: &str) -> usize {
        let is_of = |owner: &&Owner| owner.binding.kid == kid;
        self.owners.values().filter(is_of).count()
    }

    fn bindings(&self) -> BTreeMap<N, Binding> {
        let pair = |(node, owner): (&N, &Owner)| (node.clone(), owner.binding.clone());
        self.owners.iter().map(pair).collect()
    }
}

impl<N> Names<N>
where
    N: Ord + Clone + Serialize + DeserializeOwned + Send + 'static,
{
    /// Reads the names of a file, with room for `most`; a missing file is an empty one.
    ///
    /// # Errors
    /// [`NamesError`] if the file is there and cannot be used.
    pub fn load(path: &Path, most: usize) -> Result<Self, NamesError> {
        let path = path.to_owned();
        let bound: BTreeMap<N, Binding> = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|source| NamesError::Parse {
                path: path.clone(),
                source,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(NamesError::Read { path, source }),
        };
        let owner = |(node, binding)| (node, Owner { binding, since: 0 });
        let owners = bound.into_iter().map(owner).collect();
        Ok(Self {
            path,
            most,
            per_kid: most,
            bound: Mutex::new(Bound { owners, changes: 0 }),
            writing: Mutex::new(()),
            saved: watch::Sender::default(),
            changed: Notify::new(),
        })
    }

    /// With room for so many names of one key of gateway.json, so that whoever has it cannot take them all.
    #[must_use]
    pub fn with_share(self, per_kid: usize) -> Self {
        Self { per_kid, ..self }
    }

    /// Whether the name belongs to another node key.
    pub fn is_anothers(&self, node: &N, key: NodeKey) -> bool {
        self.bound().get(node).is_some_and(|owner| owner.key != key)
    }

    /// A node claims its name. The claim holds at once, and outlives the process once [`Names::is_saved`] says
    /// so of the name: only then may the node hear that it is its own. `may_rekey` is asked only when the name
    /// belongs to another key of a node without a disk.
    ///
    /// # Errors
    /// [`ClaimError`] if it may not have it.
    pub fn claim(
        &self,
        node: &N,
        binding: Binding,
        may_rekey: impl FnOnce() -> bool,
    ) -> Result<Claim, ClaimError> {
        let mut bound = self.bound();
        let claim = self.judge(&bound, node, &binding, may_rekey)?;
        if claim != Claim::Known {
            let since = bound.change();
            bound.owners.insert(node.clone(), Owner { binding, since });
        }
        Ok(claim)
    }

    /// What would come of a claim.
    ///
    /// # Errors
    /// As [`Names::claim`].
    pub fn would_claim(
        &self,
        node: &N,
        binding: &Binding,
        may_rekey: impl FnOnce() -> bool,
    ) -> Result<Claim, ClaimError> {
        self.judge(&self.bound(), node, binding, may_rekey)
    }

    fn judge(
        &self,
        bound: &Bound<N>,
        node: &N,
        binding: &Binding,
        may_rekey: impl FnOnce() -> bool,
    ) -> Result<Claim, ClaimError> {
        match bound.get(node) {
            Some(owner) if owner.key == binding.key => Ok(Claim::Known),
            Some(owner) if owner.ephemeral && binding.ephemeral && may_rekey() => {
                Ok(Claim::Rekeyed)
            }
            Some(_) => Err(ClaimError::Taken),
            None if bound.owners.len() >= self.most => Err(ClaimError::Full),
            None if bound.count_of(&binding.kid) >= self.per_kid => Err(ClaimError::Share),
            None => Ok(Claim::Bound),
        }
    }

    /// Releases a name. False if it was not bound.
    pub fn forget(&self, node: &N) -> bool {
        let mut bound = self.bound();
        let gone = bound.owners.remove(node).is_some();
        if gone {
            bound.change();
        }
        gone
    }

    /// Every bound name.
    pub fn all(&self) -> BTreeMap<N, Binding> {
        self.bound().bindings()
    }

    /// Whether the owner of this name, if it has one, is on disk.
    pub fn is_saved(&self, node: &N) -> bool {
        let since = self.bound().owners.get(node).map_or(0, |owner| owner.since);
        since <= self.saved.borrow().written
    }

    /// Waits until all that was claimed and released so far is on disk. Whoever comes while a write is under way
    /// is served by the next one, so a crowd needs few of them, and none of it holds a thread.
    ///
    /// # Errors
    /// [`NotSaved`] if the disk refused, or took too long.
    pub async fn saved(&self) -> Result<(), NotSaved> {
        // A change of one's own: an attempt at those before may have failed already.
        let wanted = self.bound().change();
        self.changed.notify_one();
        let mut saved = self.saved.subscribe();
        let tried = saved.wait_for(|saved| saved.tried >= wanted);
        match timeout(SAVE_WITHIN, tried).await {
            Ok(Ok(saved)) if saved.written >= wanted => Ok(()),
            Ok(Ok(saved)) => Err(NotSaved::Refused(saved.fault.clone())),
            // The sender is this value's own, so it is there.
            Ok(Err(_)) | Err(_) => Err(NotSaved::TooSlow(SAVE_WITHIN)),
        }
    }

    /// Writes the names whenever somebody waits for that, off the threads that carry bytes: a disk that hangs holds
    /// up new names and nothing else.
    pub async fn keep(self: Arc<Self>) {
        let mut failing = false;
        loop {
            self.changed.notified().await;
            let names = Arc::clone(&self);
            let saved = spawn_blocking(move || names.save()).await;
            match saved.map_err(io::Error::other).and_then(|saved| saved) {
                Ok(()) => failing = false,
                Err(cause) => {
                    if !std::mem::replace(&mut failing, true) {
                        error!(%cause, "the names could not be saved: nodes with a new name are refused until they can");
                    }
                    sleep(SAVE_AGAIN).await;
                    self.changed.notify_one();
                }
            }
        }
    }

    /// Writes the names as they are now, whole or not at all; it blocks.
    ///
    /// # Errors
    /// The file system's, with the old file left as it was.
    pub fn save(&self) -> io::Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (bindings, changes) = {
            let bound = self.bound();
            (bound.bindings(), bound.changes)
        };
        if self.saved.borrow().written >= changes {
            return Ok(());
        }
        let written = serde_json::to_vec_pretty(&bindings)
            .map_err(io::Error::from)
            .and_then(|text| files::write_atomic(&self.path, &text, 0o600));
        self.saved.send_modify(|saved| {
            saved.tried = changes;
            match &written {
                Ok(()) => saved.written = changes,
                Err(cause) => saved.fault = cause.to_string(),
            }
        });
        written
    }

    fn bound(&self) -> MutexGuard<'_, Bound<N>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    const FILE: &str = "names.json";

    fn node(name: &str) -> NodeName {
        name.parse().expect("a node name")
    }

    fn bind(key: u8, kid: &str, ephemeral: bool) -> Binding {
        Binding {
            key: NodeKey::new([key; 32]),
            kid: kid.to_owned(),
            ephemeral,
        }
    }

    fn names(dir: &Path, most: usize) -> Names {
        Names::load(&dir.join(FILE), most).expect("readable")
    }

    #[test]
    fn a_name_belongs_to_its_first_key_also_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let (first, second) = (bind(1, "k1", true), bind(2, "k1", true));
        let before = names(dir.path(), 8);
        assert_eq!(
            before.claim(&node("n1"), first.clone(), || false),
            Ok(Claim::Bound)
        );
        before.save().expect("writable");

        let after = names(dir.path(), 8);
        assert_eq!(
            after.claim(&node("n1"), second.clone(), || false),
            Err(ClaimError::Taken)
        );
        assert_eq!(after.claim(&node("n1"), first, || false), Ok(Claim::Known));
        assert!(after.forget(&node("n1")));
        assert!(!after.forget(&node("n1")));
        assert_eq!(after.claim(&node("n1"), second, || false), Ok(Claim::Bound));
    }

    #[test]
    fn a_name_counts_as_saved_only_when_it_is_on_disk() {
        let dir = tempfile::tempdir().expect("a directory");
        let (key, file) = (bind(1, "k1", false), dir.path().join(FILE));
        let before = names(dir.path(), 8);
        let claim = |name: &str| before.claim(&node(name), key.clone(), || false);
        claim("n1").expect("free");
        std::fs::create_dir(&file).expect("in the way of the file");
        before.save().expect_err("the file cannot be replaced");
        assert!(!before.is_saved(&node("n1")));
        assert_eq!(claim("n1"), Ok(Claim::Known));
        assert!(!before.is_saved(&node("n1")), "known is not saved");

        std::fs::remove_dir(&file).expect("empty");
        before.save().expect("writable");
        assert!(before.is_saved(&node("n1")));
        assert!(names(dir.path(), 8).is_saved(&node("n1")), "it was read");
        claim("n2").expect("free");
        assert!(before.is_saved(&node("n1")) && !before.is_saved(&node("n2")));
    }

    #[tokio::test]
    async fn a_crowd_of_new_names_needs_few_writes_and_no_threads() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = Arc::new(names(dir.path(), 1_000));
        let mut crowd = JoinSet::new();
        for number in 0..1_000 {
            let (names, node) = (Arc::clone(&names), node(&format!("n{number}")));
            crowd.spawn(async move {
                let claim = names.claim(&node, bind(1, "k1", false), || false);
                claim.expect("free");
                names.saved().await
            });
        }
        let (mut writes, mut saved) = (0, Vec::new());
        loop {
            tokio::select! {
                biased;
                () = names.changed.notified() => {
                    writes += 1;
                    names.save().expect("writable");
                }
                done = crowd.join_next() => match done {
                    Some(done) => saved.push(done.expect("it ended")),
                    None => break,
                },
            }
        }

        assert_eq!(saved, vec![Ok(()); 1_000]);
        assert!(writes <= 50, "{writes} writes");
        let again: Names = Names::load(&dir.path().join(FILE), 1_000).expect("readable");
        assert_eq!(again.all().len(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_not_waited_for_and_a_fault_is_told_once_it_is_known() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = names(dir.path(), 8);
        let claim = |name: &str| names.claim(&node(name), bind(1, "k1", false), || false);
        claim("n1").expect("free");
        assert_eq!(names.saved().await, Err(NotSaved::TooSlow(SAVE_WITHIN)));

        std::fs::create_dir(dir.path().join(FILE)).expect("in the way of the file");
        let (saved, fault) = tokio::join!(names.saved(), async {
            names.save().expect_err("it is in the way")
        });
        assert_eq!(saved, Err(NotSaved::Refused(fault.to_string())));

        std::fs::remove_dir(dir.path().join(FILE)).expect("empty");
        let (saved, _) = tokio::join!(names.saved(), async { names.save().expect("writable") });
        assert_eq!(saved, Ok(()), "an older fault is forgotten");
    }

    #[test]
    fn what_would_come_of_a_claim_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = names(dir.path(), 1);
        let would =
            |name: &str, key| names.would_claim(&node(name), &bind(key, "k1", false), || false);

        assert_eq!(would("n1", 1), Ok(Claim::Bound));
        assert!(names.all().is_empty());
        names
            .claim(&node("n1"), bind(1, "k1", false), || false)
            .expect("free");
        assert_eq!(would("n1", 1), Ok(Claim::Known));
        assert_eq!(would("n1", 2), Err(ClaimError::Taken));
        assert_eq!(would("n2", 2), Err(ClaimError::Full));
    }

    #[test]
    fn a_node_without_a_disk_may_come_with_a_new_key() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = names(dir.path(), 8);
        let (first, second) = (bind(1, "k1", true), bind(2, "k1", true));
        names
            .claim(&node("n1"), first.clone(), || false)
            .expect("free");

        assert_eq!(
            names.claim(&node("n1"), second, || true),
            Ok(Claim::Rekeyed)
        );
        assert_eq!(
            names.claim(&node("n1"), first, || false),
            Err(ClaimError::Taken)
        );
    }

    #[test]
    fn the_number_of_names_is_limited() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = names(dir.path(), 1);
        let key = bind(1, "k1", false);
        names
            .claim(&node("n1"), key.clone(), || false)
            .expect("free");

        assert_eq!(
            names.claim(&node("n2"), key.clone(), || false),
            Err(ClaimError::Full)
        );
        assert_eq!(names.claim(&node("n1"), key, || false), Ok(Claim::Known));
    }

    #[test]
    fn a_node_with_a_disk_keeps_its_name_and_so_does_one_that_is_alive() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = names(dir.path(), 8);
        for (node, ephemeral, rekeys, is_dead) in [
            ("n1", false, true, true),
            ("n2", true, false, true),
            ("n3", true, true, false),
        ] {
            let node = self::node(node);
            names
                .claim(&node, bind(1, "k1", ephemeral), || false)
                .expect("free");
            assert_eq!(
                names.claim(&node, bind(2, "k2", rekeys), || is_dead),
                Err(ClaimError::Taken)
            );
        }
    }

    #[test]
    fn one_key_binds_no_more_than_its_share_of_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = names(dir.path(), 8).with_share(1);
        let claim = |name, kid| names.claim(&node(name), bind(1, kid, false), || false);

        assert_eq!(claim("n1", "k1"), Ok(Claim::Bound));
        assert_eq!(claim("n2", "k1"), Err(ClaimError::Share));
        assert_eq!(claim("n1", "k1"), Ok(Claim::Known));
        assert_eq!(claim("n2", "k2"), Ok(Claim::Bound));
    }

    #[test]
    fn a_damaged_file_is_named_with_the_way_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(FILE);
        std::fs::write(&file, "{\"n1\": \"short\"}").expect("writable");

        let error = Names::<NodeName>::load(&file, 8)
            .expect_err("damaged")
            .to_string();
        assert!(
            error.contains("names.json") && error.contains("move it away"),
            "{error}"
        );
    }
}
