//! Keys as files hold them: `gateway.json` and `cluster-keys.json`.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sallyport_ops::config::ConfigError;
use sallyport_ops::files::{self, FileError};
use sallyport_wire::Scope;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use crate::key::{self, Key, KeyError, Material, Secret, Seed};

/// Most keys in one file.
pub const MAX_KEYS: usize = 4096;

/// Mode of the file: it holds secrets.
const MODE: u32 = 0o600;

/// Why a file of keys is not used or not written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read, or others could read it too.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its content is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is such a file already; nothing was written.
    #[error("{} exists and is not overwritten; move it away or choose another name", .0.display())]
    Exists(PathBuf),
    /// It cannot be written.
    #[error("{}: cannot be written: {cause}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// There is no key of that id.
    #[error("there is no key `{kid}`; there are: {there}")]
    NoKey {
        /// As asked for.
        kid: String,
        /// Those that exist.
        there: String,
    },
    /// Another command could not be kept out of the file.
    #[error("{}: its folder cannot be locked: {cause}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

impl KeyFileError {
    /// Whether the file is wrong as it stands, rather than what was to be done with it.
    #[must_use]
    pub const fn is_config(&self) -> bool {
        matches!(self, Self::File(_) | Self::Config(_))
    }
}

/// Keeps other commands out of a file of keys for as long as the lock is held.
///
/// # Errors
/// [`KeyFileError::Lock`].
pub fn lock(file: &Path) -> Result<File, KeyFileError> {
    files::lock_folder_of(file).map_err(|cause| KeyFileError::Lock {
        path: file.to_owned(),
        cause,
    })
}

/// Takes the key of an id out of `keys`.
///
/// # Errors
/// [`KeyFileError::NoKey`].
pub fn take_out(keys: &mut Vec<Key>, kid: &str) -> Result<Key, KeyFileError> {
    let Some(at) = keys.iter().position(|key| key.kid == kid) else {
        let there: Vec<_> = keys.iter().map(|key| key.kid.as_str()).collect();
        return Err(KeyFileError::NoKey {
            kid: kid.to_owned(),
            there: there.join(", "),
        });
    };
    Ok(keys.remove(at))
}

/// A key as it is listed, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its id.
    pub kid: String,
    /// `live` or `expired`.
    pub state: &'static str,
    /// When it ends (RFC 3339); none for never.
    pub expires: Option<String>,
}

impl Listed {
    /// The key as it is at `now`.
    #[must_use]
    pub fn new(key: &Key, now: OffsetDateTime) -> Self {
        Self {
            kid: key.kid.clone(),
            state: if key.is_live(now) { "live" } else { "expired" },
            expires: key.expires.and_then(|end| end.format(&Rfc3339).ok()),
        }
    }

    /// When it ends, as people read it.
    #[must_use]
    pub fn until(&self) -> String {
        self.expires.clone().unwrap_or_else(|| "never".to_owned())
    }
}

/// One key as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawKey {
    kid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    private_key: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    scope: Scope,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    expires: Option<OffsetDateTime>,
}

/// Whose file it is: commands of an administrator take it from whom it belongs to, since root keeps files for the account
/// that a program runs as.
///
/// # Errors
/// If it cannot be looked at.
pub(crate) fn owner(path: &Path) -> Result<u32, FileError> {
    let owner = std::fs::metadata(path).map(|file| file.uid());
    owner.map_err(|cause| FileError::Io {
        path: path.to_owned(),
        cause,
    })
}

/// Writes a file as a whole in place of what is there.
pub(crate) fn replace(path: &Path, text: &Zeroizing<String>) -> Result<(), KeyFileError> {
    let written = files::write_atomic(path, text.as_bytes(), MODE);
    written.map_err(|cause| write_error(path, cause))
}

/// Writes a file that must not exist yet.
pub(crate) fn create(path: &Path, text: &Zeroizing<String>) -> Result<(), KeyFileError> {
    let written = files::write_new(path, text.as_bytes(), MODE);
    written.map_err(|cause| write_error(path, cause))
}

/// The text of a file.
pub(crate) fn to_text(path: &Path, raw: &impl Serialize) -> Result<Zeroizing<String>, ConfigError> {
    let text = serde_json::to_string_pretty(raw);
    let text = text.map_err(|error| ConfigError::fault(path, error.to_string()))?;
    Ok(Zeroizing::new(text + "\n"))
}

