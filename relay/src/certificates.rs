//! The TLS that this relay ends: for its sessions, from the files of their `tls` and `client_ca` keys, and for clients of
//! its own port.

use std::fmt;
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

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// A session.
    Session(SessionId),
    /// The relay's own port.
    Direct,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(session) => write!(f, "session `{session}`"),
            Self::Direct => f.write_str("[direct]"),
        }
    }
}

/// Why TLS cannot be had. The configuration is at fault.
#[derive(Debug, thiserror::Error)]
#[error("{whose}: {fault}")]
pub struct TlsError {
    whose: Whose,
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
    whose: Whose,
    files: TlsFiles,
    certs: Arc<Reloading>,
}

impl Served {
    /// What it is for.
    #[must_use]
    pub const fn whose(&self) -> &Whose {
        &self.whose
    }

    /// Reads the files again; what cannot be used leaves the old certificate in place.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn reload(&self) -> Result<(), TlsError> {
        let identity = identity(&self.files);
        let identity = identity.map_err(|fault| TlsError {
            whose: self.whose.clone(),
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
                    whose: Whose::Session(config.id.clone()),
                    fault,
                })?;
                all.push(Served {
                    whose: Whose::Session(config.id.clone()),
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

/// The TLS of clients of the relay's own port, and the certificate behind it.
///
/// # Errors
/// [`TlsError`] if the files cannot be used.
pub fn open_direct(files: &TlsFiles) -> Result<(Arc<ServerConfig>, Served), TlsError> {
    let opened = identity(files).map(Reloading::new).and_then(|certs| {
        let server = front_server_config(Arc::clone(&certs));
        let server = server.map_err(|cause| Fault::Config { cause })?;
        Ok((server, certs))
    });
    let (server, certs) = opened.map_err(|fault| TlsError {
        whose: Whose::Direct,
        fault,
    })?;
    let served = Served {
        whose: Whose::Direct,
        files: files.clone(),
        certs,
    };
    Ok((server, served))
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
