//! The keys by which the nodes of a cluster know each other, as their file has them now.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use sallyport_cluster::ClusterKey;
use sallyport_link::keyring::Changes;
use sallyport_link::{Admission, ClusterKeys, Key, KeyFileError, KeyRing, peer};
use sallyport_wire::NodeName;
use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::rotation::Keys;

/// What a secret of the cluster signs for [`signing`], so that it is not the one that signs tokens.
const PURPOSE: &[u8] = b"sallyport signed values 1";

/// The keys of the cluster, and what they are checked with.
#[derive(Debug)]
pub struct Credentials {
    path: PathBuf,
    ring: KeyRing,
    admission: Admission,
    keys: watch::Sender<Arc<ClusterKeys>>,
    fault: Mutex<Option<String>>,
}

impl Credentials {
    /// The credentials of `node`, with the keys of a file that need not exist.
    ///
    /// # Errors
    /// [`KeyFileError`] if the file is there and cannot be used.
    pub fn open(node: &NodeName, path: &Path) -> Result<Self, KeyFileError> {
        let keys = load(path)?;
        let ring = KeyRing::new(&keys.keys);
        Ok(Self {
            path: path.to_owned(),
            admission: Admission::new(ring.clone(), vec![peer::audience(node)]),
            ring,
            keys: watch::Sender::new(Arc::new(keys)),
            fault: Mutex::default(),
        })
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys that are accepted.
    #[must_use]
    pub const fn ring(&self) -> &KeyRing {
        &self.ring
    }

    /// Checks what other nodes prove.
    #[must_use]
    pub const fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Tells of every change of the keys.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<ClusterKeys>> {
        self.keys.subscribe()
    }

    /// The keys to sign with, as they are now.
    #[must_use]
    pub fn signing(&self) -> Signing {
        Signing(Arc::clone(&self.keys.borrow()))
    }

    /// Takes the keys as the file has them now: none if it is gone. One that cannot be used leaves those before in force,
    /// and the log says once why.
    pub fn reload(&self) {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = match load(&self.path) {
            Ok(keys) => keys,
            Err(error) => {
                let text = error.to_string();
                if fault.as_ref() != Some(&text) {
                    warn!(cause = %text, "the cluster keys are not taken; the last good ones stay");
                }
                return *fault = Some(text);
            }
        };
        *fault = None;
        let changes = self.ring.reload(&keys.keys);
        if changes != Changes::default() {
            let (added, removed, altered) = (changes.added, changes.removed, changes.altered);
            info!(?added, ?removed, ?altered, "cluster keys taken");
            self.keys.send_replace(Arc::new(keys));
        }
    }

    /// What is wrong with the file, if anything is.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.clone()
    }
}

/// The cluster keys of one moment, to sign with.
#[derive(Debug, Clone)]
pub struct Signing(Arc<ClusterKeys>);

impl Keys for Signing {
    fn key(&self, turn: usize) -> Option<&Key> {
        let now = OffsetDateTime::now_utc();
        let count = self.0.signing_keys(now).count();
        self.0.signing_keys(now).nth(turn.checked_rem(count)?)
    }
}

/// The keys to sign and check values and messages with: each made of a cluster key for this purpose alone.
#[must_use]
pub fn signing(keys: &ClusterKeys) -> Vec<ClusterKey> {
    let made = keys.keys.iter().filter_map(|key| {
        let secret = key.sign(PURPOSE)?;
        ClusterKey::new(&key.kid, &secret, key.expires.map(SystemTime::from)).ok()
    });
    made.collect()
}

fn load(path: &Path) -> Result<ClusterKeys, KeyFileError> {
    if path.exists() {
        ClusterKeys::load(path)
    } else {
        Ok(ClusterKeys::default())
    }
}
