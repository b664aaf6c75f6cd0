//! The command line.

mod config;
mod local;
mod logs;
mod peers;
mod scripts;
mod queue;
mod reservations;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use sallyport_cluster::Cluster;
use sallyport_cluster::init::{self, InitArgs};
use sallyport_link::ClusterKeys;
use sallyport_ops::{Exit, Workers, admin, escape, places, program, telemetry};
use sallyport_scripts::worker;
use sallyport_wire::SessionId;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tracing::error;

use self::config::ConfigArgs;
use self::local::{DrainArgs, SetArgs, StaticDataArgs, UndrainArgs};
use self::logs::{DebugArgs, LogsArgs};
use self::peers::PeersArgs;
use self::queue::QueueArgs;
use self::reservations::ReservationsArgs;
use self::scripts::ScriptsArgs;
use crate::certificates;
use crate::cluster_key::{self, AddArgs, KeyCommand};
use crate::config::{CLUSTER_KEYS, Config, LoadError};
use crate::direct_url::{self, DIRECT_URL, Wanted};
use crate::doctor::{self, Verdict};
use crate::gateways::Files;
use crate::metrics;
use crate::node_certificate::{self, CertificateArgs};
use crate::run;
use crate::servers;
use crate::status;

/// Reaches the sessions of this node for the clients of a Sallyport gateway.
///
/// The relay dials out to the gateways of its gateway file and needs no open port. Begin with a relay.toml of one
/// session, copy gateway.json beside it, and run `sallyport-relay run`.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = Exit::HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay until SIGTERM, which lets streams finish; a second one ends it at once.
    Run(Where),
    /// Check the configuration, certificates and gateway files without starting.
    Check(Where),
    /// Show tunnels, sessions and streams of the running relay.
    Status(Listing),
    /// Test the way to each gateway step by step and say what to mend; ends with 1 if there is something.
    ///
    /// It asks only: it may be run before the relay's first start and beside a running relay, neither of which it
    /// changes.
    Doctor(Listing),
    /// Set up the servers that relays share a store and a bus through, and make certificates for nodes.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// The keys by which the nodes of a cluster know each other: make, list and revoke them.
    ///
    /// Every node has the same file. Rotation is add, copy, revoke.
    ClusterKey(ClusterKeyArgs),
    /// Which other nodes have come under their names, and the node keys that those belong to since
    Peers(PeersArgs),
    /// Print a URL that opens a session at its own node, once and within 20 seconds, also for who may not come otherwise.
    ///
    /// Its node needs `url`, `cert` and `key` in `[direct]`, and both nodes the same cluster keys. Who opens it is let in to
    /// that session for 12 hours, or until that relay ends.
    DirectUrl(DirectUrlArgs),
    /// List the servers that this relay knows of, as they are now.
    Servers(Listing),
    /// List what the administrators' functions and programs make of this node, with their errors.
    ///
    /// They lie in the folder `metrics` beside relay.toml: NAME.js is a function, any other file that may be run a program
    /// that writes JSON. Those of the configuration of the cluster run on every node, and go before a file of the same name.
    /// Their values are in the list of servers, for load-balancing scripts.
    Metrics(Listing),
    /// Export, import and take back what is configured for the whole cluster, in epochs that hold on every node.
    ///
    /// The running relay is asked. Where none runs, the command goes to the store itself.
    Config(ConfigArgs),
    /// Show and change the scripts that choose servers, try them, and see what they chose and why.
    ///
    /// Scripts and chains are configuration of the cluster: each change is a new epoch that holds on every node.
    Scripts(ScriptsArgs),
    /// List the nodes that users have for themselves, or free one.
    ///
    /// `set reservable on` makes a node one that a login reserves, until its user's last logout.
    Reservations(ReservationsArgs),
    /// List what waits for a server, with its place and why it waits; hold, release or cancel it.
    Queue(QueueArgs),
    /// Show or edit what the site says about this node, for load-balancing scripts.
    ///
    /// It begins as the table static_data of relay.toml. What is edited is kept in the state directory and used at once.
    StaticData(StaticDataArgs),
    /// Show or change what is switched on and off on this node; it stays so over restarts.
    Set(SetArgs),
    /// Let a node take no new logins and no new sessions; what is there goes on. It lasts over restarts.
    ///
    /// Another node is asked over the broker that both share, and logs who asked.
    Drain(DrainArgs),
    /// Let a node take logins and sessions again.
    Undrain(UndrainArgs),
    /// Show what the running relay logged last, wherever else its log goes.
    Logs(LogsArgs),
    /// Have the running relay log details of one category for a while.
    ///
    /// It holds for this node alone and ends by itself, also with the relay. The lines are in `logs --category` and
    /// wherever else the log goes. Without a command, the categories are listed.
    Debug(DebugArgs),
    /// Run administrators' functions for a relay, which starts this by itself.
    #[command(hide = true)]
    ScriptWorker,
    /// Become a program that a relay starts, without the rights that it must not have.
    #[command(hide = true)]
    ProgramGuard {
        /// What the relay says, and the program's own arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Write broker.json, an authority, and a folder for each NATS server; needs no relay on this machine.
    ///
    /// It prints ports, firewall lines and what to copy, and never overwrites.
    Init(ClusterInit),
    /// Make certificates for nodes' own ports, by the authority that `cluster init` wrote, where its key lies.
    ///
    /// Each node gets a folder with node.pem and node.key, for `cert` and `key` in `[direct]`. It never overwrites.
    Certificate(CertificateArgs),
}

