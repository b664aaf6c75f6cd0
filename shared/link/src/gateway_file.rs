//! `gateway.json`: where the gateways are, how to know them, and the keys that open them.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sallyport_certs::Pin;
use sallyport_ops::config::{self, ConfigError};
use sallyport_ops::files::{self, FileError};
use sallyport_wire::{NodeName, Scope};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::gateway_url::GatewayUrl;
use crate::key::{self, Key, KeyError, Material, Secret, Seed};

/// Most gateways in one file.
pub const MAX_GATEWAYS: usize = 64;

/// Most keys in one file.
pub const MAX_KEYS: usize = 4096;

/// Mode of the file: it holds secrets.
const MODE: u32 = 0o600;

/// The content of a `gateway.json`.
#[derive(Debug, Clone)]
pub struct GatewayFile {
    /// The gateways, each of which knows all keys of the file.
    pub gateways: Vec<GatewayAddress>,
    /// The keys, oldest first.
    pub keys: Vec<Key>,
}

/// Where a gateway is and how its certificate is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayAddress {
    /// Its URL.
    pub url: GatewayUrl,
    /// Pins of its certificate; where there is none, the system's roots decide.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Pin>,
}

/// Why a `gateway.json` is not used or not written.
#[derive(Debug, thiserror::Error)]
pub enum GatewayFileError {
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
}

impl GatewayFileError {
    /// Whether the file is wrong as it stands, rather than what was to be done with it.
    #[must_use]
    pub const fn is_config(&self) -> bool {
        matches!(self, Self::File(_) | Self::Config(_))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    gateways: Vec<GatewayAddress>,
    keys: Vec<RawKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKey {
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

impl GatewayFile {
    /// Reads and checks the file. It must be closed to everyone but its owner, who is the running user
    /// or root.
    ///
    /// # Errors
    /// [`GatewayFileError`] with the place and the cure; it never shows a secret.
    pub fn load(path: &Path) -> Result<Self, GatewayFileError> {
        let text = files::read_secret(path)?;
        Ok(Self::parse(&text, path)?)
    }

    /// As [`GatewayFile::load`], for a file of the user `uid` or of root.
    ///
    /// # Errors
    /// [`GatewayFileError`] as there.
    pub fn load_of(path: &Path, uid: u32) -> Result<Self, GatewayFileError> {
        let text = files::read_secret_of(path, uid)?;
        Ok(Self::parse(&text, path)?)
    }

    /// As [`GatewayFile::load`], for a command that an administrator runs: the file may belong to whom it
    /// likes, since root keeps files for the account that the gateway runs as.
    ///
    /// # Errors
    /// [`GatewayFileError`] as there.
    pub fn load_as_administrator(path: &Path) -> Result<Self, GatewayFileError> {
        let owner = std::fs::metadata(path).map(|file| file.uid());
        let owner = owner.map_err(|cause| FileError::Io {
            path: path.to_owned(),
            cause,
        })?;
        Self::load_of(path, owner)
    }

    /// Checks text that came from `path`.
    ///
    /// # Errors
    /// [`ConfigError`] for unknown fields, doubled or weak keys and numbers beyond the limits.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: RawFile = config::parse_json(text, path)?;
        let fault = |text: String| ConfigError::fault(path, text);
        check_count("gateways", raw.gateways.len(), 1..=MAX_GATEWAYS).map_err(fault)?;
        check_count("keys", raw.keys.len(), 0..=MAX_KEYS).map_err(fault)?;
        let keys: Result<Vec<Key>, KeyError> = raw.keys.into_iter().map(Key::try_from).collect();
        let keys = keys.map_err(|error| fault(error.to_string()))?;
        check_distinct(&raw.gateways, &keys).map_err(fault)?;
        Ok(Self {
            gateways: raw.gateways,
            keys,
        })
    }

    /// Writes the file as a whole in place of what is there.
    ///
    /// # Errors
    /// [`GatewayFileError::Write`]; the old file is then still there.
    pub fn save(&self, path: &Path) -> Result<(), GatewayFileError> {
        let written = files::write_atomic(path, self.to_text()?.as_bytes(), MODE);
        written.map_err(|cause| write_error(path, cause))
    }

    /// Writes a file that must not exist yet.
    ///
    /// # Errors
    /// [`GatewayFileError::Exists`] or [`GatewayFileError::Write`].
    pub fn save_new(&self, path: &Path) -> Result<(), GatewayFileError> {
        let written = files::write_new(path, self.to_text()?.as_bytes(), MODE);
        written.map_err(|cause| write_error(path, cause))
    }

    /// The keys with which `node` may sign at `now`, newest first: after a rotation the last one is the
    /// one that stays.
    pub fn signing_keys(&self, node: &NodeName, now: OffsetDateTime) -> impl Iterator<Item = &Key> {
        let usable = move |key: &&Key| {
            key.can_sign() && key.is_live(now) && key.scope.nodes.matches(node.as_str())
        };
        self.keys.iter().rev().filter(usable)
    }

    fn to_text(&self) -> Result<Zeroizing<String>, ConfigError> {
        let keys = self.keys.iter().map(RawKey::from).collect();
        let raw = RawFile {
            gateways: self.gateways.clone(),
            keys,
        };
        let text = serde_json::to_string_pretty(&raw);
        let text =
            text.map_err(|e| ConfigError::fault(Path::new("gateway.json"), e.to_string()))?;
        Ok(Zeroizing::new(text + "\n"))
    }
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

fn check_count(
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

/// One gateway once, one key id once, one secret once: the second would silently shadow the first.
fn check_distinct(gateways: &[GatewayAddress], keys: &[Key]) -> Result<(), String> {
    for (at, gateway) in gateways.iter().enumerate() {
        if gateways
            .iter()
            .take(at)
            .any(|other| other.url == gateway.url)
        {
            return Err(format!("gateway {} stands there twice", gateway.url));
        }
    }
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

fn write_error(path: &Path, cause: io::Error) -> GatewayFileError {
    let path = path.to_owned();
    if cause.kind() == io::ErrorKind::AlreadyExists {
        return GatewayFileError::Exists(path);
    }
    GatewayFileError::Write { path, cause }
}

fn is_default(scope: &Scope) -> bool {
    *scope == Scope::default()
}

#[cfg(test)]
mod tests;
