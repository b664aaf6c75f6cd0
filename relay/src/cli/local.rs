//! Commands that change what is local to this node.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use sallyport_node::static_data::Object;
use sallyport_node::{Drain, Settings, StartHours};
use sallyport_ops::{Exit, Table, duration, escape, moment};
use sallyport_wire::NodeName;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{Listing, asked, complain, shown};
use crate::drain::{DRAIN, Drained, LOOK, Order, UNDRAIN};
use crate::local::{self, Edit, Wish};
use crate::servers::switch;

/// How often `--wait` looks whether the node is empty.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What another node said before it was asked to drain is no older than this.
const HEARD_WITHIN: Duration = Duration::from_secs(6);

/// What edits static data where neither VISUAL nor EDITOR is set.
const EDITOR: &str = "vi";

/// `set`.
#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// What to set; without it, all settings are shown
    #[arg(requires = "value")]
    name: Option<Name>,
    /// on or off; for start-hours: `always`, or spans like `mon-fri 20:00-06:00, sat-sun`
    value: Option<String>,
    #[command(flatten)]
    listing: Listing,
}

/// The settings, as the command names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Whether people may log in on this node
    LoginEnabled,
    /// Whether sessions may be started on this node
    StartEnabled,
    /// Whether a login reserves this node for its user
    Reservable,
    /// When sessions may be started, by the node's own clock
    StartHours,
    /// Whether sessions are started only while nobody uses the machine itself
    OnlyWhenIdle,
}

impl Name {
    fn wish(self, value: &str) -> Result<Wish, String> {
        let none = Wish::default;
        Ok(match self {
            Self::LoginEnabled => Wish {
                login_enabled: Some(on(value)?),
                ..none()
            },
            Self::StartEnabled => Wish {
                start_enabled: Some(on(value)?),
                ..none()
            },
            Self::Reservable => Wish {
                reservable: Some(on(value)?),
                ..none()
            },
            Self::OnlyWhenIdle => Wish {
                only_when_idle: Some(on(value)?),
                ..none()
            },
            Self::StartHours => {
                let hours: Result<StartHours, _> = value.parse();
                Wish {
                    start_hours: Some(hours.map_err(|error| error.to_string())?),
                    ..none()
                }
            }
        })
    }
}

fn on(value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("`{}` is neither on nor off", other.escape_debug())),
    }
}

/// Shows or changes settings.
pub(super) fn set(args: &SetArgs) -> Exit {
    let wish = match (args.name, &args.value) {
        (Some(name), Some(value)) => name.wish(value).map(Some),
        _ => Ok(None),
    };
    let answer = match wish {
        Err(error) => return complain(&error, Exit::Usage),
        Ok(Some(wish)) => asked(&args.listing, "POST", local::SETTINGS, Some(json!(wish))),
        Ok(None) => asked(&args.listing, "GET", local::SETTINGS, None),
    };
    if args.listing.json {
        return shown(answer.map(with_draining), &args.listing, settings);
    }
    shown(answer, &args.listing, settings)
}

/// The settings with a word on what the text shows as well.
fn with_draining(mut settings: Value) -> Value {
    settings["draining"] = json!(settings["drain"].is_object());
    settings
}

fn settings(answer: &Value) -> String {
    let Ok(settings) = serde_json::from_value::<Settings>(answer.clone()) else {
        return escape::json(answer) + "\n"; // of another version
    };
    let mut table = Table::new(&["setting", "value"]);
    let mut row = |name: &str, value: &str| table.row([name.to_owned(), value.to_owned()]);
    row("login-enabled", switch(settings.login_enabled));
    row("start-enabled", switch(settings.start_enabled));
    row("reservable", switch(settings.reservable));
    row("start-hours", &settings.start_hours.to_string());
    row("only-when-idle", switch(settings.only_when_idle));
    row("draining", &drain_line(settings.drain.as_ref()));
    format!("{table}\nThese are settings of this node alone; those of other nodes are set there.\n")
}

fn drain_line(drain: Option<&Drain>) -> String {
    drain.map_or_else(
        || "off".to_owned(),
        |drain| match drain.deadline {
            Some(deadline) => format!("on, until {}", moment::rfc3339(deadline)),
            None => "on".to_owned(),
        },
    )
}

/// `static-data`.
#[derive(Debug, Args)]
pub(super) struct StaticDataArgs {
    #[command(subcommand)]
    command: Option<StaticDataCommand>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Subcommand)]
