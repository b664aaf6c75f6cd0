//! The TLS that this relay ends for its sessions, from the files of their `tls` and `client_ca` keys.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use sallyport_certs::{CertError, Identity, Reloading, front_server_config, mutual_server_config};
use sallyport_ops::files::{self, FileError};
use sallyport_wire::SessionId;
use sallyport_wire::message::Protocol;

use crate::config::{SessionConfig, TlsFiles};
use crate::sessions::Session;

/// Why a session's TLS cannot be had. The configuration is at fault.
#[derive(Debug, thiserror::Error)]
#[error("session `{session}`: {fault}")]
pub struct TlsError {
    session: SessionId,
    #[source]
    fault: Fault,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{}: {cause}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(transparent)]
    Key(#[from] FileError),
    #[error("{} and {}: {cause}", cert.display(), key.display())]
    Pair {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        cause: CertError,
    },
    #[error("{cause}")]
    Config {
        #[source]
        cause: CertError,
    },
}

/// A certificate that is in use, and where it came from.
#[derive(Debug)]
pub struct Served {
    session: SessionId,
    files: TlsFiles,
    certs: Arc<Reloading>,
}

impl Served {
    /// Whose it is.
    #[must_use]
    pub const fn session(&self) -> &SessionId {
        &self.session
    }

    /// Reads the files again; what cannot be used leaves the old certificate in place.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn reload(&self) -> Result<(), TlsError> {
        let identity = identity(&self.files);
        let identity = identity.map_err(|fault| TlsError {
            session: self.session.clone(),
            fault,
        })?;
        self.certs.replace(identity);
        Ok(())
    }
}

/// The sessions with the TLS that each of them asks for, and the certificates behind it.
///
/// # Errors
/// [`TlsError`] for the first session whose files cannot be used.
pub fn open(configs: Vec<SessionConfig>) -> Result<(Vec<Session>, Vec<Served>), TlsError> {
    let mut sessions = Vec::new();
    let mut all = Vec::new();
    for config in configs {
        let tls = match &config.tls {
            Some(files) => {
                let opened = tls(&config, files);
                let (tls, certs) = opened.map_err(|fault| TlsError {
                    session: config.id.clone(),
                    fault,
                })?;
                all.push(Served {
                    session: config.id.clone(),
                    files: files.clone(),
                    certs,
                });
                Some(tls)
            }
            None => None,
        };
        sessions.push(Session::new(config, tls));
    }
    Ok((sessions, all))
}

fn tls(
    config: &SessionConfig,
    files: &TlsFiles,
) -> Result<(Arc<ServerConfig>, Arc<Reloading>), Fault> {
    let certs = Reloading::new(identity(files)?);
    let http = matches!(
        config.protocol,
        Protocol::Http | Protocol::H2c | Protocol::Vnc
    );
    let alpn: &[&[u8]] = if http {
        &[b"h2", b"http/1.1", b"http/1.0"]
    } else {
        &[]
    };
    let server = match &config.client_ca {
        Some(authority) => mutual_server_config(Arc::clone(&certs), &read(authority)?, alpn),
        None => front_server_config(Arc::clone(&certs)),
    };
    let mut server = server.map_err(|cause| Fault::Config { cause })?;
    Arc::make_mut(&mut server).alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok((server, certs))
}

fn identity(files: &TlsFiles) -> Result<Identity, Fault> {
    let pair = |cause| Fault::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        cause,
    };
    let cert = read(&files.cert)?;
    Identity::check_chain(&cert).map_err(pair)?;
    let key = files::read_secret(&files.key)?;
    Identity::from_pem(&cert, key.as_bytes()).map_err(pair)
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    fs::read(path).map_err(|cause| Fault::Read {
        path: path.to_owned(),
        cause,
    })
}
