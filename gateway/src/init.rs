//! `sallyport-gateway init`: everything that a gateway needs to run, written once.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use rustls::pki_types::UnixTime;
use sallyport_certs::{CertError, Identity, Pin, TEN_YEARS, Trust, self_signed};
use sallyport_link::key::KeyError;
use sallyport_link::{GatewayAddress, GatewayFile, GatewayUrl, Host, Key, KeyFileError};
use sallyport_ops::written::{MODE_DIR, MODE_PUBLIC, MODE_SECRET, Written};
use sallyport_ops::{Exit, places, privileges};
use sallyport_wire::Scope;

use crate::files::{FilesError, speaks_for};

const TEMPLATE: &str = include_str!("init/gateway.toml");
const CONFIG: &str = "gateway.toml";
const KEYS: &str = "gateway.json";
const CERT: &str = "cert.pem";
const KEY: &str = "key.pem";

/// The account that a gateway started as root becomes unless told otherwise; its files must be its own.
const ACCOUNT: &str = "sallyport";

/// What `init` is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct InitArgs {
    /// The public URL, `https://HOST[:PORT]`
    #[arg(long, value_name = "URL")]
    pub url: GatewayUrl,
    /// Directory to write into; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Certificate chain, PEM; without it a self-signed one is made
    #[arg(long, value_name = "PEM", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Private key of the certificate, PEM, mode 600
    #[arg(long, value_name = "PEM", requires = "cert")]
    pub key: Option<PathBuf>,
    /// gateway.json of a gateway whose keys and relays this one shares
    #[arg(long, value_name = "GATEWAY.JSON")]
    pub join: Option<PathBuf>,
}

/// What `init` wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Initialised {
    /// The configuration file, for `run --config`.
    pub config: PathBuf,
    /// The file to copy to nodes.
    pub gateway_file: PathBuf,
    /// Pin of the certificate.
    pub pin: Pin,
    /// Whether relays need the pin, because the system's roots do not vouch for the certificate.
    pub pinned: bool,
    /// The certificate's names, if the URL's host is none of them: browsers will not take it.
    pub foreign: Option<String>,
    /// How many gateways `gateway_file` lists.
    pub gateways: usize,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// One of the files is there already.
    #[error("{} exists and init never overwrites: choose another --dir, or move the file away", .0.display())]
    Exists(PathBuf),
    /// The gateway to join is this one.
    #[error("{url} is in {} already: a second gateway has a URL of its own", file.display())]
    SameUrl {
        /// The URL asked for.
        url: GatewayUrl,
        /// The file to join.
        file: PathBuf,
    },
    /// The certificate cannot be used.
    #[error("{}: {cause}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: CertError,
    },
    /// The given certificate or its key.
    #[error(transparent)]
    Given(#[from] FilesError),
    /// `gateway.json`, here or of the gateway to join.
    #[error(transparent)]
    GatewayFile(#[from] KeyFileError),
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A path that TOML cannot hold.
    #[error("{}: the path is not UTF-8", .0.display())]
    Path(PathBuf),
    /// A file or directory cannot be written.
    #[error("{}: {cause}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// What was written could not be told.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
}

impl InitError {
    /// How the process ends by it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::SameUrl { .. } | Self::Path(_) => Exit::Usage,
            Self::Certificate { .. } | Self::Given(_) => Exit::Config,
            Self::GatewayFile(error) if error.is_config() => Exit::Config,
            Self::GatewayFile(_)
            | Self::Exists(_)
            | Self::Key(_)
            | Self::Write { .. }
            | Self::Output(_) => Exit::Failure,
        }
    }
}

