//! Metrics on the real workers: values, failures, and those that take their time.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use sallyport_ops::{Bounds, Guard, Programs, Tasks};
use sallyport_scripts::{
    Commands, Executable, Fault, Host, Metric, Metrics, Reading, Script, metrics,
};
use serde_json::{Value, json};

use crate::{LONG, settings};

fn metrics_allowing(allowed: &[&[&str]]) -> Metrics {
    let words = |entry: &&[&str]| entry.iter().map(|word| (*word).to_owned()).collect();
    let allowed = allowed.iter().map(words).collect();
    let guard = Guard {
        program: env!("CARGO_BIN_EXE_sallyport-relay").into(),
        ..Guard::ourselves()
    };
    let programs = Programs::guarded(8, guard.clone());
    let commands = Commands::new(allowed, programs, Bounds::default()).expect("allowable");
    let host = Arc::new(Host::new(commands));
    Metrics::new(settings(), host, guard, Tasks::new())
}

fn function(name: &str, source: &str) -> Metric {
    Metric::Function(Script::new(name, source))
}

fn shell(name: &str, script: &str) -> Metric {
    Metric::Executable(Executable {
        name: name.to_owned(),
        program: "/bin/sh".into(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        bounds: Bounds {
            time: LONG,
            ..Bounds::default()
        },
    })
}

/// Updates until the metric `name` is as `right` wants it.
async fn until(
    metrics: &Metrics,
    name: &str,
    mut right: impl FnMut(&Reading) -> bool,
) -> Vec<Reading> {
    let become_right = async {
        loop {
            let readings = metrics.update(&json!({ "serverId": "n1" })).await;
            if right(reading(&readings, name)) {
                return readings;
            }
        }
    };
    let waited = tokio::time::timeout(LONG, become_right).await;
    assert!(waited.is_ok(), "{name}: {:?}", metrics.readings());
    waited.expect("in time")
}

fn reading<'a>(readings: &'a [Reading], name: &str) -> &'a Reading {
    let found = readings.iter().find(|reading| reading.name == name);
    found.expect("listed")
}

fn value(reading: &Reading) -> Option<&Value> {
    reading.value.as_ref().map(|(value, _at)| value)
}

#[tokio::test]
async fn functions_and_executables_count_licences_and_processes() {
    let metrics = metrics_allowing(&[&["/bin/echo", "*"]]);
    metrics
        .set(vec![
            function("licences", "function() {
                var out = run(['/bin/echo', 'Users of cad: (Total of 20 licenses issued; Total of 7 in use)']);
                return Number(out.stdout.match(/Total of (\\d+) in use/)[1]);
            }"),
            function("tests", "function() { return processes().filter(p => p.rss > 1000000 && p.threads > 0).length > 0 }"),
            function("me", "input => input.serverId"),
            shell("disk", "read input; echo '{\"free\": 12}'"),
        ])
        .expect("a list");
    for name in ["licences", "tests", "me", "disk"] {
        until(&metrics, name, |reading| reading.value.is_some()).await;
    }
    let expected = json!({ "licences": 7, "tests": true, "me": "n1", "disk": { "free": 12 } });
    assert_eq!(
        Value::Object(metrics::values(&metrics.readings())),
        expected
    );
    assert!(
        metrics
            .readings()
            .iter()
            .all(|reading| reading.failing.is_none())
    );
}

#[tokio::test]
async fn a_failing_metric_keeps_its_last_value_and_says_since_when() {
    let folder = tempfile::tempdir().expect("a folder");
    let flag = folder.path().join("fail");
    let metrics = metrics_allowing(&[]);
    let fails_later = format!(
        "test -e {} && {{ echo gone >&2; exit 1; }}; echo 5",
        flag.display()
    );
    metrics
        .set(vec![
            shell("later", &fails_later),
            function("never", "function() { throw new Error('no server') }"),
            function(
                "refused",
                "function() { return run(['/bin/sh', '-c', 'id']).stdout }",
            ),
            function("well", "() => 1"),
        ])
        .expect("a list");
    until(&metrics, "later", |reading| {
        value(reading) == Some(&json!(5))
    })
    .await;
    fs::write(&flag, "").expect("written");
    let begun = SystemTime::now();
    let readings = until(&metrics, "later", |reading| reading.failing.is_some()).await;
    let later = reading(&readings, "later");
    assert!(later.stale && value(later) == Some(&json!(5)), "{later:?}");
    let (error, since) = later.failing.clone().expect("failing");
    assert_eq!(error.to_string(), "`later` failed: exit status: 1: gone");
    assert!(since >= begun);
    let again = until(&metrics, "later", |reading| reading.failing.is_some()).await;
    assert_eq!(
        reading(&again, "later").failing,
        Some((error, since)),
        "since the first time"
    );

    for (name, said) in [
        ("never", "`never` threw: no server"),
        (
            "refused",
            "`refused` threw: [\"/bin/sh\", \"-c\", \"id\"] is not among the commands that metrics may run",
        ),
    ] {
        let readings = until(&metrics, name, |reading| reading.failing.is_some()).await;
        let (error, _since) = reading(&readings, name).failing.clone().expect("failing");
        assert_eq!(error.to_string(), said);
        assert_eq!(reading(&readings, name).value, None);
    }
    until(&metrics, "well", |reading| !reading.stale).await;
    fs::remove_file(&flag).expect("removed");
    let readings = until(&metrics, "later", |reading| reading.failing.is_none()).await;
    assert!(!reading(&readings, "later").stale);
}

