//! Administrators' functions in workers of the real binary: what the guides describe, what hostile ones can do, and how
//! closed the workers are.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use sallyport_ops::Tasks;
use sallyport_scripts::{Moment, Script, ScriptError, Scripts, Server, Settings};
use serde_json::{Value, json};

mod closed;
mod guides;
mod hostile;
mod metrics;
mod taken_over;
mod turns;

/// Far above anything that is waited for here.
const LONG: Duration = Duration::from_secs(60);

/// Settings with the real binary.
fn settings() -> Settings {
    Settings {
        program: env!("CARGO_BIN_EXE_sallyport-relay").into(),
        ..Settings::default()
    }
}

fn scripts() -> Scripts {
    Scripts::start(settings(), &Tasks::new())
}

/// What `function` returns, called with `input`.
async fn call(scripts: &Scripts, function: &str, input: &Value) -> Result<Value, ScriptError> {
    let script = Script::new("script", function);
    let called = scripts.call(&script, input, Moment { now: 0, seed: 1 }, None);
    let called = tokio::time::timeout(LONG, called).await;
    Ok(called.expect("in time")?.value)
}

fn server(object: &Value) -> Arc<Server> {
    let id = object.get("serverId").and_then(Value::as_str);
    Arc::new(Server::new(id.unwrap_or_default(), object))
}

/// The worker processes of this test.
fn workers() -> Vec<u32> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").expect("proc");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| is_worker_of(*pid, own).unwrap_or(false))
        .collect()
}

fn is_worker_of(pid: u32, own: u32) -> Option<bool> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_name, rest) = stat.rsplit_once(") ")?;
    let parent = rest.split(' ').nth(1)?.parse::<u32>().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(parent == own && command.ends_with(b"script-worker\0"))
}

/// Until there are so many workers.
async fn until_there_are(count: usize) {
    let there = async {
        while workers().len() != count {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(LONG, there).await;
    assert!(
        waited.is_ok(),
        "{} workers instead of {count}",
        workers().len()
    );
}

#[tokio::test]
async fn a_function_gets_its_input_and_returns_a_value() {
    let scripts = scripts();
    let input = json!({ "list": [1, 2] });
    let doubled = call(&scripts, "input => input.list.map(x => 2 * x)", &input).await;
    assert_eq!(doubled, Ok(json!([2, 4])));
}
