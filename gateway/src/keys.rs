//! `sallyport-gateway key`: the keys of `gateway.json`, added, listed and revoked. A running gateway follows
//! the file, so none of this needs it stopped, or running.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sallyport_link::key::KeyError;
use sallyport_link::key_file::{self, Listed};
use sallyport_link::{Expiry, GatewayFile, Key, KeyFileError, Past};
use sallyport_ops::Exit;
use sallyport_ops::table::Table;
use sallyport_wire::{ClusterName, Glob, NameError, PortRange, Scope};
use serde::Serialize;
use time::OffsetDateTime;

/// `key …`
#[derive(Debug, Clone, clap::Args)]
pub struct KeyArgs {
    /// What to do
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// What to do with keys.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum KeyCommand {
    /// Make a key and add it
    Add(AddArgs),
    /// List the keys; no secret is shown
    List(ListArgs),
    /// Remove a key: tunnels that rest on it end within a minute
    Revoke(RevokeArgs),
}

/// What a new key may serve, and where to write it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AddArgs {
    /// Nodes that may use it, like `gpu-*,login1`
    #[arg(long, value_name = "GLOB")]
    pub nodes: Option<String>,
    /// Sessions and pools that they may serve, like `jupyter-*`
    #[arg(long, value_name = "GLOB")]
    pub sessions: Option<String>,
    /// Raw gateway ports that may lead to them, like `22,8000-8100`
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub ports: Vec<PortRange>,
    /// Cluster that they belong to
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// For nodes that boot without a disk: a new node key may take over a name whose tunnels are dead
    #[arg(long)]
    pub ephemeral: bool,
    /// Let its nodes offer ways to sessions of other nodes, whose traffic they then see
    #[arg(long)]
    pub via: bool,
    /// When it ends, like `2027-01-31T00:00:00Z` or `90d`
    #[arg(long, value_name = "TIME")]
    pub expires: Option<Expiry>,
    /// Make an Ed25519 pair of which the gateway keeps only the public half; needs --out
    #[arg(long, requires = "out")]
    pub public_only: bool,
    /// New file with this key alone, to copy to nodes
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// How to list.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ListArgs {
    /// One JSON array
    #[arg(long)]
    pub json: bool,
}

/// Which key to remove.
#[derive(Debug, Clone, clap::Args)]
pub struct RevokeArgs {
    /// Key id
    pub kid: String,
}

/// What became of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysDone {
    /// The key of this id was added.
    Added(String),
    /// So many keys were listed.
    Listed(usize),
    /// The key of this id was removed.
    Revoked(String),
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// `gateway.json` or the new file.
    #[error(transparent)]
    GatewayFile(#[from] KeyFileError),
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The cluster's name is none.
    #[error("--cluster: {0}")]
    Cluster(#[from] NameError),
    /// A pattern that matches nothing.
    #[error("--{0}: an empty pattern matches nothing; leave it out for everything")]
    EmptyPattern(&'static str),
    /// The key would be dead from the start.
    #[error("--expires: {0}")]
    Past(#[from] Past),
    /// The same file for both.
    #[error("--out {} is the gateway's own file: choose another name", .0.display())]
    OutIsOwn(PathBuf),
    /// What was done could not be told.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
}

impl KeysError {
    /// How the process ends by it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Cluster(_) | Self::EmptyPattern(_) | Self::Past(_) | Self::OutIsOwn(_) => {
                Exit::Usage
            }
            Self::GatewayFile(error) if error.is_config() => Exit::Config,
            Self::GatewayFile(_) | Self::Key(_) | Self::Output(_) => Exit::Failure,
        }
    }
}

/// Does it with the keys of `file` (the `gateway_file` of the gateway's configuration) and tells `out`.
///
/// # Errors
/// [`KeysError`]; the file is then as it was.
pub fn run(
    args: &KeyArgs,
    file: &Path,
    now: OffsetDateTime,
    out: &mut dyn Write,
) -> Result<KeysDone, KeysError> {
    match &args.command {
        KeyCommand::Add(args) => add(args, file, now, out),
        KeyCommand::List(args) => list(args, file, now, out),
        KeyCommand::Revoke(args) => revoke(args, file, out),
    }
}