/// Writes `gateway.toml`, `gateway.json` and, where none is given, a self-signed certificate into the
/// directory, and says on `out` what is to be done next. Nothing is left behind if it fails.
///
/// # Errors
/// [`InitError`]; an existing file is never touched.
pub fn run(args: &InitArgs, out: &mut dyn Write) -> Result<Initialised, InitError> {
    refuse_existing(args)?;
    let certificate = Certificate::given_or_made(args)?;
    let keys = gateway_file(args, &certificate)?;
    let config = config_text(args, &certificate)?;
    let fresh = !args.dir.exists();
    make_directory(&args.dir)?;
    let mut written = Written::default();
    if fresh {
        written.note(&args.dir);
    }
    if let Some((cert_pem, key_pem)) = &certificate.made {
        put(
            &mut written,
            &args.dir.join(KEY),
            key_pem.as_bytes(),
            MODE_SECRET,
        )?;
        put(
            &mut written,
            &args.dir.join(CERT),
            cert_pem.as_bytes(),
            MODE_PUBLIC,
        )?;
    }
    let keys_path = args.dir.join(KEYS);
    keys.save_new(&keys_path)?;
    written.note(&keys_path);
    put(
        &mut written,
        &args.dir.join(CONFIG),
        config.as_bytes(),
        MODE_PUBLIC,
    )?;
    if let Ok(Some(account)) = privileges::uid_of(ACCOUNT) {
        hand_over(&written, account)?;
    }
    written.keep();
    let done = Initialised {
        config: args.dir.join(CONFIG),
        gateway_file: keys_path,
        pin: certificate.pin,
        pinned: certificate.pinned,
        foreign: certificate.foreign,
        gateways: keys.gateways.len(),
    };
    tell(args, &done, out)?;
    Ok(done)
}

fn refuse_existing(args: &InitArgs) -> Result<(), InitError> {
    let made: &[&str] = if args.cert.is_some() {
        &[]
    } else {
        &[CERT, KEY]
    };
    let names = [CONFIG, KEYS].iter().chain(made);
    let taken = names
        .map(|name| args.dir.join(name))
        .find(|path| path.symlink_metadata().is_ok());
    taken.map_or(Ok(()), |path| Err(InitError::Exists(path)))
}

/// The certificate that the gateway will show.
struct Certificate {
    pin: Pin,
    pinned: bool,
    /// The names that it speaks for instead, if the URL's host is none of them.
    foreign: Option<String>,
    /// As they stand in `gateway.toml`.
    cert: PathBuf,
    key: PathBuf,
    /// PEM of certificate and key, if they are to be written.
    made: Option<(String, String)>,
}

impl Certificate {
    fn given_or_made(args: &InitArgs) -> Result<Self, InitError> {
        match (&args.cert, &args.key) {
            (Some(cert), Some(key)) => Self::given(&args.url, cert, key),
            _ => Self::made(&args.url),
        }
    }

    fn made(url: &GatewayUrl) -> Result<Self, InitError> {
        let fault = |cause| InitError::Certificate {
            path: CERT.into(),
            cause,
        };
        let pem = self_signed(&[bare_host(url)], TEN_YEARS).map_err(fault)?;
        let identity = Identity::from_pem(pem.cert_pem.as_bytes(), pem.key_pem.as_bytes());
        let pin = identity
            .and_then(|identity| identity.pin())
            .map_err(fault)?;
        Ok(Self {
            pin,
            pinned: true,
            foreign: None,
            cert: CERT.into(),
            key: KEY.into(),
            made: Some((pem.cert_pem, pem.key_pem)),
        })
    }

    fn given(url: &GatewayUrl, cert: &Path, key: &Path) -> Result<Self, InitError> {
        let reader = privileges::will_be(ACCOUNT).map_err(FilesError::Account)?;
        let identity = crate::files::certificate(cert, key, reader)?;
        let fault = |cause| InitError::Certificate {
            path: cert.to_owned(),
            cause,
        };
        let absolute =
            |path: &Path| fs::canonicalize(path).map_err(|cause| write_error(path, cause));
        Ok(Self {
            pin: identity.pin().map_err(fault)?,
            pinned: !publicly_trusted(&identity, url),
            foreign: (!speaks_for(&identity, &bare_host(url))).then(|| identity.names().join(", ")),
            cert: absolute(cert)?,
            key: absolute(key)?,
            made: None,
        })
    }
}

/// Whether a relay could do without a pin: the system's own roots vouch for the certificate.
fn publicly_trusted(identity: &Identity, url: &GatewayUrl) -> bool {
    let trust = Trust::system().ok().zip(url.server_name());
    trust.is_some_and(|(roots, name)| roots.accepts(identity, &name, UnixTime::now()))
}

fn bare_host(url: &GatewayUrl) -> String {
    match url.host() {
        Host::Name(name) => name.clone(),
        Host::Address(ip) => ip.to_string(),
    }
}