#[derive(Debug, clap::Args)]
struct ClusterInit {
    /// Host of a NATS server as relays reach it, `HOST` or `HOST:PORT`; given once, or three times for a cluster that outlives one
    #[arg(long = "host", value_name = "HOST", required = true)]
    hosts: Vec<String>,
    /// Directory to write into, made if it is not there [default: /etc/sallyport or SALLYPORT_CONFIG_DIR]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Begins the names of all that is this cluster's, where several share the servers
    #[arg(long, value_name = "NAME", default_value = "sallyport")]
    namespace: String,
    /// Directory in which each server keeps its data, on its own machine
    #[arg(long, value_name = "DIR", default_value = "/var/lib/sallyport/nats")]
    data: PathBuf,
}

#[derive(Debug, clap::Args)]
struct ClusterKeyArgs {
    /// Configuration file [default: relay.toml of /etc/sallyport or of SALLYPORT_CONFIG_DIR]
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: KeyCommand,
}

/// Which relay.
#[derive(Debug, clap::Args)]
struct Where {
    /// Configuration file [default: relay.toml of /etc/sallyport or of SALLYPORT_CONFIG_DIR]
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Listing {
    #[command(flatten)]
    config: Where,
    /// JSON for programs
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct DirectUrlArgs {
    /// The session, of this node or of another one
    session: SessionId,
    #[command(flatten)]
    listing: Listing,
}

impl Where {
    /// As an absolute path where that is possible, so that the folder of the file is known.
    fn file(&self) -> PathBuf {
        let file = self
            .config
            .clone()
            .unwrap_or_else(|| places::config_file("relay"));
        std::path::absolute(&file).unwrap_or(file)
    }
}

impl Cli {
    /// Does what was asked for.
    #[must_use]
    pub fn execute(self) -> Exit {
        match self.command {
            Command::Run(place) => execute_run(&place.file()),
            Command::Check(place) => execute_check(&place.file()),
            Command::Status(listing) => execute_status(&listing),
            Command::Doctor(listing) => execute_doctor(&listing),
            Command::Cluster(ClusterCommand::Init(args)) => execute_cluster_init(args),
            Command::Cluster(ClusterCommand::Certificate(args)) => execute_certificate(&args),
            Command::ClusterKey(keys) => execute_cluster_key(keys),
            Command::Peers(args) => peers::peers(&args),
            Command::DirectUrl(args) => execute_direct_url(args),
            Command::Servers(listing) => shown(
                asked(&listing, "GET", servers::SERVERS, None),
                &listing,
                servers::text,
            ),
            Command::Metrics(listing) => shown(
                asked(&listing, "GET", metrics::METRICS, None),
                &listing,
                metrics::text,
            ),
            Command::Config(args) => config::config(&args),
            Command::Scripts(args) => scripts::scripts(&args),
            Command::Reservations(args) => reservations::reservations(&args),
            Command::Queue(args) => queue::queue(&args),
            Command::StaticData(args) => local::static_data(&args),
            Command::Set(args) => local::set(&args),
            Command::Drain(args) => local::drain(&args),
            Command::Undrain(args) => local::undrain(&args),
            Command::Logs(args) => logs::logs(&args),
            Command::Debug(args) => logs::debug(&args),
            Command::ScriptWorker => worker::serve(),
            Command::ProgramGuard { arguments } => program::serve_guard(&arguments),
        }
    }
}

/// How long work on files may outlast the relay.
const FAREWELL: Duration = Duration::from_secs(2);

fn execute_run(file: &Path) -> Exit {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => return complain(&error, Exit::Config),
    };
    let telemetry = match telemetry::init(config.log) {
        Ok(telemetry) => telemetry,
        Err(error) => return complain(&error, Exit::Config),
    };
    let runtime = match config.workers.runtime() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error, Exit::Failure),
    };
    let ended = runtime.block_on(run::run(config, telemetry.logging()));
    // A file server that hangs does not hold the process.
    runtime.shutdown_timeout(FAREWELL);
    match ended {
        Ok(()) => Exit::Ok,
        Err(cause) => {
            error!(%cause, "the relay does not start");
            if cause.is_config() {
                Exit::Config
            } else {
                Exit::Failure
            }
        }
    }
}