fn add(
    args: &AddArgs,
    file: &Path,
    now: OffsetDateTime,
    out: &mut dyn Write,
) -> Result<KeysDone, KeysError> {
    let scope = scope(args)?;
    let expires = args.expires.map(|expiry| expiry.end(now)).transpose()?;
    let _lock = key_file::lock(file)?;
    let mut all = GatewayFile::load_as_administrator(file)?;
    let key = match args.public_only {
        true => Key::generate_pair(scope, expires)?,
        false => Key::generate(scope, expires)?,
    };
    all.keys
        .push(key.public_half().unwrap_or_else(|| key.clone()));
    if let Some(path) = &args.out {
        if same_place(path, file) {
            return Err(KeysError::OutIsOwn(path.clone()));
        }
        let alone = GatewayFile {
            gateways: all.gateways.clone(),
            keys: vec![key.clone()],
        };
        alone.save_new(path)?;
    }
    if let Err(error) = all.save(file) {
        // a copy of a key that the gateway does not know would only mislead
        args.out.as_deref().map(std::fs::remove_file).transpose()?;
        return Err(error.into());
    }
    let copy = args.out.as_deref().unwrap_or(file).display();
    writeln!(out, "Added key {} to {}", key.kid, file.display())?;
    writeln!(out, "  {}", describe(&key.scope))?;
    writeln!(out, "A running gateway takes it up by itself.")?;
    if all.gateways.len() > 1 {
        let urls: Vec<_> = all.gateways.iter().map(|one| one.url.to_string()).collect();
        writeln!(
            out,
            "Nodes show it to each of these gateways: {}. The others refuse it until they have it:\nfirst copy {} over the gateway.json of each.",
            urls.join(", "),
            file.display()
        )?;
    }
    writeln!(out, "Copy {copy} to the nodes (mode 600);")?;
    writeln!(
        out,
        "once they have it, an old key can go: sallyport-gateway key revoke KID"
    )?;
    Ok(KeysDone::Added(key.kid))
}

fn list(
    args: &ListArgs,
    file: &Path,
    now: OffsetDateTime,
    out: &mut dyn Write,
) -> Result<KeysDone, KeysError> {
    let all = GatewayFile::load_as_administrator(file)?;
    let rows: Vec<Row> = all.keys.iter().map(|key| Row::new(key, now)).collect();
    if args.json {
        let text = serde_json::to_string_pretty(&rows).map_err(io::Error::other)?;
        writeln!(out, "{text}")?;
        return Ok(KeysDone::Listed(rows.len()));
    }
    let mut table = Table::new(&["KEY", "ALGORITHM", "STATE", "EXPIRES", "SCOPE"]);
    for row in &rows {
        table.row([
            row.listed.kid.clone(),
            row.algorithm.to_owned(),
            row.listed.state.to_owned(),
            row.listed.until(),
            describe(&row.scope),
        ]);
    }
    write!(out, "{table}")?;
    Ok(KeysDone::Listed(rows.len()))
}

fn revoke(args: &RevokeArgs, file: &Path, out: &mut dyn Write) -> Result<KeysDone, KeysError> {
    let _lock = key_file::lock(file)?;
    let mut all = GatewayFile::load_as_administrator(file)?;
    key_file::take_out(&mut all.keys, &args.kid)?;
    all.save(file)?;
    writeln!(
        out,
        "Revoked key {}. A running gateway refuses it within seconds and ends its",
        args.kid
    )?;
    writeln!(
        out,
        "tunnels within a minute, unless their relays have proven another key by then."
    )?;
    if all.keys.is_empty() {
        writeln!(
            out,
            "Warning: no key is left, so no relay can connect: sallyport-gateway key add"
        )?;
    }
    Ok(KeysDone::Revoked(args.kid.clone()))
}

/// One key of a listing.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    listed: Listed,
    algorithm: &'static str,
    scope: Scope,
}

impl Row {
    fn new(key: &Key, now: OffsetDateTime) -> Self {
        Self {
            listed: Listed::new(key, now),
            algorithm: key.algorithm(),
            scope: key.scope.clone(),
        }
    }
}

fn describe(scope: &Scope) -> String {
    let mut words = vec![format!(
        "nodes {}, sessions {}",
        scope.nodes, scope.sessions
    )];
    if !scope.ports.is_empty() {
        let ports: Vec<_> = scope.ports.iter().map(ToString::to_string).collect();
        words.push(format!("ports {}", ports.join(",")));
    }
    if !scope.cluster.is_default() {
        words.push(format!("cluster {}", scope.cluster));
    }
    if scope.ephemeral {
        words.push("ephemeral".to_owned());
    }
    if scope.via {
        words.push("via".to_owned());
    }
    words.join(", ")
}

fn scope(args: &AddArgs) -> Result<Scope, KeysError> {
    let cluster = args
        .cluster
        .as_deref()
        .map(ClusterName::from_str)
        .transpose()?;
    Ok(Scope {
        nodes: glob("nodes", args.nodes.as_deref())?,
        sessions: glob("sessions", args.sessions.as_deref())?,
        ports: args.ports.clone(),
        cluster: cluster.unwrap_or_default(),
        ephemeral: args.ephemeral,
        via: args.via,
    })
}

fn glob(option: &'static str, text: Option<&str>) -> Result<Glob, KeysError> {
    match text {
        None => Ok(Glob::default()),
        Some(text) if text.split(',').any(|part| part.trim().is_empty()) => {
            Err(KeysError::EmptyPattern(option))
        }
        Some(text) => Ok(Glob::new(text)),
    }
}

fn same_place(a: &Path, b: &Path) -> bool {
    a == b
        || a.canonicalize()
            .ok()
            .is_some_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

#[cfg(test)]
mod tests;
