//! Commands about the cluster's configuration. They ask the running relay; where none runs, or a broker is named, they go
//! to the store themselves.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use futures::StreamExt as _;
use sallyport_cluster::global::{Bundle, BundleError, EpochError, Epochs, MOST_BYTES};
use sallyport_cluster::{
    Broker, BrokerError, Cluster, ClusterStartError, Limits, NotAKey, Progress,
};
use sallyport_link::{ClusterKeys, KeyFileError};
use sallyport_ops::admin::AskError;
use sallyport_ops::config::ConfigError;
use sallyport_ops::{Exit, Table, Tasks, Workers, admin, escape, files, places};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{Listing, cluster_keys_of, complain, say};
use crate::config::{CLUSTER_KEYS, LoadError};
use crate::global::{self, CONFIG, Order, perform};
use crate::run;

/// The file of an exported configuration.
const BUNDLE_FILE: &str = "sallyport-config.json";

/// Sources may be of interest to nobody else.
const MODE: u32 = 0o640;

/// How long a broker may take to let a command in.
const WITHIN: Duration = Duration::from_secs(15);

/// `config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
    #[command(flatten)]
    at: At,
}

/// Whose configuration is meant.
#[derive(Debug, Args)]
pub(super) struct At {
    /// Go to the store behind this broker.json, with the cluster-keys.json beside it [default: the running relay, else its own store]
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) broker: Option<PathBuf>,
    #[command(flatten)]
    pub(super) listing: Listing,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Write the configuration into sallyport-config.json; the same configuration is the same bytes
    Export {
        /// Directory to write into, made if it is not there
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Only objects of this kind
        #[arg(long, value_name = "KIND")]
        only: Option<String>,
    },
    /// Make what sallyport-config.json says hold on every node, all of it at once; kinds that it does not name stay
    Import {
        /// Directory with the file
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Only objects of this kind
        #[arg(long, value_name = "KIND")]
        only: Option<String>,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// List the epochs that are kept, the one that holds first
    History,
    /// Make a new epoch that says what an earlier one said
    Rollback {
        /// The earlier epoch; `history` lists them
        epoch: u64,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigCommandError {
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("{}: {cause}", path.display())]
    Bundle { path: PathBuf, cause: BundleError },
    #[error(transparent)]
    Only(#[from] BundleError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Cluster(#[from] ClusterStartError),
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    #[error(transparent)]
    Kept(#[from] ConfigError),
    #[error("{0}")]
    State(run::StartError),
    #[error("the broker does not let this command in: {0}")]
    NotReady(Progress),
    #[error(transparent)]
    Epoch(#[from] EpochError),
    #[error(transparent)]
    Key(#[from] NotAKey),
    #[error("no thread: {0}")]
    Runtime(io::Error),
}

impl ConfigCommandError {
    pub(super) const fn exit(&self) -> Exit {
        match self {
            Self::Only(_) => Exit::Usage,
            Self::Load(_)
            | Self::Broker(_)
            | Self::Cluster(_)
            | Self::Keys(_)
            | Self::Kept(_)
            | Self::Bundle { .. } => Exit::Config,
            Self::File { .. }
            | Self::Ask(_)
            | Self::State(_)
            | Self::NotReady(_)
            | Self::Epoch(_)
            | Self::Key(_)
            | Self::Runtime(_) => Exit::Failure,
        }
    }
}

/// Does what was asked for.
pub(super) fn config(args: &ConfigArgs) -> Exit {
    let at = &args.at;
    let done = match &args.command {
        ConfigCommand::Export { dir, only } => export(at, dir, only.as_deref()),
        ConfigCommand::Import { dir, only, dry_run } => import(at, dir, only.as_deref(), *dry_run),
        ConfigCommand::History => asked(at, Order::History).map(|answer| match at.listing.json {
            true => escape::json(&answer) + "\n",
            false => history(&answer),
        }),
        ConfigCommand::Rollback { epoch, dry_run } => {
            let (epoch, dry_run) = (*epoch, *dry_run);
            let answer = asked(at, Order::Rollback { epoch, dry_run });
            answer.map(|answer| changes(at, &answer))
        }
    };
    match done {
        Ok(text) => say(&text),
        Err(error) => complain(&error, error.exit()),
    }
}

fn export(at: &At, dir: &Path, only: Option<&str>) -> Result<String, ConfigCommandError> {
    let mut answer = asked(at, Order::Export)?;
    let bundle = Bundle::from_value(answer["bundle"].take())?;
    let bundle = match only {
        Some(kind) => bundle.only(kind)?,
        None => bundle,
    };
    let path = dir.join(BUNDLE_FILE);
    let written =
        fs::create_dir_all(dir).and_then(|()| files::write_atomic(&path, &bundle.to_bytes(), MODE));
    written.map_err(|cause| ConfigCommandError::File {
        path: path.clone(),
        cause,
    })?;
    let (epoch, objects) = (&answer["epoch"], bundle.len());
    if at.listing.json {
        let told = json!({ "epoch": epoch, "objects": objects, "file": path });
        return Ok(escape::json(&told) + "\n");
    }
    Ok(format!(
        "epoch {epoch}, objects: {objects}, written to {}\n",
        path.display()
    ))
}

fn import(
    at: &At,
    dir: &Path,
    only: Option<&str>,
    dry_run: bool,
) -> Result<String, ConfigCommandError> {
    let path = dir.join(BUNDLE_FILE);
    let read = read(&path).map_err(|cause| ConfigCommandError::File {
        path: path.clone(),
        cause,
    });
    let bundle = Bundle::parse(&read?);
    let bundle = bundle.map_err(|cause| ConfigCommandError::Bundle { path, cause })?;
    let bundle = match only {
        Some(kind) => bundle.only(kind)?,
        None => bundle,
    };
    let bundle = bundle.to_value();
    let answer = asked(at, Order::Import { bundle, dry_run })?;
    Ok(changes(at, &answer))
}

/// As much of the file as shows that it is too large.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let most = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX);
    let mut text = Vec::new();
    fs::File::open(path)?
        .take(most.saturating_add(1))
        .read_to_end(&mut text)?;
    Ok(text)
}

/// The running relay's answer, else that of the store itself.
pub(super) fn asked(at: &At, order: Order) -> Result<Value, ConfigCommandError> {
    if at.broker.is_none() {
        match ask_relay(at, "POST", CONFIG, Some(json!(order))) {
            Err(ConfigCommandError::Ask(AskError::NotRunning { .. })) => {}
            answer => return answer,
        }
    }
    let config = at.listing.config.file();
    runtime()?.block_on(Box::pin(directly(at, &config, order)))
}

/// The running relay's answer.
pub(super) fn ask_relay(
    at: &At,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Result<Value, ConfigCommandError> {
    let socket = places::admin_socket("relay", &at.listing.config.file());
    Ok(runtime()?.block_on(admin::ask(&socket, method, path, body))?)
}

/// What a command runs on.
pub(super) fn runtime() -> Result<Runtime, ConfigCommandError> {
    Workers::ONE.runtime().map_err(ConfigCommandError::Runtime)
}

async fn directly(at: &At, config: &Path, order: Order) -> Result<Value, ConfigCommandError> {
    let tasks = Tasks::new();
    let answer = in_store(at, config, order, &tasks).await;
    tasks.drain(Duration::ZERO).await;
    answer
}

async fn in_store(
    at: &At,
    config: &Path,
    order: Order,
    tasks: &Tasks,
) -> Result<Value, ConfigCommandError> {
    let (cluster, keys, floor) = match &at.broker {
        // which epochs this node has accepted says nothing about a store that is named
        Some(file) => {
            let cluster = Cluster::start_with(Broker::load(file)?, Limits::default(), tasks)?;
            (cluster, file.with_file_name(CLUSTER_KEYS), None)
        }
        None => {
            let state = run::state_dir(config).map_err(ConfigCommandError::State)?;
            let cluster = Cluster::start(config, &state, Limits::default(), tasks)?;
            let floor = global::kept(&state)?.filter(|_| cluster.is_shared());
            (cluster, cluster_keys_of(config)?, floor)
        }
    };
    let keys = match keys.exists() {
        true => ClusterKeys::load_as_administrator(&keys)?,
        false => ClusterKeys::default(),
    };
    let seal = global::seal(cluster.is_shared(), &keys);
    ready(&cluster).await?;
    let epochs = Epochs::new(cluster.store(), seal, floor, &machine())?;
    Ok(perform(order, &epochs).await?)
}

async fn ready(cluster: &Cluster) -> Result<(), ConfigCommandError> {
    let mut changes = cluster.progress_changes();
    let ready = async {
        while let Some(now) = changes.next().await {
            if now == Progress::Ready {
                return;
            }
        }
    };
    let in_time = timeout(WITHIN, ready).await;
    in_time.map_err(|_elapsed| ConfigCommandError::NotReady(cluster.progress()))
}

/// What the machine calls itself, for the history.
fn machine() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// What becomes of each object, and whether it has.
pub(super) fn changes(at: &At, answer: &Value) -> String {
    if at.listing.json {
        return escape::json(&answer["differences"]) + "\n";
    }
    let mut table = Table::new(&["change", "kind", "name"]);
    for row in rows(&answer["differences"]) {
        table.row(["change", "kind", "name"].map(|key| word(row, key)));
    }
    let epoch = &answer["epoch"];
    let end = match answer["applied"] == true {
        true => format!("epoch {epoch} holds now"),
        false => format!("nothing was changed: epoch {epoch} holds"),
    };
    format!("{table}\n{end}\n")
}

fn history(answer: &Value) -> String {
    let mut table = Table::new(&["epoch", "made", "by", "how", "objects", "bytes"]);
    for row in rows(answer) {
        let how = row["from"].as_u64();
        let how = how.map_or_else(|| "import".to_owned(), |from| format!("rollback to {from}"));
        table.row([
            row["epoch"].to_string(),
            word(row, "made"),
            word(row, "by"),
            how,
            row["objects"].to_string(),
            row["bytes"].to_string(),
        ]);
    }
    table.to_string()
}

fn rows(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn word(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_default().to_owned()
}