fn execute_cluster_init(args: ClusterInit) -> Exit {
    let args = InitArgs {
        hosts: args.hosts,
        dir: args.dir.unwrap_or_else(places::config_dir),
        namespace: args.namespace,
        data: args.data,
    };
    match init::run(&args, &mut io::stdout().lock()) {
        Ok(()) => first_cluster_key(&args.dir.join(CLUSTER_KEYS)),
        Err(error) if error.is_usage() => complain(&error, Exit::Usage),
        Err(error) => complain(&error, Exit::Failure),
    }
}

fn execute_certificate(args: &CertificateArgs) -> Exit {
    match node_certificate::run(args, &mut io::stdout().lock()) {
        Ok(()) => Exit::Ok,
        Err(error) => complain(&error, error.exit()),
    }
}

/// Nodes that share a store know each other by the cluster's keys. Those that are there already stay.
fn first_cluster_key(file: &Path) -> Exit {
    if file.exists() {
        return say(&format!("Keys: {} is there and stays\n", file.display()));
    }
    let add = KeyCommand::Add(AddArgs::default());
    let now = OffsetDateTime::now_utc();
    match cluster_key::run(&add, file, now, &mut io::stdout().lock()) {
        Ok(()) => Exit::Ok,
        Err(error) => complain(&error, error.exit()),
    }
}

