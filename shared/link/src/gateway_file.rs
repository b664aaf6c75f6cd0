//! `gateway.json`: where the gateways are, how to know them, and the keys that open them.

use std::path::Path;

use sallyport_certs::Pin;
use sallyport_ops::config::{self, ConfigError};
use sallyport_ops::files;
use sallyport_wire::NodeName;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::gateway_url::GatewayUrl;
use crate::key::Key;
use crate::key_file::{self, KeyFileError, RawKey};

/// Most gateways in one file.
pub const MAX_GATEWAYS: usize = 64;

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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    gateways: Vec<GatewayAddress>,
    keys: Vec<RawKey>,
}

impl GatewayFile {
    /// Reads and checks the file. It must be closed to everyone but its owner, who is the running user
    /// or root.
    ///
    /// # Errors
    /// [`KeyFileError`] with the place and the cure; it never shows a secret.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let text = files::read_secret(path)?;
        Ok(Self::parse(&text, path)?)
    }

    /// As [`GatewayFile::load`], for a file of the user `uid` or of root.
    ///
    /// # Errors
    /// [`KeyFileError`] as there.
    pub fn load_of(path: &Path, uid: u32) -> Result<Self, KeyFileError> {
        let text = files::read_secret_of(path, uid)?;
        Ok(Self::parse(&text, path)?)
    }

    /// As [`GatewayFile::load`], for a command that an administrator runs: the file may belong to whom it
    /// likes, since root keeps files for the account that the gateway runs as.
    ///
    /// # Errors
    /// [`KeyFileError`] as there.
    pub fn load_as_administrator(path: &Path) -> Result<Self, KeyFileError> {
        Self::load_of(path, key_file::owner(path)?)
    }

    /// Checks text that came from `path`.
    ///
    /// # Errors
    /// [`ConfigError`] for unknown fields, doubled or weak keys and numbers beyond the limits.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: RawFile = config::parse_json(text, path)?;
        let fault = |text: String| ConfigError::fault(path, text);
        let count = raw.gateways.len();
        key_file::check_count("gateways", count, 1..=MAX_GATEWAYS).map_err(fault)?;
        check_distinct(&raw.gateways).map_err(fault)?;
        let keys = key_file::read(raw.keys).map_err(fault)?;
        Ok(Self {
            gateways: raw.gateways,
            keys,
        })
    }

    /// Writes the file as a whole in place of what is there.
    ///
    /// # Errors
    /// [`KeyFileError::Write`]; the old file is then still there.
    pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
        key_file::replace(path, &self.to_text(path)?)
    }

    /// Writes a file that must not exist yet.
    ///
    /// # Errors
    /// [`KeyFileError::Exists`] or [`KeyFileError::Write`].
    pub fn save_new(&self, path: &Path) -> Result<(), KeyFileError> {
        key_file::create(path, &self.to_text(path)?)
    }

    /// The keys with which `node` may sign at `now`, newest first: after a rotation the last one is the
    /// one that stays.
    pub fn signing_keys(&self, node: &NodeName, now: OffsetDateTime) -> impl Iterator<Item = &Key> {
        let usable = move |key: &&Key| {
            key.can_sign() && key.is_live(now) && key.scope.nodes.matches(node.as_str())
        };
        self.keys.iter().rev().filter(usable)
    }

    fn to_text(&self, path: &Path) -> Result<Zeroizing<String>, ConfigError> {
        let raw = RawFile {
            gateways: self.gateways.clone(),
            keys: self.keys.iter().map(RawKey::from).collect(),
        };
        key_file::to_text(path, &raw)
    }
}

/// The second would silently shadow the first.
fn check_distinct(gateways: &[GatewayAddress]) -> Result<(), String> {
    for (at, gateway) in gateways.iter().enumerate() {
        if gateways
            .iter()
            .take(at)
            .any(|other| other.url == gateway.url)
        {
            return Err(format!("gateway {} stands there twice", gateway.url));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
