//! The command line.

mod logs;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use sallyport_certs::CertError;
use sallyport_link::Key;
use sallyport_ops::admin::{AskError, ask};
use sallyport_ops::logs::LogsError;
use sallyport_ops::privileges::{raise_descriptor_limit, uid_of};
use sallyport_ops::telemetry::{self, TelemetryError};
use sallyport_ops::{ConfigError, Exit, escape, places};
use sallyport_wire::{ClusterName, NodeName};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::runtime::{Builder, Runtime};
use tracing::error;

use self::logs::{DebugArgs, LogsArgs};
use crate::budget::{Budget, TooFew};
use crate::clusters;
use crate::config::Config;
use crate::files::{self, FilesError};
use crate::init::{self, InitArgs, InitError};
use crate::keys::{self, KeyArgs, KeysDone, KeysError};
use crate::serve::{self, ServeError};
use crate::{admin, status};
use sallyport_link::NamesError;

/// The Sallyport gateway: one public URL in front of relays that dial out
#[derive(Debug, Parser)]
#[command(
    name = "sallyport-gateway",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = Exit::HELP
)]
struct Cli {
    /// Configuration file [default: gateway.toml of /etc/sallyport or of SALLYPORT_CONFIG_DIR]
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write configuration, keys and certificate of a new gateway
    Init(InitArgs),
    /// Run the gateway until SIGTERM, which lets streams finish; a second one ends it at once
    Run,
    /// Check configuration, keys, certificate and limits
    Check,
    /// Relays, tunnels, sessions and streams of the running gateway
    Status {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Nodes that the running gateway knows
    Relays {
        /// One JSON array
        #[arg(long)]
        json: bool,
        #[command(subcommand)]
        command: Option<Relays>,
    },
    /// Keys that relays authenticate with
    Key(KeyArgs),
    /// What the running gateway logged last, wherever else its log goes
    Logs(LogsArgs),
    /// Have the running gateway log details of one category for a while; without a command, list the categories
    Debug(DebugArgs),
}

#[derive(Debug, Subcommand)]
enum Relays {
    /// Release the name of a node, so that another node key may take it; its tunnels end
    Forget {
        /// Name of the node
        node: NodeName,
        /// Its cluster, if that is not the default one
        #[arg(long, value_name = "NAME")]
        cluster: Option<ClusterName>,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Names(#[from] NamesError),
    #[error(transparent)]
    TooFew(#[from] TooFew),
    #[error(transparent)]
    Init(#[from] InitError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The log has it.
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Certificate(#[from] CertError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Logs(#[from] LogsError),
    #[error("writing the output: {0}")]
    Io(#[from] io::Error),
}

impl CommandError {
    const fn exit(&self) -> Exit {
        match self {
            Self::Config(_)
            | Self::Files(_)
            | Self::Names(_)
            | Self::TooFew(_)
            | Self::Certificate(_)
            | Self::Telemetry(TelemetryError::Level(_)) => Exit::Config,
            Self::Serve(error) if error.is_configuration() => Exit::Config,
            Self::Init(error) => error.exit(),
            Self::Keys(error) => error.exit(),
            Self::Serve(_) | Self::Telemetry(_) | Self::Ask(_) | Self::Logs(_) | Self::Io(_) => {
                Exit::Failure
            }
        }
    }
}

/// Runs the command of the process's arguments.
#[must_use]
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell that the terminal is gone.
            drop(error.print());
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
        }
    };
    let mut out = io::stdout().lock();
    match run(cli, &mut out).and_then(|()| Ok(out.flush()?)) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            if !matches!(error, CommandError::Serve(_)) {
                drop(writeln!(io::stderr(), "sallyport-gateway: {error}"));
            }
            error.exit()
        }
    }
}

fn run(cli: Cli, out: &mut dyn Write) -> Result<(), CommandError> {
    let path = cli.config.unwrap_or_else(|| places::config_file("gateway"));
    // Absolute, so that the same file means the same places however it is named.
    let path = std::path::absolute(&path).unwrap_or(path);
    match cli.command {
        Command::Init(args) => {
            init::run(&args, out)?;
        }
        Command::Run => {
            let config = Config::load(&path)?;
            let telemetry = telemetry::init(config.log)?;
            let ended = serve::run(config, telemetry.logging());
            ended.inspect_err(|cause| error!(%cause, "the gateway does not start"))?;
        }
        Command::Check => check(&path, out)?,
        Command::Status { json } => {
            let answer = asked(&path, "GET", admin::STATUS, None)?;
            if json {
                writeln!(out, "{}", escape::json(&answer))?;
            } else {
                write!(out, "{}", status::as_text(&answer))?;
            }
        }
        Command::Relays {
            json,
            command: None,
        } => relays(&path, json, out)?,
        Command::Relays {
            command: Some(Relays::Forget { node, cluster }),
            ..
        } => {
            let body = json!({ "node": node, "cluster": cluster.unwrap_or_default() });
            let answer = asked(&path, "POST", admin::FORGET, Some(body))?;
            let tunnels = answer.get("tunnels").and_then(Value::as_u64).unwrap_or(0);
            writeln!(
                out,
                "The name {node} is free again; {tunnels} tunnels were ended."
            )?;
        }
        Command::Logs(args) => logs::logs(&args, &path, out)?,
        Command::Debug(args) => logs::debug(&args, &path, out)?,
        Command::Key(args) => {
            let config = Config::load(&path)?;
            let file = &config.gateway_file;
            let done = keys::run(&args, file, OffsetDateTime::now_utc(), out)?;
            if !matches!(done, KeysDone::Listed(_)) {
                // One that does not run, or does not answer, sees by itself that the file changed.
                drop(asked(&path, "POST", admin::KEYS, None));
            }
        }
    }
    Ok(())
}

fn relays(path: &Path, json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    let answer = asked(path, "GET", admin::RELAYS, None)?;
    if json {
        writeln!(out, "{}", escape::json(&answer))?;
        return Ok(());
    }
    let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    write!(out, "{}", status::listing(rows, status::RELAYS))?;
    Ok(())
}

/// Says of each part that it is well, and stops at the first that is not.
fn check(path: &Path, out: &mut dyn Write) -> Result<(), CommandError> {
    let config = Config::load(path)?;
    writeln!(out, "configuration  ok  {}", path.display())?;
    let identity = files::identity(&config)?;
    let (names, until) = (identity.names().join(", "), identity.not_after().date());
    let pin = identity.pin()?;
    files::pinned(&config, &identity)?;
    files::covers(&config, &identity)?;
    writeln!(out, "certificate    ok  {names}, until {until}, pin {pin}")?;
    let keys = files::keys(&config)?.keys;
    writeln!(
        out,
        "keys           ok  {} in {}",
        keys.len(),
        config.gateway_file.display()
    )?;
    clusters(&config, &keys, out)?;
    let known = files::names(&config)?.all().len();
    writeln!(
        out,
        "names          ok  {known} in {}",
        config.state_dir.display()
    )?;
    let budget = Budget::compute(&config, raise_descriptor_limit()?)?;
    writeln!(
        out,
        "limits         ok  {} clients, {} tunnels",
        budget.clients, budget.tunnels
    )?;
    let user = &config.user;
    match uid_of(user)? {
        Some(uid) => writeln!(out, "account        ok  {user}, uid {uid}")?,
        None => writeln!(
            out,
            "account        --  there is no {user}: a gateway started as root stays root"
        )?,
    }
    Ok(())
}

/// Says where each cluster is, and what does not fit together: that may still be on its way.
fn clusters(config: &Config, keys: &[Key], out: &mut dyn Write) -> Result<(), CommandError> {
    for cluster in &config.clusters {
        writeln!(
            out,
            "cluster        ok  {} at {}",
            cluster.name, cluster.host
        )?;
    }
    for remark in clusters::remarks(config, keys, OffsetDateTime::now_utc()) {
        writeln!(out, "cluster        --  {remark}")?;
    }
    Ok(())
}

/// Asks the running gateway of this configuration.
fn asked(
    path: &Path,
    method: &str,
    route: &str,
    body: Option<Value>,
) -> Result<Value, CommandError> {
    let socket = places::admin_socket("gateway", path);
    Ok(runtime()?.block_on(ask(&socket, method, route, body))?)
}

/// For a command that asks.
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use clap::CommandFactory as _;

    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["sallyport-gateway"], args].concat())
    }

    fn failed(args: &[&str]) -> Exit {
        let cli = parse(args).expect("a command");
        run(cli, &mut Vec::new())
            .expect_err("it cannot work")
            .exit()
    }

    #[test]
    fn the_commands_fit_together() {
        Cli::command().debug_assert();
        assert!(parse(&["relays", "forget", "n1", "--config", "x.toml"]).is_ok());
        assert!(parse(&["relays", "forget", "n1", "--cluster", "bio"]).is_ok());
        assert!(parse(&["relays", "forget", "n1", "--cluster", "Bio 1"]).is_err());
        assert!(parse(&["status", "--json"]).is_ok());
        assert!(parse(&["relays", "forget", "Not A Node"]).is_err());
    }

    #[test]
    fn a_bad_configuration_has_an_exit_code_of_its_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("gateway.toml");
        let config = path.to_str().expect("UTF-8");
        std::fs::write(&path, "url = \"https://gw.example.org\"\nurll = 1\n").expect("writable");

        for command in ["check", "run"] {
            assert_eq!(failed(&[command, "--config", config]), Exit::Config);
        }
        assert_eq!(
            failed(&["status", "--config", config]),
            Exit::Failure,
            "nothing runs there"
        );
        let join = [
            "init",
            "--url",
            "https://gw.example.org",
            "--dir",
            "x",
            "--join",
            config,
        ];
        assert_eq!(failed(&join), Exit::Config, "it is no gateway.json");
    }

    #[test]
    fn a_bad_gateway_json_is_a_bad_configuration() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("gateway.toml");
        let config = path.to_str().expect("UTF-8");
        std::fs::write(&path, "url = \"https://gw.example.org\"\n").expect("writable");
        let keys = dir.path().join("gateway.json");
        let missing = failed(&["key", "list", "--config", config]);
        assert_eq!(missing, Exit::Config);
        std::fs::write(&keys, "{}").expect("writable");
        for mode in [0o644, 0o600] {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&keys, mode).expect("its owner");
            for command in [
                &["key", "list"][..],
                &["key", "add"],
                &["key", "revoke", "k"],
            ] {
                let args = [command, &["--config", config]].concat();
                assert_eq!(failed(&args), Exit::Config, "{command:?}");
            }
        }
        let usage = ["key", "add", "--nodes", "", "--config", config];
        assert_eq!(failed(&usage), Exit::Usage);
    }
}