#[tokio::test]
async fn a_slow_metric_holds_up_neither_the_update_nor_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let gate = folder.path().join("gate");
    mkfifo(&gate);
    let metrics = metrics_allowing(&[]);
    // opening a fifo waits for the other end
    let slow = shell("slow", &format!("cat {}", gate.display()));
    metrics
        .set(vec![slow, function("quick", "() => 1")])
        .expect("a list");
    for _update in 0..3 {
        let readings = until(&metrics, "quick", |reading| !reading.stale).await;
        let slow = reading(&readings, "slow");
        assert!(
            slow.stale && slow.value.is_none() && slow.failing.is_none(),
            "{slow:?}"
        );
    }
    let write = tokio::task::spawn_blocking(move || fs::write(gate, "8"));
    until(&metrics, "slow", |reading| {
        value(reading) == Some(&json!(8))
    })
    .await;
    write.await.expect("no panic").expect("written");
}

#[tokio::test]
async fn a_list_is_taken_whole_and_known_values_stay() {
    let metrics = metrics_allowing(&[]);
    metrics.set(vec![function("a", "() => 1")]).expect("a list");
    until(&metrics, "a", |reading| !reading.stale).await;
    let twice = vec![function("b", "() => 1"), function("b", "() => 2")];
    assert_eq!(
        metrics.set(twice),
        Err(metrics::MetricsError::Twice("b".to_owned()))
    );
    let names = (0..65)
        .map(|n| function(&n.to_string(), "() => 1"))
        .collect();
    assert_eq!(metrics.set(names), Err(metrics::MetricsError::TooMany(65)));
    metrics
        .set(vec![function("b", "() => 2"), function("a", "() => 1")])
        .expect("a list");
    let readings = metrics.readings();
    assert_eq!(value(reading(&readings, "a")), Some(&json!(1)));
    assert_eq!(reading(&readings, "b").value, None);
}

#[tokio::test]
async fn values_are_bounded_each_and_together() {
    let metrics = metrics_allowing(&[]);
    // a text of so many bytes, quotes included
    let text = |bytes: usize| format!("printf '\"%0{}d\"' 0", bytes - 2);
    let most = metrics::MOST_VALUE;
    let fits = metrics::MOST_VALUES / most;
    let full: Vec<_> = (0..fits)
        .map(|n| shell(&format!("full{n}"), &text(most)))
        .collect();
    let too_long = [
        shell("long", &text(most + 1)),
        function("wide", "() => 'x'.repeat(4095)"),
    ];
    metrics
        .set([full.clone(), too_long.to_vec()].concat())
        .expect("a list");
    for name in ["long", "wide"] {
        let readings = until(&metrics, name, |reading| reading.failing.is_some()).await;
        let (error, _since) = reading(&readings, name).failing.clone().expect("failing");
        assert!(
            matches!(error.fault, Fault::TooLarge { limit: 4096, .. }),
            "{error}"
        );
    }
    for n in 0..fits {
        let name = format!("full{n}");
        until(&metrics, &name, |reading| reading.value.is_some()).await;
    }

    metrics
        .set([full, vec![function("more", "() => 1")]].concat())
        .expect("a list");
    let readings = until(&metrics, "more", |reading| reading.failing.is_some()).await;
    let (error, _since) = reading(&readings, "more").failing.clone().expect("failing");
    assert_eq!(
        error.to_string(),
        "`more` exceeds a limit: the values of all metrics together may have 65536 bytes"
    );
    assert_eq!(metrics::values(&readings).len(), fits);
}

#[tokio::test]
async fn a_command_that_is_too_long_is_called_so() {
    let metrics = metrics_allowing(&[&["/bin/echo", "*"]]);
    let long = "() => run(['/bin/echo', 'x'.repeat(1e6)])";
    metrics.set(vec![function("long", long)]).expect("a list");
    let readings = until(&metrics, "long", |reading| reading.failing.is_some()).await;
    let (error, _since) = reading(&readings, "long").failing.clone().expect("failing");
    assert!(error.to_string().contains("a command may have"), "{error}");
}

fn mkfifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.expect("mkfifo").success());
}
