//! Who a node is: an Ed25519 key made at the relay's first start, and the number of its starts.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sallyport_ops::config::{self, ConfigError};
use sallyport_ops::files::{self, FileError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::key::Key;
use crate::token::{self, Grant, MintError};

/// File of the state directory with the node key.
pub const IDENTITY_FILE: &str = "identity.json";

/// File of the state directory with the last generation.
pub const GENERATION_FILE: &str = "generation";

/// Where a machine says which one it is (machine-id(5)).
pub const MACHINE_ID: &str = "/etc/machine-id";

/// Both files are for the relay alone.
const MODE: u32 = 0o600;

/// The node's key pair. The gateway binds the node's name to it on first use.
pub struct NodeIdentity {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

/// Both proofs of a hello or a rotation.
#[derive(Clone, PartialEq, Eq)]
pub struct Proof {
    /// JWT by a key of `gateway.json`.
    pub token: String,
    /// The node key's signature over the token.
    pub proof: Bytes,
}

/// Why a node has no identity or no generation.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The state directory was copied from another machine.
    #[error(
        "{} was made on another machine: two nodes with one key would push each other out. If this node was cloned, \
         remove the file and start again; if the machine itself got a new /etc/machine-id, delete the line `machine` from it",
        .0.display()
    )]
    Cloned(PathBuf),
    /// The key file cannot be read, or others could read it too.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key file's content is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of the state directory cannot be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The generation file holds no number that could rise.
    #[error("{}: not a generation; remove the file, the next one is taken from the clock", .0.display())]
    Generation(PathBuf),
    /// The system's source of randomness failed.
    #[error("the system gave no random bytes")]
    NoRandom,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIdentity {
    /// PKCS #8 (RFC 8410 §7) in base64url.
    key: String,
    /// Hash of the machine id on which it was made; none where the machine has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    machine: Option<String>,
}

impl NodeIdentity {
    /// The identity in `state_dir`, made there at the first start, for the machine of [`MACHINE_ID`].
    ///
    /// # Errors
    /// [`IdentityError`]; [`IdentityError::Cloned`] if it was made on another machine.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, IdentityError> {
        Self::load_or_create_on(state_dir, Path::new(MACHINE_ID))
    }

    /// As [`NodeIdentity::load_or_create`], for the machine that the file `machine_id` names.
    ///
    /// # Errors
    /// As there.
    pub fn load_or_create_on(state_dir: &Path, machine_id: &Path) -> Result<Self, IdentityError> {
        let path = state_dir.join(IDENTITY_FILE);
        let machine = machine_hash(machine_id);
        if !path.exists() {
            create(&path, machine.clone())?;
        }
        load(&path, machine.as_deref())
    }

    /// A key that is kept nowhere: for a node that asks before it has one.
    ///
    /// # Errors
    /// [`IdentityError::NoRandom`].
    pub fn passing() -> Result<Self, IdentityError> {
        let pair = Ed25519KeyPair::generate().map_err(|_none| IdentityError::NoRandom)?;
        let public = pair.public_key().as_ref().try_into();
        let public = public.map_err(|_length| IdentityError::NoRandom)?;
        Ok(Self { pair, public })
    }

    /// The public key, which every hello carries.
    #[must_use]
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The node id: the first 16 bytes of the public key's SHA-256, in hex.
    #[must_use]
    pub fn id(&self) -> String {
        fingerprint(&self.public)
    }

    /// The node key's signature (RFC 8032 §5.1.6) over `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Bytes {
        Bytes::copy_from_slice(self.pair.sign(message).as_ref())
    }

    /// Makes a token with `key` and signs it with the node key.
    ///
    /// # Errors
    /// [`MintError`].
    pub fn prove(&self, key: &Key, grant: &Grant<'_>, now: SystemTime) -> Result<Proof, MintError> {
        let token = token::mint(key, grant, now)?;
        let proof = self.sign(token.as_bytes());
        Ok(Proof { token, proof })
    }
}

/// The short form of a node's public key for status and log: 32 hex digits.
#[must_use]
pub fn fingerprint(public: &[u8; 32]) -> String {
    let hash = digest::digest(&digest::SHA256, public);
    hash.as_ref()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The next generation of this node: above the last one and not below the nanoseconds since 1970, and on
/// disk before anyone hears of it.
///
/// # Errors
/// [`IdentityError`] if the last one cannot be read or the new one cannot be kept.
pub fn next_generation(state_dir: &Path, now: SystemTime) -> Result<u64, IdentityError> {
    let path = state_dir.join(GENERATION_FILE);
    let broken = || IdentityError::Generation(path.clone());
    let last = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_not_a_number| broken())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(cause) => return Err(IdentityError::Io { path, cause }),
    };
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let clock = u64::try_from(since.as_nanos()).unwrap_or(0);
    let next = u64::checked_add(last, 1).ok_or_else(broken)?.max(clock);
    match files::write_atomic(&path, format!("{next}\n").as_bytes(), MODE) {
        Ok(()) => Ok(next),
        Err(cause) => Err(IdentityError::Io { path, cause }),
    }
}