fn execute_check(file: &Path) -> Exit {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => return complain(&error, Exit::Config),
    };
    let mut files = Files::new(config.gateway_files.clone());
    let gateways = files.read().len();
    let mut faults: Vec<String> = files.faults().map(str::to_owned).collect();
    let (node, sessions) = (config.node.clone(), config.sessions.len());
    let metrics = config.metrics.clone();
    faults.extend(
        run::proxies(&config)
            .err()
            .map(|error| format!("{}: proxy: {error}", file.display())),
    );
    faults.extend(run::front_tls(&config).err().map(|error| error.to_string()));
    faults.extend(
        certificates::open(config.sessions)
            .err()
            .map(|error| error.to_string()),
    );
    faults.extend(Cluster::check(file).err().map(|error| error.to_string()));
    faults.extend(
        config
            .cluster_keys
            .exists()
            .then(|| ClusterKeys::load(&config.cluster_keys).err())
            .flatten()
            .map(|error| error.to_string()),
    );
    for fault in &faults {
        complain(fault, Exit::Config);
    }
    if !faults.is_empty() {
        return Exit::Config;
    }
    for gap in files.gaps() {
        complain(&format!("warning: {gap}"), Exit::Ok);
    }
    for (name, fault) in metrics::look_at_folder(&metrics).faults {
        complain(&format!("warning: metric {name}: {fault}"), Exit::Ok);
    }
    say(&format!(
        "{}: ok: node {node}, {}, {}\n",
        file.display(),
        counted(sessions, "session"),
        counted(gateways, "gateway"),
    ))
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn execute_status(listing: &Listing) -> Exit {
    shown(
        asked(listing, "GET", "/status", None),
        listing,
        status::text,
    )
}

fn execute_direct_url(args: DirectUrlArgs) -> Exit {
    let DirectUrlArgs { session, listing } = args;
    let body = json!(Wanted { session });
    let answer = asked(&listing, "POST", DIRECT_URL, Some(body));
    shown(answer, &listing, direct_url::text)
}

/// Asks the running relay; why it does not answer is said here.
fn asked(listing: &Listing, method: &str, path: &str, body: Option<Value>) -> Result<Value, Exit> {
    let socket = places::admin_socket("relay", &listing.config.file());
    let runtime = Workers::ONE
        .runtime()
        .map_err(|error| complain(&error, Exit::Failure))?;
    let asked = runtime.block_on(admin::ask(&socket, method, path, body));
    asked.map_err(|error| complain(&error, Exit::Failure))
}

/// Prints an answer, for programs or as a text for people.
fn shown(answer: Result<Value, Exit>, listing: &Listing, text: impl Fn(&Value) -> String) -> Exit {
    match answer {
        Ok(answer) if listing.json => say(&(escape::json(&answer) + "\n")),
        Ok(answer) => say(&text(&answer)),
        Err(exit) => exit,
    }
}

fn execute_doctor(listing: &Listing) -> Exit {
    let file = listing.config.file();
    let config = match Config::load(&file) {
        Ok(config) => config,
        Err(error) => return complain(&error, Exit::Config),
    };
    let findings = match Workers::ONE.runtime() {
        Ok(runtime) => runtime.block_on(doctor::examine(&config)),
        Err(error) => return complain(&error, Exit::Failure),
    };
    let text = if listing.json {
        doctor::json(&findings)
    } else {
        doctor::text(&findings)
    };
    let failed = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Fail);
    let said = say(&text);
    if failed { Exit::Failure } else { said }
}

fn execute_cluster_key(keys: ClusterKeyArgs) -> Exit {
    let ClusterKeyArgs { config, command } = keys;
    let file = match cluster_keys_of(&Where { config }.file()) {
        Ok(file) => file,
        Err(error) => return complain(&error, Exit::Config),
    };
    let mut out = Vec::new();
    match cluster_key::run(&command, &file, OffsetDateTime::now_utc(), &mut out) {
        Ok(()) => say(&String::from_utf8_lossy(&out)),
        Err(error) => complain(&error, error.exit()),
    }
}

/// A machine without a relay may make the keys of a cluster, too.
fn cluster_keys_of(config: &Path) -> Result<PathBuf, LoadError> {
    if config.exists() {
        return Ok(Config::load(config)?.cluster_keys);
    }
    Ok(config.with_file_name(CLUSTER_KEYS))
}

fn say(text: &str) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Ok,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(_unwritable) => Exit::Failure,
    }
}

fn complain(error: &impl std::fmt::Display, exit: Exit) -> Exit {
    // There is no one left to tell when standard error is closed.
    drop(writeln!(io::stderr().lock(), "sallyport-relay: {error}"));
    exit
}
