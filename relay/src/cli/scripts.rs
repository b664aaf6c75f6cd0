//! Commands about the scripts that choose servers: their texts and chains, which are configuration of the cluster, and
//! what they chose.

mod placements;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use sallyport_cluster::global::{
    Bundle, BundleError, CHAINS, MOST_IN_CHAIN, MOST_SOURCE, PREDEFINED, Put, SCRIPTS,
};
use sallyport_ops::escape::{self, Escaped, FIELD};
use sallyport_ops::{Exit, Table};
use sallyport_placement::chain::{self, Code, Rule};
use sallyport_placement::predefined;
use sallyport_placement::{Action, PlacementError};
use serde_json::{Value, json};

use super::config::{At, ConfigCommandError, asked, changes};
use super::{complain, say};
use crate::global::Order;

/// `scripts`.
#[derive(Debug, Args)]
pub(super) struct ScriptsArgs {
    #[command(subcommand)]
    command: ScriptsCommand,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Subcommand)]
enum ScriptsCommand {
    /// List the scripts, predefined ones first, with the places that they have in chains
    List,
    /// Print the text of a script
    Show {
        /// Its name
        name: String,
    },
    /// Make or change a script; it holds on every node, from the next placement on
    Edit(EditArgs),
    /// Remove a script that no chain has
    Remove {
        /// Its name
        name: String,
    },
    /// Show or set the scripts that choose the server of a login or start, in their order
    Chain(ChainArgs),
    /// Say what would be chosen now, and why; nothing is started
    DryRun(DryRunArgs),
    /// List the last placements of this node, or tell all about one
    Trace {
        /// Its id
        id: Option<String>,
    },
    /// Repeat a placement with the scripts, servers, time and chance of then, and compare
    Replay(ReplayArgs),
    /// Bring back the text that a script had in an earlier epoch of the configuration
    Rollback {
        /// Its name
        name: String,
        /// The epoch [default: the last in which it had another text; `config history` lists those that are kept]
        #[arg(long, value_name = "EPOCH")]
        to: Option<u64>,
    },
}