/// Makes the file; where another process was faster, its key stays.
fn create(path: &Path, machine: Option<String>) -> Result<(), IdentityError> {
    let pair = Ed25519KeyPair::generate().map_err(|_none| IdentityError::NoRandom)?;
    let pkcs8 = pair.to_pkcs8().map_err(|_none| IdentityError::NoRandom)?;
    let raw = RawIdentity {
        key: URL_SAFE_NO_PAD.encode(pkcs8.as_ref()),
        machine,
    };
    let text = serde_json::to_string_pretty(&raw).map(|text| Zeroizing::new(text + "\n"));
    let text = text.map_err(|error| ConfigError::fault(path, error.to_string()))?;
    drop(Zeroizing::new(raw.key));
    match files::write_new(path, text.as_bytes(), MODE) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(IdentityError::Io {
            path: path.to_owned(),
            cause,
        }),
        _ => Ok(()),
    }
}

fn load(path: &Path, machine: Option<&str>) -> Result<NodeIdentity, IdentityError> {
    let text = files::read_secret(path)?;
    let raw: RawIdentity = config::parse_json(&text, path)?;
    let key = Zeroizing::new(raw.key);
    if let (Some(made_on), Some(here)) = (raw.machine.as_deref(), machine)
        && made_on != here
    {
        return Err(IdentityError::Cloned(path.to_owned()));
    }
    let pkcs8 = URL_SAFE_NO_PAD.decode(&*key).ok().map(Zeroizing::new);
    let pair = pkcs8.and_then(|pkcs8| Ed25519KeyPair::from_pkcs8(&pkcs8).ok());
    let public = pair
        .as_ref()
        .and_then(|pair| pair.public_key().as_ref().try_into().ok());
    let broken = || ConfigError::fault(path, "`key` is no Ed25519 key; a backup has the right one");
    let (pair, public) = pair.zip(public).ok_or_else(broken)?;
    Ok(NodeIdentity { pair, public })
}

/// A hash, because machine-id(5) asks that the id itself is not shown around.
fn machine_hash(machine_id: &Path) -> Option<String> {
    let text = std::fs::read_to_string(machine_id).ok()?;
    let id = text.trim();
    let hash = digest::digest(&digest::SHA256, format!("sallyport node {id}").as_bytes());
    (!id.is_empty()).then(|| URL_SAFE_NO_PAD.encode(hash))
}

impl std::fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    fn machine(dir: &Path, id: &str) -> PathBuf {
        let path = dir.join(format!("machine-{id}"));
        std::fs::write(&path, format!("{id}\n")).expect("a file");
        path
    }

    #[test]
    fn the_key_is_made_once_and_kept_closed() {
        let dir = tempfile::tempdir().expect("a directory");
        let here = machine(dir.path(), "m1");

        let first = NodeIdentity::load_or_create_on(dir.path(), &here).expect("made");
        let again = NodeIdentity::load_or_create_on(dir.path(), &here).expect("read");

        assert_eq!(first.public(), again.public());
        assert_eq!(first.id().len(), 32);
        let mode = std::fs::metadata(dir.path().join(IDENTITY_FILE)).expect("the file");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        assert!(crate::key::verify_ed25519(
            again.public(),
            b"text",
            &first.sign(b"text")
        ));
    }

    #[test]
    fn a_copied_state_directory_is_named_with_the_cure() {
        let dir = tempfile::tempdir().expect("a directory");
        NodeIdentity::load_or_create_on(dir.path(), &machine(dir.path(), "m1")).expect("made");

        let copied = NodeIdentity::load_or_create_on(dir.path(), &machine(dir.path(), "m2"));

        let error = copied.expect_err("another machine");
        assert!(matches!(error, IdentityError::Cloned(_)));
        assert!(error.to_string().contains("remove the file"), "{error}");
        let nowhere = dir.path().join("no-machine-id");
        assert!(NodeIdentity::load_or_create_on(dir.path(), &nowhere).is_ok());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let here = machine(dir.path(), "m1");
        NodeIdentity::load_or_create_on(dir.path(), &here).expect("made");
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(dir.path().join(IDENTITY_FILE), open).expect("chmod");

        let refused = NodeIdentity::load_or_create_on(dir.path(), &here);

        assert!(matches!(refused, Err(IdentityError::File(_))));
    }

    #[test]
    fn generations_rise_also_when_the_clock_does_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);

        let first = next_generation(dir.path(), now).expect("the first");
        let same = next_generation(dir.path(), now).expect("at the same time");
        let back = next_generation(dir.path(), SystemTime::UNIX_EPOCH).expect("a clock at zero");
        let later = next_generation(dir.path(), now + Duration::from_secs(1)).expect("later");

        assert_eq!(first, 1_800_000_000_000_000_000);
        assert_eq!((same, back), (first + 1, first + 2));
        assert_eq!(later, 1_800_000_001_000_000_000);
    }

    #[test]
    fn a_broken_generation_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        for broken in ["", "x", "-1", &u64::MAX.to_string()] {
            std::fs::write(dir.path().join(GENERATION_FILE), broken).expect("a file");
            let error = next_generation(dir.path(), SystemTime::UNIX_EPOCH);
            assert!(
                matches!(error, Err(IdentityError::Generation(_))),
                "{broken}"
            );
        }
    }
}