enum StaticDataCommand {
    /// Show it (this is also done without a command)
    Show,
    /// Set a key
    Set {
        /// The key
        key: String,
        /// Its value: JSON, or else text
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Take a key away
    Unset {
        /// The key
        key: String,
    },
    /// Edit all of it with VISUAL, EDITOR or vi
    Edit,
    /// Forget what was edited: `[static_data]` of relay.toml holds again
    Reset,
}

/// Shows or changes static data.
pub(super) fn static_data(args: &StaticDataArgs) -> Exit {
    let edit = match &args.command {
        None | Some(StaticDataCommand::Show) => None,
        Some(StaticDataCommand::Set { key, value }) => {
            let value = serde_json::from_str(value).unwrap_or_else(|_text| json!(value));
            Some(Edit::Set {
                key: key.clone(),
                value,
            })
        }
        Some(StaticDataCommand::Unset { key }) => Some(Edit::Unset { key: key.clone() }),
        Some(StaticDataCommand::Reset) => Some(Edit::Reset),
        Some(StaticDataCommand::Edit) => match edited(&args.listing) {
            Ok(edit) => Some(edit),
            Err(exit) => return exit,
        },
    };
    let answer = match edit {
        Some(edit) => asked(&args.listing, "POST", local::STATIC_DATA, Some(json!(edit))),
        None => asked(&args.listing, "GET", local::STATIC_DATA, None),
    };
    if args.listing.json {
        let data = answer.map(|answer| answer["data"].clone());
        return shown(data, &args.listing, |_| String::new());
    }
    shown(answer, &args.listing, data)
}

fn data(answer: &Value) -> String {
    let origin = if answer["edited"] == true {
        "as edited; `static-data reset` returns to relay.toml"
    } else {
        "as in relay.toml"
    };
    let fault = answer["fault"].as_str();
    let fault = fault.map(|fault| format!("not used: {fault}\n"));
    format!(
        "{:#}\n{origin}\n{}",
        answer["data"],
        fault.unwrap_or_default()
    )
}

/// Has a person edit what there is now. What cannot be used is kept, with a word on where.
fn edited(listing: &Listing) -> Result<Edit, Exit> {
    let now = asked(listing, "GET", local::STATIC_DATA, None)?;
    let failed = |error: &dyn std::fmt::Display| complain(&error, Exit::Failure);
    let from: Object =
        serde_json::from_value(now["data"].clone()).map_err(|error| failed(&error))?;
    let file = draft(&from).map_err(|error| failed(&error))?;
    run_editor(file.path()).map_err(|error| failed(&error))?;
    let text = std::fs::read_to_string(file.path()).map_err(|error| failed(&error))?;
    match serde_json::from_str(&text) {
        Ok(to) => Ok(Edit::Replace { from, to }),
        Err(error) => {
            let kept = file.keep().map_err(|error| failed(&error))?.1;
            let text = format!(
                "that is no JSON object: {error}; what you wrote is in {}",
                kept.display()
            );
            Err(complain(&text, Exit::Failure))
        }
    }
}

fn draft(data: &Object) -> io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix("static-data-")
        .suffix(".json")
        .tempfile()?;
    writeln!(file, "{:#}", json!(data))?;
    Ok(file)
}

fn run_editor(file: &Path) -> io::Result<()> {
    let chosen = ["VISUAL", "EDITOR"].into_iter().find_map(std::env::var_os);
    let editor = chosen
        .filter(|editor| !editor.is_empty())
        .unwrap_or_else(|| OsString::from(EDITOR));
    // by the shell, because such a variable may hold arguments
    let mut line = editor.clone();
    line.push(" \"$1\"");
    let mut command = Command::new("sh");
    command.arg("-c").arg(line).arg("sh").arg(file);
    let status = command.status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{}: {status}; nothing was changed",
        editor.display()
    )))
}

/// `drain`.
#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// The node: this one, or another one that `servers` lists
    node: NodeName,
    /// When its users are to be gone, like 30m or 48h from now; shown in status and in the list of servers
    #[arg(long, value_name = "TIME", value_parser = duration::argument)]
    deadline: Option<Duration>,
    /// Wait until nobody uses the node; ends with 1 if somebody still does at the deadline
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    listing: Listing,
}

/// `undrain`.
#[derive(Debug, Args)]
pub(super) struct UndrainArgs {
    /// The node: this one, or another one that `servers` lists
    node: NodeName,
    #[command(flatten)]
    listing: Listing,
}

/// Begins a drain.
pub(super) fn drain(args: &DrainArgs) -> Exit {
    let order = Order {
        node: args.node.clone(),
        within: args.deadline.map(|within| within.as_secs()),
    };
    let mut answer = asked(&args.listing, "POST", DRAIN, Some(json!(order)));
    if args.wait {
        answer = answer.and_then(|began| wait(&args.listing, began));
    }
    shown(answer, &args.listing, drained)
}

/// Ends a drain.
pub(super) fn undrain(args: &UndrainArgs) -> Exit {
    let order = Order {
        node: args.node.clone(),
        within: None,
    };
    let answer = asked(&args.listing, "POST", UNDRAIN, Some(json!(order)));
    shown(answer, &args.listing, drained)
}

/// Waits until nobody uses the node, for as long as the drain lasts.
fn wait(listing: &Listing, mut answer: Value) -> Result<Value, Exit> {
    let began = Instant::now();
    loop {
        let now: Drained = serde_json::from_value(answer.clone())
            .map_err(|error| complain(&error, Exit::Failure))?;
        let late = |deadline| OffsetDateTime::now_utc() >= deadline;
        if !now.draining && began.elapsed() > HEARD_WITHIN {
            return Err(complain(&"somebody ended the drain", Exit::Failure));
        }
        if now.draining && now.streams == 0 {
            return Ok(answer);
        }
        if now.deadline.is_some_and(late) {
            let left = format!(
                "the deadline has passed and {} streams are left",
                now.streams
            );
            return Err(complain(&left, Exit::Failure));
        }
        thread::sleep(LOOK_EVERY);
        let order = Order {
            node: now.node,
            within: None,
        };
        answer = asked(listing, "POST", LOOK, Some(json!(order)))?;
    }
}

fn drained(answer: &Value) -> String {
    let node = answer["node"].as_str().unwrap_or_default();
    if answer["draining"] != true {
        return format!("node {node} takes logins and sessions again, as its settings say\n");
    }
    let until = answer["deadline"].as_str();
    let until = until.map(|until| format!(" until {until}"));
    format!(
        "node {node} drains{}: {} streams are open\n",
        until.unwrap_or_default(),
        answer["streams"]
    )
}