/// Reads the keys of a file: at most [`MAX_KEYS`], no id and no secret twice, since the second would silently shadow the
/// first.
///
/// # Errors
/// What is wrong, in words for whoever wrote the file.
pub(crate) fn read(keys: Vec<RawKey>) -> Result<Vec<Key>, String> {
    check_count("keys", keys.len(), 0..=MAX_KEYS)?;
    let keys: Result<Vec<Key>, KeyError> = keys.into_iter().map(Key::try_from).collect();
    let keys = keys.map_err(|error| error.to_string())?;
    check_distinct(&keys)?;
    Ok(keys)
}

pub(crate) fn check_count(
    what: &str,
    found: usize,
    allowed: std::ops::RangeInclusive<usize>,
) -> Result<(), String> {
    if allowed.contains(&found) {
        return Ok(());
    }
    let (least, most) = allowed.into_inner();
    Err(format!(
        "`{what}` has {found} entries, it may have {least} to {most}"
    ))
}

fn check_distinct(keys: &[Key]) -> Result<(), String> {
    for (at, key) in keys.iter().enumerate() {
        if keys.iter().take(at).any(|other| other.kid == key.kid) {
            return Err(format!("key id `{}` stands there twice", key.kid));
        }
        if let Some(twin) = keys.iter().take(at).find(|other| other.same_material(key)) {
            let (a, b) = (&twin.kid, &key.kid);
            return Err(format!(
                "keys `{a}` and `{b}` have the same secret; revoke one of them"
            ));
        }
    }
    Ok(())
}

impl TryFrom<RawKey> for Key {
    type Error = KeyError;

    fn try_from(raw: RawKey) -> Result<Self, KeyError> {
        let RawKey {
            kid,
            secret,
            public_key,
            private_key,
            scope,
            expires,
        } = raw;
        let secret = secret.map(Zeroizing::new);
        let private_key = private_key.map(Zeroizing::new);
        key::check_kid(&kid)?;
        let material = match (secret, public_key, private_key) {
            (Some(secret), None, None) => Material::Shared(Secret::from_text(&kid, &secret)?),
            (None, Some(public), None) => Material::Public(half(&kid, "public_key", &public)?),
            (None, public, Some(private)) => private_material(&kid, public.as_deref(), &private)?,
            (Some(_), _, _) | (None, None, None) => return Err(KeyError::Material(kid)),
        };
        Ok(Self {
            kid,
            material,
            scope,
            expires,
        })
    }
}

impl From<&Key> for RawKey {
    fn from(key: &Key) -> Self {
        let public = key.public_half().map(|half| match half.material {
            Material::Public(public) => key::to_base64url(&public),
            Material::Shared(_) | Material::Private(_) => String::new(),
        });
        let (secret, private_key) = match &key.material {
            Material::Shared(secret) => (Some(secret.to_text().to_string()), None),
            Material::Private(seed) => (None, Some(seed.to_text().to_string())),
            Material::Public(_) => (None, None),
        };
        Self {
            kid: key.kid.clone(),
            secret,
            public_key: public,
            private_key,
            scope: key.scope.clone(),
            expires: key.expires,
        }
    }
}

fn half(kid: &str, field: &'static str, text: &str) -> Result<[u8; 32], KeyError> {
    let bytes = key::from_base64url(kid, field, text)?;
    let kid = kid.to_owned();
    bytes
        .as_slice()
        .try_into()
        .map_err(|_length| KeyError::Ed25519 { kid, field })
}

fn private_material(kid: &str, public: Option<&str>, private: &str) -> Result<Material, KeyError> {
    let seed = Zeroizing::new(half(kid, "private_key", private)?);
    let seed = Seed::new(kid, seed)?;
    let public = public
        .map(|text| half(kid, "public_key", text))
        .transpose()?;
    match public {
        Some(public) if public != *seed.public() => Err(KeyError::Ed25519 {
            kid: kid.to_owned(),
            field: "public_key",
        }),
        _ => Ok(Material::Private(seed)),
    }
}

fn write_error(path: &Path, cause: io::Error) -> KeyFileError {
    let path = path.to_owned();
    if cause.kind() == io::ErrorKind::AlreadyExists {
        return KeyFileError::Exists(path);
    }
    KeyFileError::Write { path, cause }
}

fn is_default(scope: &Scope) -> bool {
    *scope == Scope::default()
}