fn gateway_file(args: &InitArgs, certificate: &Certificate) -> Result<GatewayFile, InitError> {
    let pins = if certificate.pinned {
        vec![certificate.pin]
    } else {
        Vec::new()
    };
    let own = GatewayAddress {
        url: args.url.clone(),
        pins,
    };
    let Some(first) = &args.join else {
        let keys = vec![Key::generate(Scope::default(), None)?];
        return Ok(GatewayFile {
            gateways: vec![own],
            keys,
        });
    };
    let mut shared = GatewayFile::load_as_administrator(first)?;
    if shared.gateways.iter().any(|gateway| gateway.url == own.url) {
        return Err(InitError::SameUrl {
            url: own.url,
            file: first.clone(),
        });
    }
    shared.gateways.push(own);
    Ok(shared)
}

fn config_text(args: &InitArgs, certificate: &Certificate) -> Result<String, InitError> {
    let state = places::state_dir(&args.dir.join("gateway.toml"));
    let state = state.strip_prefix(&args.dir).unwrap_or(&state);
    Ok(TEMPLATE
        .replace("{url}", &quoted(Path::new(&args.url.to_string()))?)
        .replace("{port}", &args.url.port().to_string())
        .replace("{state_dir}", &quoted(state)?)
        .replace("{cert}", &quoted(&certificate.cert)?)
        .replace("{key}", &quoted(&certificate.key)?))
}

/// A TOML basic string, whose escapes are those of JSON.
fn quoted(path: &Path) -> Result<String, InitError> {
    let text = path
        .to_str()
        .and_then(|text| serde_json::to_string(text).ok());
    text.ok_or_else(|| InitError::Path(path.to_owned()))
}

fn make_directory(dir: &Path) -> Result<(), InitError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(MODE_DIR)
        .create(dir);
    made.map_err(|cause| write_error(dir, cause))
}

fn put(written: &mut Written, path: &Path, bytes: &[u8], mode: u32) -> Result<(), InitError> {
    let put = written.put(path, bytes, mode);
    put.map_err(|cause| write_error(path, cause))
}

/// Gives what root has written to the account that will read it.
fn hand_over(written: &Written, account: u32) -> Result<(), InitError> {
    for path in written.paths() {
        let by_root = |file: fs::Metadata| file.uid() == 0;
        if fs::symlink_metadata(path).is_ok_and(by_root) {
            chown(path, Some(account), None).map_err(|cause| write_error(path, cause))?;
        }
    }
    Ok(())
}

fn write_error(path: &Path, cause: io::Error) -> InitError {
    let path = path.to_owned();
    if cause.kind() == io::ErrorKind::AlreadyExists {
        return InitError::Exists(path);
    }
    InitError::Write { path, cause }
}

fn tell(args: &InitArgs, done: &Initialised, out: &mut dyn Write) -> io::Result<()> {
    let (url, port) = (&args.url, args.url.port());
    let (dir, config, keys) = (
        args.dir.display(),
        done.config.display(),
        done.gateway_file.display(),
    );
    writeln!(out, "Gateway {url} is set up in {dir}")?;
    writeln!(out, "  pin        {}", done.pin)?;
    writeln!(
        out,
        "  firewall   tcp {port}  browsers, clients and relays over TLS"
    )?;
    writeln!(out, "             udp {port}  relays over QUIC")?;
    for protocol in ["tcp", "udp"] {
        writeln!(
            out,
            "             nft add rule inet filter input {protocol} dport {port} accept"
        )?;
    }
    if let Some(names) = &done.foreign {
        let host = args.url.host();
        writeln!(
            out,
            "Warning: the certificate is for {names}, not for {host}; browsers will not take it"
        )?;
    }
    writeln!(out, "Next: sallyport-gateway run --config {config}")?;
    if port < 1024 {
        writeln!(
            out,
            "      (port {port} needs root or CAP_NET_BIND_SERVICE)"
        )?;
    }
    writeln!(
        out,
        "Then: copy {keys} to /etc/sallyport/gateway.json on each node (mode 600)"
    )?;
    writeln!(out, "      and start sallyport-relay there")?;
    writeln!(
        out,
        "      Its key is for each node's own sessions. Where nodes are to bring those of others: sallyport-gateway key add --via"
    )?;
    if let Some(joined) = &args.join {
        let count = done.gateways;
        writeln!(
            out,
            "      It lists {count} gateways and replaces the file that nodes have so far"
        )?;
        writeln!(
            out,
            "Also: copy {keys} over {} and wherever else a gateway has it: all need the same\n      \
             list and keys, now and after each `key add` and `key revoke`",
            joined.display()
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
