//! What the scripts chose: now, of late, and once more.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use sallyport_ops::escape::{Escaped, FIELD};
use sallyport_ops::{Table, Tasks};
use sallyport_placement::replay::{self, Replay};
use sallyport_placement::trace::{Attempt, Outcome, Trace, Verdict};
use sallyport_scripts::Folders;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{DryRunArgs, ReplayArgs, Said, ScriptsError, pretty};
use crate::cli::config::{At, ask_relay, runtime};
use crate::placement::{DRY_RUN, REPLAY, TRACES, engine};

pub(super) fn dry_run(at: &At, args: &DryRunArgs) -> Said {
    let mut request = match &args.file {
        Some(file) => read::<Value>(file)?,
        None => json!({}),
    };
    if let Value::Object(fields) = &mut request {
        fields.insert("action".to_owned(), json!(args.action));
    }
    let answer = relay(at, "POST", DRY_RUN, Some(request))?;
    Ok(shown(at, &answer))
}

pub(super) fn trace(at: &At, id: &str) -> Said {
    let answer = relay(at, "POST", TRACES, Some(json!({ "id": id })))?;
    Ok(shown(at, &answer))
}

/// A whole trace.
fn shown(at: &At, answer: &Value) -> String {
    if at.listing.json {
        return pretty(answer);
    }
    match serde_json::from_value::<Trace>(answer.clone()) {
        Ok(trace) => trace_text(&trace),
        // of another version than this
        Err(_other) => pretty(answer),
    }
}

pub(super) fn traces(at: &At) -> Said {
    let answer = relay(at, "POST", TRACES, None)?;
    if at.listing.json {
        return Ok(pretty(&answer));
    }
    let mut table = Table::new(&[
        "id", "time", "action", "user", "servers", "result", "tries", "took",
    ]);
    for row in answer.as_array().into_iter().flatten() {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let verdict = serde_json::from_value::<Verdict>(row["verdict"].clone());
        table.row([
            text("id"),
            moment(row["time"].as_u64().unwrap_or(0)),
            text("action"),
            text("user"),
            row["servers"].to_string(),
            verdict.map(|verdict| result(&verdict)).unwrap_or_default(),
            row["attempts"].to_string(),
            took(row["tookUs"].as_u64().unwrap_or(0)),
        ]);
    }
    Ok(table.to_string())
}

/// The comparison, and whether all is as it was.
pub(super) fn replay(at: &At, args: &ReplayArgs) -> Result<(String, bool), ScriptsError> {
    let replay = match (&args.file, &args.id) {
        (Some(file), _) => here(&read(file)?)?,
        (None, id) => {
            let answer = relay(at, "POST", REPLAY, Some(json!({ "id": id })))?;
            let read = serde_json::from_value(answer);
            read.map_err(|cause| ScriptsError::Json {
                path: REPLAY.into(),
                cause,
            })?
        }
    };
    let text = match at.listing.json {
        true => pretty(&json!(replay)),
        false => replay_text(&replay),
    };
    Ok((text, replay.same))
}

/// In workers of this process: a file needs no relay. Programs are never run for a replay.
fn here(trace: &Trace) -> Result<Replay, ScriptsError> {
    let repeating = async {
        let tasks = Tasks::new();
        let replay = replay::replay(&engine(Folders::default(), &tasks), trace).await;
        tasks.drain(Duration::ZERO).await;
        replay
    };
    Ok(runtime()?.block_on(Box::pin(repeating)))
}

