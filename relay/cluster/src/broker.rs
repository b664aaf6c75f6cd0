//! `broker.json`: where the cluster's broker is, and with what a relay comes to it.

mod parse;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustls::ClientConfig;
use sallyport_certs::{CertError, Identity, Pin, Trust, client_config, known_client_config};
use sallyport_ops::config::{ConfigError, parse_json};
use sallyport_ops::files::{self, FileError};
use sallyport_ops::places;
use serde::Deserialize;
use zeroize::Zeroizing;

pub(crate) use parse::{is_namespace, parse_host};

use parse::{Raw, hosts, login, tls};

/// The file beside the relay's configuration.
pub const BROKER_FILE: &str = "broker.json";

/// Where NATS listens unless told otherwise.
pub const NATS_PORT: u16 = 4222;

/// Where Redis listens unless told otherwise.
pub const REDIS_PORT: u16 = 6379;

/// More servers than that make nothing safer, and each has to agree to every change.
const MANY_HOSTS: usize = 6;

/// Most hosts of a file.
pub(crate) const MAX_HOSTS: usize = 64;

/// What carries the cluster's store and bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transporter {
    /// NATS with JetStream.
    #[default]
    Nats,
    /// One Redis server at a time, as older clusters have it.
    Redis,
    /// A file of this machine; the relay is a cluster of its own.
    Embedded,
}

impl Transporter {
    /// As `broker.json` writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Redis => "redis",
            Self::Embedded => "embedded",
        }
    }
}

/// A checked `broker.json`.
#[derive(Clone)]
pub struct Broker {
    /// The file.
    pub path: PathBuf,
    /// What the broker is.
    pub transporter: Transporter,
    /// Its servers, tried in turn; at least one unless it is embedded.
    pub hosts: Vec<Host>,
    /// Who we are to it.
    pub login: Option<Login>,
    /// How its certificate is checked, and ours shown; none for a broker without TLS.
    pub tls: Option<Tls>,
    /// Begins the names of all that is this cluster's.
    pub namespace: String,
}

/// A server of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Name or address; an IPv6 address without brackets.
    pub name: String,
    /// Port.
    pub port: u16,
}

/// Who we are to the broker.
#[derive(Clone)]
pub enum Login {
    /// By name and password.
    Password {
        /// Name.
        user: String,
        /// Password.
        password: Zeroizing<String>,
    },
    /// By the content of a credentials file of NATS.
    Creds(Zeroizing<String>),
}

/// The files and words of `tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Authority that vouches for the broker; the system's if there is none and no pin.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, for a broker that asks for one.
    pub own: Option<(PathBuf, PathBuf)>,
    /// The broker's key.
    pub pin: Option<Pin>,
}

/// Why the file cannot be used. Its text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Others can read it, or it cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It says something wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A certificate that it names.
    #[error("{}: {cause}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: CertError,
    },
    /// A file that it names.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

impl Broker {
    /// Reads the file, which holds a secret and must be closed to others, and the credentials that it names.
    ///
    /// # Errors
    /// [`BrokerError`]; all that is wrong with its content at once.
    pub fn load(path: &Path) -> Result<Self, BrokerError> {
        let text = files::read_secret(path)?;
        let mut broker = Self::parse(&text, path)?;
        let creds = parse_json::<Raw>(&text, path)?.creds;
        if let Some(creds) = creds {
            let creds = files::read_secret(&places::relative_to(path, &creds))?;
            broker.login = Some(Login::Creds(creds));
        }
        Ok(broker)
    }

    /// Checks the text of a file at `path`, without reading those that it names.
    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: Raw = parse_json(text, path)?;
        let mut faults = Vec::new();
        let hosts = hosts(&raw, &mut faults);
        let tls = tls(&raw, path, &mut faults);
        let login = login(&raw, &mut faults);
        let namespace = raw.namespace.unwrap_or_else(|| "sallyport".to_owned());
        if !is_namespace(&namespace) {
            faults.push("`namespace` has 1 to 32 characters a-z A-Z 0-9 - _".to_owned());
        }
        if faults.is_empty() {
            return Ok(Self {
                path: path.to_owned(),
                transporter: raw.transporter_type,
                hosts,
                login,
                tls,
                namespace,
            });
        }
        Err(ConfigError::fault(path, faults.join("; ")))
    }

    /// What is allowed and not wise, for log and doctor.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let count = self.hosts.len();
        if count > MANY_HOSTS {
            warnings.push(format!(
                "{count} hosts: three servers are enough for a cluster of any size"
            ));
        }
        let far = self.hosts.iter().any(|host| !host.is_loopback());
        if self.tls.is_none() && self.login.is_some() && far {
            warnings.push(
                "the password crosses the network unencrypted: add `tls` and run the broker with it"
                    .to_owned(),
            );
        }
        warnings
    }

    /// The TLS configuration that `tls` asks for, from the files that it names.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn client_config(&self) -> Result<Option<ClientConfig>, BrokerError> {
        let Some(tls) = &self.tls else {
            return Ok(None);
        };
        let trust = self.trust(tls)?;
        let fault = |cause| self.certificate(&self.path, cause);
        let config = match &tls.own {
            None => client_config(&trust, &[]).map_err(fault)?,
            Some((cert, key)) => {
                let chain = read(cert)?;
                let key = files::read_secret(key)?;
                let identity = Identity::from_pem(&chain, key.as_bytes());
                let identity = identity.map_err(|cause| self.certificate(cert, cause))?;
                known_client_config(&trust, &[], &identity).map_err(fault)?
            }
        };
        Ok(Some(ClientConfig::clone(&config)))
    }

    fn trust(&self, tls: &Tls) -> Result<Trust, BrokerError> {
        match (&tls.pin, &tls.ca) {
            (Some(pin), _) => Ok(Trust::Pins(vec![*pin])),
            (None, Some(ca)) => {
                Trust::from_pem(&read(ca)?).map_err(|cause| self.certificate(ca, cause))
            }
            (None, None) => Trust::system().map_err(|cause| self.certificate(&self.path, cause)),
        }
    }

    fn certificate(&self, path: &Path, cause: CertError) -> BrokerError {
        BrokerError::Certificate {
            path: path.to_owned(),
            cause,
        }
    }
}

impl Host {
    fn is_loopback(&self) -> bool {
        let address = self.name.parse::<std::net::IpAddr>();
        self.name == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BrokerError> {
    std::fs::read(path).map_err(|cause| BrokerError::Io {
        path: path.to_owned(),
        cause,
    })
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            return write!(f, "[{}]:{}", self.name, self.port);
        }
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// Without the password.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password({user})"),
            Self::Creds(_) => f.write_str("Creds"),
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("transporter", &self.transporter)
            .field("hosts", &self.hosts)
            .field("login", &self.login)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
