//! The gateway's files that are read again when they change: certificate, keys, configuration.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sallyport_certs::{CertError, Identity, Pin};
use sallyport_link::{GatewayFile, KeyFileError, Names, NamesError};
use sallyport_ops::files::{self, FileError};
use sallyport_ops::{ConfigError, privileges};
use sallyport_wire::ClusterNode;

use crate::config::Config;

/// Length of the key of QUIC's stateless resets.
const RESET_KEY: usize = 32;
const RESET_FILE: &str = "quic-reset.key";

/// The file that keeps which node key a name belongs to, in the state directory.
const NAMES_FILE: &str = "names.json";

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// `gateway.toml`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `gateway.json`.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// The certificate or its key.
    #[error("{}: {cause}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: CertError,
    },
    /// The certificate has a key that relays are not told to trust.
    #[error(
        "{}: relays will refuse it: its pin {pin} is not among the pins of this gateway in {}. Keep the private key \
         when the certificate is renewed; for a new one, first add its pin there and copy that file to the nodes",
        cert.display(), file.display()
    )]
    Unpinned {
        /// The certificate.
        cert: PathBuf,
        /// The pin that it has.
        pin: Pin,
        /// The `gateway.json` that lacks it.
        file: PathBuf,
    },
    /// The certificate lacks names of clusters.
    #[error(
        "{}: it does not speak for {names}, so clients will not open the pages there: have it renewed with these names \
         and the same private key, or take the [[cluster]] out of gateway.toml",
        cert.display()
    )]
    Uncovered {
        /// The certificate.
        cert: PathBuf,
        /// The names that it lacks.
        names: String,
    },
    /// A file that cannot be read, or is open to others.
    #[error(transparent)]
    Secret(#[from] FileError),
    /// The accounts cannot be read.
    #[error("looking up the gateway's account: {0}")]
    Account(std::io::Error),
    /// The account that the gateway runs as may not read a file.
    #[error(
        "{path}: not readable by uid {reader}: run `chown {reader} {path}`, and the same with its directory if that \
         is closed to others",
        path = path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The account.
        reader: u32,
    },
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
    certificate(&config.cert, &config.key, reader(config)?)
}

/// As [`identity`], from these files, of which the key's belongs to the user `reader` or to root.
///
/// # Errors
/// [`FilesError`].
pub fn certificate(cert: &Path, key: &Path, reader: u32) -> Result<Identity, FilesError> {
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |cause| FilesError::Certificate { path, cause }
    };
    let chain = std::fs::read(cert).map_err(|cause| {
        let path = cert.to_owned();
        if cause.kind() == ErrorKind::PermissionDenied {
            FilesError::Unreadable { path, reader }
        } else {
            FilesError::Io { path, cause }
        }
    })?;
    Identity::check_chain(&chain).map_err(fault(cert))?;
    let secret = files::read_secret_of(key, reader);
    let secret = secret.map_err(|error| secret_fault(error, reader))?;
    Identity::from_pem(&chain, secret.as_bytes()).map_err(|cause| {
        let of_the_key = matches!(
            cause,
            CertError::Pem(_) | CertError::NoKey | CertError::CertificateForKey | CertError::Key(_)
        );
        fault(if of_the_key { key } else { cert })(cause)
    })
}

/// Whether relays that go by this gateway's `gateway.json` will take its certificate. One that they know by the
/// system's roots has no pins there.
///
/// # Errors
/// [`FilesError::Unpinned`] if they will not, or what keeps the answer from being known.
pub fn pinned(config: &Config, identity: &Identity) -> Result<(), FilesError> {
    let cert = || config.cert.clone();
    let pin = identity.pin();
    let pin = pin.map_err(|cause| FilesError::Certificate {
        path: cert(),
        cause,
    })?;
    let url = config.url.audience();
    let own = keys(config)?.gateways.into_iter();
    let pins: Vec<_> = own
        .filter(|gateway| gateway.url.audience() == url)
        .flat_map(|gateway| gateway.pins)
        .collect();
    if pins.is_empty() || pins.contains(&pin) {
        return Ok(());
    }
    Err(FilesError::Unpinned {
        cert: cert(),
        pin,
        file: config.gateway_file.clone(),
    })
}

/// Whether clients will take the certificate for the names of every cluster that the configuration lists.
///
/// # Errors
/// [`FilesError::Uncovered`] if not.
pub fn covers(config: &Config, identity: &Identity) -> Result<(), FilesError> {
    let names = config.clusters.iter().flat_map(|cluster| {
        let domain = cluster.sessions_domain.as_ref();
        let wildcard = domain.map(|domain| format!("*.{domain}"));
        [Some(cluster.host.clone()), wildcard].into_iter().flatten()
    });
    let names: Vec<_> = names.filter(|name| !speaks_for(identity, name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(FilesError::Uncovered {
        cert: config.cert.clone(),
        names: names.join(", "),
    })
}

/// Whether one of the certificate's names is this host, a wildcard for it included (RFC 9525 §6.3).
pub fn speaks_for(identity: &Identity, host: &str) -> bool {
    let parent = host
        .split_once('.')
        .map(|(_, parent)| format!("*.{parent}"));
    identity.names().iter().any(|name| {
        let name = name.to_ascii_lowercase();
        name == host || parent.as_deref() == Some(name.as_str())
    })
}

/// Reads `gateway.json`.
///
/// # Errors
/// [`FilesError`].
pub fn keys(config: &Config) -> Result<GatewayFile, FilesError> {
    let reader = reader(config)?;
    let file = GatewayFile::load_of(&config.gateway_file, reader);
    file.map_err(|error| {
        if let KeyFileError::File(error) = error {
            return secret_fault(error, reader);
        }
        FilesError::Keys(error)
    })
}

fn secret_fault(error: FileError, reader: u32) -> FilesError {
    if let FileError::Io { path, cause } = &error
        && cause.kind() == ErrorKind::PermissionDenied
    {
        let path = path.clone();
        return FilesError::Unreadable { path, reader };
    }
    FilesError::Secret(error)
}

/// Whose files the gateway reads: those of the account that it becomes, also for root who checks them.
fn reader(config: &Config) -> Result<u32, FilesError> {
    privileges::will_be(&config.user).map_err(FilesError::Account)
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

/// The names of nodes that are bound.
///
/// # Errors
/// [`NamesError`] if the file is there and cannot be used.
pub fn names(config: &Config) -> Result<Names<ClusterNode>, NamesError> {
    let names = Names::load(&config.state_dir.join(NAMES_FILE), config.tunnels.names)?;
    Ok(names.with_share(config.tunnels.names_per_key))
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
