//! The gateway's files that are read again when they change: certificate, keys, configuration.

use std::path::{Path, PathBuf};

use sallyport_certs::{CertError, Identity};
use sallyport_link::{GatewayFile, GatewayFileError};
use sallyport_ops::ConfigError;
use sallyport_ops::files::{self, FileError};

use crate::config::Config;

/// Length of the key of QUIC's stateless resets.
const RESET_KEY: usize = 32;
const RESET_FILE: &str = "quic-reset.key";

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// `gateway.toml`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `gateway.json`.
    #[error(transparent)]
    Keys(#[from] GatewayFileError),
    /// The certificate or its key.
    #[error("{}: {cause}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: CertError,
    },
    /// A file that cannot be read, or is open to others.
    #[error(transparent)]
    Secret(#[from] FileError),
    /// Anything else about a file.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
}

/// Reads the certificate and its private key, and checks that they belong together.
///
/// # Errors
/// [`FilesError`].
pub fn identity(config: &Config) -> Result<Identity, FilesError> {
    let chain = std::fs::read(&config.cert).map_err(|cause| FilesError::Io {
        path: config.cert.clone(),
        cause,
    })?;
    let key = files::read_secret(&config.key)?;
    Identity::from_pem(&chain, key.as_bytes()).map_err(|cause| FilesError::Certificate {
        path: config.cert.clone(),
        cause,
    })
}

/// Reads `gateway.json`.
///
/// # Errors
/// [`FilesError`].
pub fn keys(config: &Config) -> Result<GatewayFile, FilesError> {
    Ok(GatewayFile::load(&config.gateway_file)?)
}

/// The key of QUIC's stateless resets: made at the first start, kept from then on.
///
/// # Errors
/// [`FilesError`].
pub fn reset_key(state_dir: &Path) -> Result<[u8; RESET_KEY], FilesError> {
    let path = state_dir.join(RESET_FILE);
    let io = |cause| FilesError::Io {
        path: path.clone(),
        cause,
    };
    if !path.exists() {
        let mut fresh = [0; RESET_KEY];
        rustls::crypto::aws_lc_rs::default_provider()
            .secure_random
            .fill(&mut fresh)
            .map_err(|_error| io(std::io::Error::other("no randomness")))?;
        let text: String = fresh.iter().map(|byte| format!("{byte:02x}")).collect();
        files::write_new(&path, text.as_bytes(), 0o600).map_err(io)?;
    }
    let text = files::read_secret(&path)?;
    parse(text.trim()).ok_or_else(|| {
        let cause = "it is damaged; remove it, and relays on QUIC notice a restart a little later";
        io(std::io::Error::other(cause))
    })
}

fn parse(text: &str) -> Option<[u8; RESET_KEY]> {
    let mut key = [0; RESET_KEY];
    if text.len() != 2 * RESET_KEY {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_reset_key_is_made_once_and_closed_to_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = reset_key(dir.path()).expect("made");

        assert_eq!(reset_key(dir.path()).expect("read"), first);
        assert_ne!(first, [0; RESET_KEY]);
        let mode = std::fs::metadata(dir.path().join(RESET_FILE))
            .expect("there")
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_reset_key_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        files::write_new(&dir.path().join(RESET_FILE), b"short", 0o600).expect("writable");

        let error = reset_key(dir.path()).expect_err("damaged").to_string();
        assert!(
            error.contains(RESET_FILE) && error.contains("remove it"),
            "{error}"
        );
    }
}
