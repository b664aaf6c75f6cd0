//! `cluster-keys.json`: the keys by which the relays of a cluster know each other. Each of them makes tokens with the
//! newest and accepts all, so that rotation is add, copy, revoke.

use std::path::Path;

use sallyport_ops::config::{self, ConfigError};
use sallyport_ops::files;
use sallyport_wire::Scope;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::key::{Key, Material};
use crate::key_file::{self, KeyFileError, RawKey};

/// The content of a `cluster-keys.json`.
#[derive(Debug, Clone, Default)]
pub struct ClusterKeys {
    /// The keys, oldest first; each has a shared secret and no scope.
    pub keys: Vec<Key>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    keys: Vec<RawKey>,
}

impl ClusterKeys {
    /// Reads and checks the file. It must be closed to everyone but its owner, who is the running user or root.
    ///
    /// # Errors
    /// [`KeyFileError`] with the place and the cure; it never shows a secret.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let text = files::read_secret(path)?;
        Ok(Self::parse(&text, path)?)
    }

    /// As [`ClusterKeys::load`], for a command that an administrator runs: the file may belong to whom it likes, since
    /// root keeps files for the account that the relay runs as.
    ///
    /// # Errors
    /// [`KeyFileError`] as there.
    pub fn load_as_administrator(path: &Path) -> Result<Self, KeyFileError> {
        let text = files::read_secret_of(path, key_file::owner(path)?)?;
        Ok(Self::parse(&text, path)?)
    }

    /// Checks text that came from `path`.
    ///
    /// # Errors
    /// [`ConfigError`] for unknown fields, for doubled or weak keys, and for what only keys of `gateway.json` have.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: RawFile = config::parse_json(text, path)?;
        let fault = |text: String| ConfigError::fault(path, text);
        let keys = key_file::read(raw.keys).map_err(fault)?;
        for Key {
            kid,
            material,
            scope,
            ..
        } in &keys
        {
            if !matches!(material, Material::Shared(_)) || *scope != Scope::default() {
                return Err(fault(format!(
                    "key `{kid}`: a cluster key has `kid`, `secret` and `expires` alone, for every node has the same keys"
                )));
            }
        }
        Ok(Self { keys })
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

    /// The keys to sign with at `now`, newest first: after a rotation the last one is the one that stays.
    pub fn signing_keys(&self, now: OffsetDateTime) -> impl Iterator<Item = &Key> {
        self.keys.iter().rev().filter(move |key| key.is_live(now))
    }

    fn to_text(&self, path: &Path) -> Result<Zeroizing<String>, ConfigError> {
        let keys = self.keys.iter().map(RawKey::from).collect();
        key_file::to_text(path, &RawFile { keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use time::Duration;

    const SECRET: &str = "q7ZKx1mOe0Zk3uV9bXJYt2sR8dFhLwCpN4aGvQyTiEo";

    fn parse(keys: &str) -> Result<ClusterKeys, String> {
        let text = format!(r#"{{"keys":[{keys}]}}"#);
        let path = Path::new("/etc/sallyport/cluster-keys.json");
        ClusterKeys::parse(&text, path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_reads_back_as_it_was_written_and_is_closed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cluster-keys.json");
        let end = OffsetDateTime::from_unix_timestamp(1_900_000_000).expect("a time");
        let old = Key::generate(Scope::default(), Some(end)).expect("randomness");
        let new = Key::generate(Scope::default(), None).expect("randomness");
        let file = ClusterKeys {
            keys: vec![old.clone(), new.clone()],
        };

        file.save_new(&path).expect("written");
        let again = file.save_new(&path);
        let read = ClusterKeys::load(&path).expect("read");

        assert!(matches!(again, Err(KeyFileError::Exists(_))));
        assert!(read.keys[0].same_material(&old) && read.keys[0].expires == Some(end));
        let first = |now| read.signing_keys(now).next().map(|key| key.kid.clone());
        assert_eq!(first(end), Some(new.kid));
        assert_eq!(read.signing_keys(end - Duration::SECOND).count(), 2);
        assert_eq!(read.signing_keys(end).count(), 1);
        let open = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(&path, open).expect("its owner");
        assert!(matches!(
            ClusterKeys::load(&path),
            Err(KeyFileError::File(_))
        ));
    }

    #[test]
    fn what_only_gateways_keys_have_is_refused_by_name() {
        let pair = Key::generate_pair(Scope::default(), None).expect("randomness");
        let text = serde_json::to_string(&RawKey::from(&pair)).expect("JSON");
        let cases = [
            (
                format!(r#"{{"kid":"k1","secret":"{SECRET}","scope":{{"nodes":"gpu-*"}}}}"#),
                "alone",
            ),
            (text, "alone"),
            (
                format!(r#"{{"kid":"k1","secret":"{SECRET}","level":1}}"#),
                "level",
            ),
            (r#"{"kid":"k1","secret":"c2hvcnQ"}"#.to_owned(), "bytes"),
            (
                format!(r#"{{"kid":"k1","secret":"{SECRET}"}},{{"kid":"k2","secret":"{SECRET}"}}"#),
                "same secret",
            ),
        ];
        for (keys, part) in cases {
            let error = parse(&keys).expect_err(part);
            assert!(error.contains(part) && !error.contains(SECRET), "{error}");
        }
        assert!(parse("").expect("none is fine").keys.is_empty());
    }
}