#[derive(Debug, Args)]
struct EditArgs {
    /// Its name, 1 to 64 characters a-z A-Z 0-9 - _ .
    name: String,
    #[command(flatten)]
    text: TextArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TextArgs {
    /// File with its text, a JavaScript function(input); `scripts show` prints those that are there
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Program of every node that reads the input as JSON and answers as JSON, by its absolute path
    #[arg(long, value_name = "PATH")]
    executable: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ChainArgs {
    /// What it decides about
    of: ChainName,
    /// Scripts in their order; without any, the chain is shown
    #[arg(conflicts_with = "default")]
    names: Vec<String>,
    /// Go back to the usual chain
    #[arg(long)]
    default: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ChainName {
    /// Logins
    Login,
    /// Starts of sessions
    Start,
}

impl ChainName {
    const fn name(self) -> &'static str {
        match self {
            Self::Login => Action::Login.chain(),
            Self::Start => Action::Start.chain(),
        }
    }
}

#[derive(Debug, Args)]
struct DryRunArgs {
    /// user/login or session/start
    #[arg(long)]
    action: Action,
    /// File with the request as JSON: any of user, userGroups, isManager, isAdmin, data and requires [default: nothing]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ReplayArgs {
    /// Its id; the running relay repeats it
    id: Option<String>,
    /// File that `trace ID --json` wrote, on any node; needs no running relay
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
enum ScriptsError {
    #[error(transparent)]
    Config(#[from] ConfigCommandError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("{}: {}", path.display(), Escaped::new(&cause.to_string(), FIELD))]
    Json {
        path: PathBuf,
        cause: serde_json::Error,
    },
    #[error("there is no script `{0}`: `scripts list` has those that are there")]
    NoScript(String),
    #[error(
        "`{0}` is predefined and stays as it is: copy its text (`scripts show {0}`) under another name"
    )]
    Predefined(String),
    #[error("script `{name}` had no other text in the epochs that are kept ({kept})")]
    NoEarlier { name: String, kept: String },
    #[error("script `{name}` was not there in epoch {epoch}")]
    NotThen { name: String, epoch: u64 },
    #[error("--broker goes with what is configured; this asks the running relay")]
    NoBroker,
    #[error(transparent)]
    Placement(#[from] PlacementError),
}

impl ScriptsError {
    const fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => error.exit(),
            Self::NoBroker => Exit::Usage,
            Self::Bundle(_)
            | Self::File { .. }
            | Self::Json { .. }
            | Self::NoScript(_)
            | Self::Predefined(_)
            | Self::NoEarlier { .. }
            | Self::NotThen { .. }
            | Self::Placement(_) => Exit::Failure,
        }
    }
}

/// Does what was asked for.
pub(super) fn scripts(args: &ScriptsArgs) -> Exit {
    let at = &args.at;
    let mut exit = Exit::Ok;
    let done = match &args.command {
        ScriptsCommand::List => list(at),
        ScriptsCommand::Show { name } => show(at, name),
        ScriptsCommand::Edit(edited) => edit(at, edited),
        ScriptsCommand::Remove { name } => remove(at, name),
        ScriptsCommand::Chain(args) => set_chain(at, args),
        ScriptsCommand::Rollback { name, to } => rollback(at, name, *to),
        ScriptsCommand::DryRun(args) => placements::dry_run(at, args),
        ScriptsCommand::Trace { id: None } => placements::traces(at),
        ScriptsCommand::Trace { id: Some(id) } => placements::trace(at, id),
        ScriptsCommand::Replay(args) => placements::replay(at, args).map(|(text, is_same)| {
            exit = if is_same { Exit::Ok } else { Exit::Failure };
            text
        }),
    };
    match done {
        Ok(text) => {
            let said = say(&text);
            if exit == Exit::Ok { said } else { exit }
        }
        Err(error) => complain(&error, error.exit()),
    }
}

/// What is printed.
type Said = Result<String, ScriptsError>;

fn pretty(value: &Value) -> String {
    escape::json(value) + "\n"
}

/// What holds now, and its epoch.
fn bundle(at: &At, order: Order) -> Result<(Bundle, u64), ScriptsError> {
    let mut answer = asked(at, order)?;
    let epoch = answer["epoch"].as_u64().unwrap_or(0);
    Ok((Bundle::from_value(answer["bundle"].take())?, epoch))
}

fn rules(bundle: &Bundle) -> Vec<Rule> {
    let own = bundle.objects(SCRIPTS).map(|(name, _)| name);
    let names = PREDEFINED.iter().copied().chain(own);
    names.filter_map(|name| Rule::find(name, bundle)).collect()
}

fn list(at: &At) -> Said {
    let (bundle, _) = bundle(at, Order::Export)?;
    let rows = rules(&bundle);
    if at.listing.json {
        let row = |rule: &Rule| {
            json!({
                "name": rule.name,
                "title": predefined::find(&rule.name).map(|predefined| predefined.title),
                "predefined": rule.is_predefined(),
                "kind": kind(rule),
                "version": rule.version,
                "chains": places(&bundle, &rule.name),
            })
        };
        return Ok(pretty(&rows.iter().map(row).collect()));
    }
    let mut table = Table::new(&["name", "title", "kind", "version", "in chains"]);
    for rule in &rows {
        let title = predefined::find(&rule.name).map_or("", |predefined| predefined.title);
        table.row([
            rule.name.clone(),
            title.to_owned(),
            kind(rule).to_owned(),
            rule.version.clone(),
            places(&bundle, &rule.name).join(", "),
        ]);
    }
    Ok(table.to_string())
}

fn kind(rule: &Rule) -> &'static str {
    match rule.code {
        Code::Javascript { .. } if rule.is_predefined() => "predefined",
        Code::Javascript { .. } => "javascript",
        Code::Executable { .. } => "executable",
        Code::Absent => "absent",
    }
}

/// Where a script stands, from 1: `login 2`.
fn places(bundle: &Bundle, script: &str) -> Vec<String> {
    let in_chain = |chain: &'static str| {
        let (names, _) = chain::names(bundle, chain);
        let places = names.into_iter().zip(1..);
        let script = script.to_owned();
        places.filter_map(move |(name, place): (String, u32)| {
            (name == script).then(|| format!("{chain} {place}"))
        })
    };
    let chains = [Action::Login.chain(), Action::Start.chain()];
    chains.into_iter().flat_map(in_chain).collect()
}

fn show(at: &At, name: &str) -> Said {
    let (bundle, epoch) = bundle(at, Order::Export)?;
    let rule = Rule::find(name, &bundle).ok_or_else(|| ScriptsError::NoScript(name.to_owned()))?;
    if at.listing.json {
        let mut shown = json!(rule);
        shown["predefined"] = json!(rule.is_predefined());
        shown["epoch"] = json!(epoch);
        return Ok(pretty(&shown));
    }
    Ok(match &rule.code {
        Code::Javascript { source } => format!("{}\n", source.trim_end()),
        Code::Executable { path } => format!("{}\n", path.display()),
        Code::Absent => String::new(),
    })
}

