//! `sallyport-relay cluster certificate`: certificates for the nodes' own ports, from the authority that `cluster init` made.
//! It is run where the authority's key lies, and needs no relay there.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sallyport_certs::{Authority, CertError, Identity};
use sallyport_cluster::init::{CA_FILE, CA_KEY_FILE};
use sallyport_ops::files::{self, FileError};
use sallyport_ops::written::{MODE_DIR, MODE_PUBLIC, MODE_SECRET, Written};
use sallyport_ops::{Exit, Table, places};
use sallyport_wire::NodeName;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The files of a node, in its folder.
const CERT_FILE: &str = "node.pem";
const KEY_FILE: &str = "node.key";

/// For which nodes, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub struct CertificateArgs {
    /// Name of a node, and behind commas what else clients call it: names and addresses
    #[arg(value_name = "NODE[,NAME...]", required = true)]
    nodes: Vec<Named>,
    /// Directory that `cluster init` wrote, to write into [default: /etc/sallyport or SALLYPORT_CONFIG_DIR]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How long they are good for; there are browsers that take no certificate of more than 825 days
    #[arg(long, value_name = "DAYS", default_value_t = 397, value_parser = clap::value_parser!(u32).range(1..=825))]
    days: u32,
    /// One JSON array
    #[arg(long)]
    json: bool,
}

/// A node and the names that its certificate is to have, its own first.
#[derive(Debug, Clone)]
struct Named {
    node: NodeName,
    names: Vec<String>,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<_> = text.split(',').map(str::to_owned).collect();
        let node = names.first().map(String::as_str).unwrap_or_default();
        let node = node.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { node, names })
    }
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// There is no authority in the directory.
    #[error(
        "{} is not there: run this where `cluster init` was run, since the authority's key stays there, and name its directory \
         with --dir",
        .0.display()
    )]
    NoAuthority(PathBuf),
    /// The authority's key, or who else can read it.
    #[error(transparent)]
    Secret(#[from] FileError),
    /// The authority cannot be used.
    #[error("{}: {cause}", path.display())]
    Authority {
        /// Its certificate.
        path: PathBuf,
        /// Why.
        cause: CertError,
    },
    /// The authority ends before them.
    #[error("the authority is good until {0} only: give fewer --days")]
    Outlives(String),
    /// A name cannot stand in a certificate.
    #[error("node {node}: {cause}")]
    Names {
        /// The node.
        node: NodeName,
        /// Why.
        cause: CertError,
    },
    /// A node has one already.
    #[error("{} exists and is never overwritten: move it away to renew the certificate", .0.display())]
    Exists(PathBuf),
    /// A file or directory cannot be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// What was done could not be told.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
}

impl CertificateError {
    /// How the process ends by it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Names { .. } | Self::Outlives(_) => Exit::Usage,
            Self::Authority { .. } => Exit::Config,
            Self::NoAuthority(_)
            | Self::Secret(_)
            | Self::Exists(_)
            | Self::Io { .. }
            | Self::Output(_) => Exit::Failure,
        }
    }
}

/// What was made for a node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    node: NodeName,
    names: Vec<String>,
    cert: PathBuf,
    key: PathBuf,
    not_after: String,
}

/// Writes a folder with certificate and key for each node, and tells `out` what to do with them. Nothing is left behind if it
/// fails.
///
/// # Errors
/// [`CertificateError`]; an existing file is never touched.
pub fn run(args: &CertificateArgs, out: &mut dyn Write) -> Result<(), CertificateError> {
    let dir = args.dir.clone().unwrap_or_else(places::config_dir);
    let authority = authority(&dir)?;
    let mut written = Written::default();
    let made: Result<Vec<_>, _> = args
        .nodes
        .iter()
        .map(|named| issue(&authority, named, (&dir, args.days), &mut written))
        .collect();
    let made = made?;
    written.keep();
    if args.json {
        let text = serde_json::to_string_pretty(&made).unwrap_or_default();
        return Ok(writeln!(out, "{text}")?);
    }
    Ok(tell(&made, &dir, out)?)
}

fn authority(dir: &Path) -> Result<Authority, CertificateError> {
    let (path, key) = (dir.join(CA_FILE), dir.join(CA_KEY_FILE));
    for file in [&path, &key] {
        if !file.exists() {
            return Err(CertificateError::NoAuthority(file.clone()));
        }
    }
    let key = files::read_secret(&key)?;
    let cert = fs::read_to_string(&path);
    let cert = cert.map_err(|cause| CertificateError::Io {
        path: path.clone(),
        cause,
    })?;
    let read = Authority::from_pem(&cert, &key);
    read.map_err(|cause| CertificateError::Authority { path, cause })
}

fn issue(
    authority: &Authority,
    named: &Named,
    (dir, days): (&Path, u32),
    written: &mut Written,
) -> Result<Made, CertificateError> {
    let wrong = |cause| CertificateError::Names {
        node: named.node.clone(),
        cause,
    };
    let issued = authority.issue_for_clients(&named.names, days);
    let issued = issued.map_err(wrong)?;
    let identity = Identity::from_pem(issued.cert_pem.as_bytes(), issued.key_pem.as_bytes());
    let identity = identity.map_err(wrong)?;
    if identity.not_after() > authority.not_after() {
        return Err(CertificateError::Outlives(moment(authority.not_after())));
    }
    let folder = dir.join(format!("node-{}", named.node));
    let (cert, key) = (folder.join(CERT_FILE), folder.join(KEY_FILE));
    let made = written.make_directory(&folder, MODE_DIR);
    made.map_err(|cause| fault(&folder, cause))?;
    for (path, pem, mode) in [
        (&key, &issued.key_pem, MODE_SECRET),
        (&cert, &issued.cert_pem, MODE_PUBLIC),
    ] {
        let put = written.put(path, pem.as_bytes(), mode);
        put.map_err(|cause| fault(path, cause))?;
    }
    Ok(Made {
        node: named.node.clone(),
        names: identity.names().to_vec(),
        cert,
        key,
        not_after: moment(identity.not_after()),
    })
}

fn moment(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

fn fault(path: &Path, cause: io::Error) -> CertificateError {
    let path = path.to_owned();
    if cause.kind() == io::ErrorKind::AlreadyExists {
        return CertificateError::Exists(path);
    }
    CertificateError::Io { path, cause }
}

fn tell(made: &[Made], dir: &Path, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&["node", "names", "until", "folder"]);
    for made in made {
        let folder = made.cert.parent().unwrap_or(dir).display();
        table.row([
            made.node.to_string(),
            made.names.join(" "),
            made.not_after.clone(),
            folder.to_string(),
        ]);
    }
    write!(out, "{table}")?;
    writeln!(
        out,
        "On each node: copy {CERT_FILE} and {KEY_FILE} (mode 600) of its folder beside relay.toml and set in [direct]:\n  \
         url = \"https://NODE:3300\", cert = \"{CERT_FILE}\", key = \"{KEY_FILE}\""
    )?;
    writeln!(
        out,
        "Clients trust them by {}, which stands for whatever the key beside it signs: keep that key here",
        dir.join(CA_FILE).display()
    )
}