fn relay(at: &At, method: &str, path: &str, body: Option<Value>) -> Result<Value, ScriptsError> {
    if at.broker.is_some() {
        return Err(ScriptsError::NoBroker);
    }
    Ok(ask_relay(at, method, path, body)?)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ScriptsError> {
    let text = fs::read(path).map_err(|cause| ScriptsError::File {
        path: path.to_owned(),
        cause,
    })?;
    serde_json::from_slice(&text).map_err(|cause| ScriptsError::Json {
        path: path.to_owned(),
        cause,
    })
}

fn trace_text(trace: &Trace) -> String {
    let mut text = String::new();
    let (action, user) = (trace.request.action, trace.request.login());
    let user = Escaped::new(user, FIELD);
    let dry_run = if trace.dry_run { ", dry run" } else { "" };
    // writing to a String cannot fail
    let _infallible = writeln!(
        text,
        "placement {} of {}: {action} for `{user}` on {}, epoch {}{dry_run}",
        Escaped::new(&trace.id, FIELD),
        moment(trace.time),
        Escaped::new(&trace.node, FIELD),
        trace.epoch,
    );
    for attempt in &trace.attempts {
        text.push_str(&attempt_text(attempt));
    }
    text
}

fn attempt_text(attempt: &Attempt) -> String {
    let mut text = String::new();
    let (servers, dropped) = (attempt.servers.len(), attempt.dropped.len());
    let stale = if attempt.stale {
        ", as last heard of"
    } else {
        ""
    };
    let _infallible = writeln!(
        text,
        "\n{} in {}; servers: {servers}, not seen by scripts: {dropped}{stale}",
        result(&attempt.verdict),
        took(attempt.took_us),
    );
    let mut steps = Table::new(&["script", "version", "did", "took"]);
    for step in &attempt.steps {
        let did = step.outcome.to_string();
        let took = took(step.took_us);
        steps.row([step.script.clone(), step.version.clone(), did, took]);
        for line in &step.log {
            steps.row([
                String::new(),
                String::new(),
                format!("  {line}"),
                String::new(),
            ]);
        }
    }
    text.push_str(&steps.to_string());
    if dropped > 0 {
        let mut table = Table::new(&["server", "not seen because"]);
        for dropped in &attempt.dropped {
            table.row([dropped.server.clone(), dropped.reason.to_string()]);
        }
        let _infallible = write!(text, "\n{table}");
    }
    if let Some(reason) = &attempt.failed {
        let _infallible = writeln!(text, "given up: {}", Escaped::new(reason, FIELD));
    }
    text
}

fn replay_text(replay: &Replay) -> String {
    let mut text = String::new();
    for attempt in &replay.attempts {
        let mut table = Table::new(&["script", "then", "now", ""]);
        for step in &attempt.steps {
            let did = |outcome: &Option<Outcome>| match outcome {
                Some(outcome) => outcome.to_string(),
                None => "was not reached".to_owned(),
            };
            let (was, is) = (did(&step.was), did(&step.is));
            table.row([step.script.clone(), was, is, same(step.same)]);
        }
        let (was, is) = (result(&attempt.was), result(&attempt.is));
        let alike = same(attempt.was == attempt.is);
        table.row(["result".to_owned(), was, is, alike]);
        let _infallible = writeln!(text, "{table}");
    }
    text.push_str(match replay.same {
        true => "All is as it was.\n",
        false => "It is not as it was.\n",
    });
    text
}

fn same(same: bool) -> String {
    if same { "same" } else { "DIFFERENT" }.to_owned()
}

/// In one line, whatever the file that it was read from says.
fn result(verdict: &Verdict) -> String {
    let text = match verdict {
        Verdict::Server {
            server,
            by,
            instead_of: None,
        } => format!("{server}, chosen by {by}"),
        Verdict::Server {
            server,
            by,
            instead_of: Some(failed),
        } => format!("{server}, chosen by {by} because {failed} failed"),
        Verdict::Error { log, .. } => format!("no server: {log}"),
    };
    Escaped::new(&text, FIELD).to_string()
}

fn took(microseconds: u64) -> String {
    format!("{}.{} ms", microseconds / 1000, microseconds % 1000 / 100)
}

fn moment(milliseconds: u64) -> String {
    let seconds = i64::try_from(milliseconds / 1000).unwrap_or(0);
    let moment = OffsetDateTime::from_unix_timestamp(seconds).ok();
    let moment = moment.and_then(|moment| moment.format(&Rfc3339).ok());
    moment.unwrap_or_default()
}