fn edit(at: &At, args: &EditArgs) -> Said {
    own(&args.name)?;
    let object = match (&args.text.file, &args.text.executable) {
        (Some(file), _) => json!({ "kind": "javascript", "source": text(file)? }),
        (None, path) => json!({ "kind": "executable", "path": path }),
    };
    put(at, SCRIPTS, &args.name, &object)
}

fn remove(at: &At, name: &str) -> Said {
    own(name)?;
    put(at, SCRIPTS, name, &Value::Null)
}

fn own(name: &str) -> Result<(), ScriptsError> {
    match predefined::find(name) {
        Some(_) => Err(ScriptsError::Predefined(name.to_owned())),
        None => Ok(()),
    }
}

/// As much of a file as a script may have, and a little more.
fn text(path: &Path) -> Result<String, ScriptsError> {
    let mut text = String::new();
    let most = u64::try_from(MOST_SOURCE).unwrap_or(u64::MAX);
    let read = File::open(path).and_then(|file| {
        let mut file = file.take(most.saturating_add(1));
        file.read_to_string(&mut text)
    });
    read.map_err(|cause| ScriptsError::File {
        path: path.to_owned(),
        cause,
    })?;
    Ok(text)
}

/// One object is as given from now on; `null` takes it away.
fn put(at: &At, kind: &str, name: &str, object: &Value) -> Said {
    let put = Put {
        kind: kind.to_owned(),
        name: name.to_owned(),
        object: object.as_object().cloned(),
    };
    let dry_run = false;
    let answer = asked(at, Order::Put { put, dry_run })?;
    Ok(changes(at, &answer))
}

fn set_chain(at: &At, args: &ChainArgs) -> Said {
    let name = args.of.name();
    if args.names.is_empty() && !args.default {
        return show_chain(at, name);
    }
    if !args.default {
        return put(at, CHAINS, name, &json!({ SCRIPTS: args.names }));
    }
    let (bundle, _) = bundle(at, Order::Export)?;
    match bundle.object(CHAINS, name) {
        Some(_) => put(at, CHAINS, name, &Value::Null),
        None => show_chain(at, name),
    }
}

fn show_chain(at: &At, name: &str) -> Said {
    let (bundle, epoch) = bundle(at, Order::Export)?;
    let (names, is_usual) = chain::names(&bundle, name);
    if at.listing.json {
        let shown = json!({ "chain": name, "scripts": names, "default": is_usual, "epoch": epoch, "most": MOST_IN_CHAIN });
        return Ok(pretty(&shown));
    }
    let mut text = String::new();
    for (name, place) in names.iter().zip(1_u32..) {
        // writing to a String cannot fail
        let _infallible = writeln!(text, "{place}. {name}");
    }
    if is_usual {
        text.push_str("This is the usual chain; nothing else is configured.\n");
    }
    Ok(text)
}

fn rollback(at: &At, name: &str, to: Option<u64>) -> Said {
    own(name)?;
    let object = match to {
        Some(epoch) => {
            let (then, _) = bundle(at, Order::At { epoch })?;
            let object = then.object(SCRIPTS, name).cloned();
            let name = name.to_owned();
            object.ok_or(ScriptsError::NotThen { name, epoch })?
        }
        None => earlier(at, name)?,
    };
    put(at, SCRIPTS, name, &Value::Object(object))
}

/// What a script said in the last epoch in which that was something else than now.
fn earlier(at: &At, name: &str) -> Result<sallyport_cluster::global::Object, ScriptsError> {
    let (now, newest) = bundle(at, Order::Export)?;
    let now = now.object(SCRIPTS, name);
    let history = asked(at, Order::History)?;
    let rows = history.as_array().into_iter().flatten();
    let epochs: Vec<u64> = rows.filter_map(|row| row["epoch"].as_u64()).collect();
    for epoch in epochs.iter().copied().filter(|epoch| *epoch < newest) {
        let (then, _) = bundle(at, Order::At { epoch })?;
        if let Some(object) = then
            .object(SCRIPTS, name)
            .filter(|object| Some(*object) != now)
        {
            return Ok(object.clone());
        }
    }
    let kept: Vec<_> = epochs.iter().map(u64::to_string).collect();
    Err(ScriptsError::NoEarlier {
        name: name.to_owned(),
        kept: kept.join(", "),
    })
}
