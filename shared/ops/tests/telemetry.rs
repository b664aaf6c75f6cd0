//! What really arrives on standard error: a child process logs, the test reads.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::process::{Command, Output};
use std::thread;

use sallyport_ops::telemetry::{self, Log, LogFormat};
use serde_json::Value;
use tracing::{debug, info};

const CHILD: &str = "SALLYPORT_TEST_LOGS";

#[test]
fn every_line_is_json_and_a_panic_is_one_of_them() {
    if std::env::var_os(CHILD).is_some() {
        return log_as_child();
    }
    let output = run_child("info");

    let lines = lines(&output);
    let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str()).collect();
    assert_eq!(
        messages,
        [Some("before"), Some("panic"), Some("louder"), Some("last")]
    );
    assert_eq!(lines[1]["panic"], "two\\nlines");
    assert!(
        lines[1]["location"]
            .as_str()
            .is_some_and(|place| place.contains("telemetry.rs"))
    );
}

#[test]
fn the_level_comes_from_the_environment() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let lines = lines(&run_child("debug"));
    assert_eq!(lines[0]["message"], "only at debug");

    let refused = run_child("loud");
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("`loud` is no log level"), "{text}");
}

fn log_as_child() {
    let log = Log {
        format: LogFormat::Json,
        ..Log::default()
    };
    let telemetry = match telemetry::init(log) {
        Ok(telemetry) => telemetry,
        Err(error) => panic!("{error}"),
    };
    debug!(target: "sallyport_test", "only at debug");
    info!(target: "sallyport_test", "before");
    let ended = thread::spawn(|| panic!("two\nlines")).join();
    assert!(ended.is_err());
    telemetry.set_level("debug").expect("a level");
    debug!(target: "sallyport_test", "louder");
    info!(target: "sallyport_test", "last");
    assert!(telemetry::init(log).is_err(), "only once");
}

fn run_child(level: &str) -> Output {
    Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "every_line_is_json_and_a_panic_is_one_of_them",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .env("LOGLEVEL", level)
        .output()
        .expect("the test runs itself")
}

fn lines(output: &Output) -> Vec<Value> {
    let text = str::from_utf8(&output.stderr).expect("UTF-8");
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    text.lines().map(parse).collect()
}
