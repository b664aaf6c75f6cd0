//! Metrics of a node: administrators' functions and programs in the real relay, those that fail and those that do harm
//! beside those that work.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sallyport_tests::{Relay, Site, eventually, eventually_some};
use serde_json::{Value, json};

const WEB: &str = "[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:9\"\n";

/// A relay that dials nobody, with this folder of metrics.
fn relay(site: &Site, config: &str, files: &[(&str, &str)]) -> Relay {
    let relay = site.relay_stopped("node-a", &[], &format!("{WEB}[metrics]\n{config}\n"));
    fs::create_dir(folder(&relay)).expect("writable");
    for (name, text) in files {
        put(&relay, name, text);
    }
    let relay = relay.started();
    eventually("the relay answers", || relay.status().is_some());
    relay
}

fn folder(relay: &Relay) -> std::path::PathBuf {
    relay.path().join("metrics")
}

fn put(relay: &Relay, name: &str, text: &str) {
    let mode = if name.ends_with(".js") { 0o644 } else { 0o755 };
    // as a whole: a program that is still being written cannot be run
    let draft = relay.path().join("draft");
    fs::write(&draft, text).expect("writable");
    fs::set_permissions(&draft, fs::Permissions::from_mode(mode)).expect("ours");
    fs::rename(draft, folder(relay).join(name)).expect("writable");
}

fn listed(relay: &Relay, command: &str) -> Vec<Value> {
    let output = relay.command(&[command, "--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("an array")
}

fn metric(relay: &Relay, name: &str) -> Option<Value> {
    let metrics = listed(relay, "metrics");
    metrics.into_iter().find(|metric| metric["name"] == name)
}

/// Values as load-balancing scripts see them.
fn values(relay: &Relay) -> Value {
    let servers = listed(relay, "servers");
    servers.first().expect("this node")["metrics"].clone()
}

fn error_of(relay: &Relay, name: &str, part: &str) -> Value {
    eventually_some(&format!("{name}: {part}"), || {
        let metric = metric(relay, name)?;
        let error = metric["error"].as_str()?;
        error.contains(part).then_some(metric)
    })
}

/// Files of the folder.
const ALL: [(&str, &str); 9] = [
    (
        "relays.js",
        "function(input) { return processes().filter(p => p.command.includes(input.serverId)).length }",
    ),
    (
        "licences.js",
        "function(input) {\n  var out = run(['/bin/echo', 'Total of 7 licences in use']).stdout;\n  return Number(out.match(/Total of (\\d+)/)[1]);\n}\n",
    ),
    (
        "refused.js",
        "() => run(['/bin/cat', '/etc/passwd']).stdout",
    ),
    (
        "throws.js",
        "() => { throw new Error('no licence server') }",
    ),
    ("loops.js", "() => { for (;;); }"),
    ("disk", "#!/bin/sh\necho '{\"free\": 12,\n \"used\": 30}'\n"),
    ("rubbish", "#!/bin/sh\necho all is well\n"),
    ("slow", "#!/bin/sh\nexec sleep 1000\n"),
    (
        "note",
        "#!/bin/sh\ngrep -q '\"serverId\":\"node-a\"' && echo true\n",
    ),
];

/// What those of [`ALL`] that fail say.
const FAILING: [(&str, &str); 5] = [
    (
        "refused",
        "`refused` threw: [\"/bin/cat\", \"/etc/passwd\"] is not among",
    ),
    ("throws", "`throws` threw: no licence server"),
    ("rubbish", "`rubbish` returned something that is not JSON"),
    ("loops", "`loops` had to be stopped 3 times within 60 s"),
    ("slow", "`slow` timed out: it ran for more than 5000 ms"),
];

#[test]
fn functions_and_programs_are_evaluated_and_each_failure_is_told() {
    let site = Site::new();
    let relay = relay(
        &site,
        "run = [[\"/bin/echo\", \"*\"]]\nevery = \"500ms\"",
        &ALL,
    );
    put(&relay, "README.js~", "an editor's copy");

    let well = json!({ "licences": 7, "disk": { "free": 12, "used": 30 }, "note": true });
    let all = eventually_some("all have their values", || {
        let mut all = values(&relay);
        let relays = all.as_object_mut()?.remove("relays")?;
        (all == well).then_some(relays)
    });
    assert!(all.as_u64().is_some_and(|count| count >= 1), "{all}");
    for (name, part) in FAILING {
        let failing = error_of(&relay, name, part);
        assert!(
            failing["stale"] == true && failing["failingSince"].is_string(),
            "{failing}"
        );
    }
    let disk = metric(&relay, "disk").expect("listed");
    assert_eq!(
        (&disk["kind"], &disk["error"]),
        (&json!("executable"), &Value::Null)
    );
    assert!(
        disk["when"].is_string() && disk["tookMs"].is_u64(),
        "{disk}"
    );
    assert_eq!(
        metric(&relay, "licences").expect("listed")["kind"],
        "function"
    );
    assert_eq!(values(&relay)["licences"], 7, "the others go on");

    let table = String::from_utf8(relay.command(&["metrics"]).stdout).expect("text");
    assert!(
        table.starts_with("METRIC") && table.contains("no licence server"),
        "{table}"
    );
    let status = String::from_utf8(relay.command(&["status"]).stdout).expect("text");
    assert!(
        status.contains("metrics that fail: loops, refused, rubbish"),
        "{status}"
    );
    let log = relay.log();
    let open = log
        .lines()
        .find(|line| line.contains("close script workers in"));
    // a kernel may lack a part of their box; what shuts them in must not keep another part from doing so
    assert!(
        open.is_none_or(|line| !line.contains("os error")),
        "{open:?}"
    );
}

#[test]
fn a_folder_is_followed_without_a_restart() {
    let site = Site::new();
    let relay = relay(
        &site,
        "every = \"500ms\"",
        &[("a.js", "() => 1"), ("b", "#!/bin/sh\necho 1\n")],
    );
    eventually("both have values", || {
        values(&relay) == json!({ "a": 1, "b": 1 })
    });

    put(&relay, "a.js", "() => 2");
    put(&relay, "b", "#!/bin/sh\necho 2\n");
    put(&relay, "c.js", "() => { console.log(1); return [3] }");
    eventually("all are new", || {
        values(&relay) == json!({ "a": 2, "b": 2, "c": [3] })
    });

    fs::remove_file(folder(&relay).join("a.js")).expect("there");
    put(&relay, "c.js", "() => {");
    eventually("one is gone, one is broken", || {
        values(&relay) == json!({ "b": 2 })
    });
    error_of(&relay, "c", "not a function");
    fs::remove_dir_all(folder(&relay)).expect("ours");
    eventually("nothing is left", || listed(&relay, "metrics").is_empty());
}

#[test]
fn files_that_others_can_change_are_not_run() {
    let site = Site::new();
    let relay = relay(
        &site,
        "",
        &[("good.js", "() => 1"), ("open", "#!/bin/sh\necho 1\n")],
    );
    eventually("they are run", || {
        values(&relay) == json!({ "good": 1, "open": 1 })
    });

    let open = folder(&relay).join("open");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("ours");

    error_of(&relay, "open", "chmod go-w");
    assert_eq!(values(&relay), json!({ "good": 1 }));
    let checked = relay.command(&["check"]);
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(
        checked.status.success() && said.contains("metric open:"),
        "{said}"
    );
}

#[test]
fn no_program_outlives_a_relay_that_is_killed() {
    let site = Site::new();
    let noted = site.path().join("noted");
    // the shell becomes the program
    let script = format!("#!/bin/sh\necho $$ >{}\nexec sleep 1000\n", noted.display());
    let mut relay = relay(
        &site,
        "program = \"60s\"",
        &[("long", &script), ("a.js", "() => 1")],
    );
    let pid = eventually_some("it runs", || {
        let pid = fs::read_to_string(&noted).ok()?;
        pid.ends_with('\n').then(|| pid.trim().to_owned())
    });
    eventually("the function was called", || {
        values(&relay) == json!({ "a": 1 })
    });
    let relay_id = relay.daemon().id();
    let workers = children(relay_id, "script-worker");
    assert!(!workers.is_empty());

    relay.daemon().kill();

    for pid in workers.iter().chain([&pid]) {
        eventually("it is gone with its relay", || is_gone(pid));
    }
}

fn is_gone(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    !stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// The children of a process whose command line ends with a word.
fn children(of: u32, word: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("proc").filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_child = |pid: &String| -> Option<bool> {
        let process = Path::new("/proc").join(pid);
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        let command = fs::read_to_string(process.join("cmdline")).ok()?;
        let (_name, rest) = stat.rsplit_once(") ")?;
        let parent: u32 = rest.split(' ').nth(1)?.parse().ok()?;
        Some(parent == of && command.trim_end_matches('\0').ends_with(word))
    };
    pids.filter(|pid| is_child(pid).unwrap_or(false)).collect()
}
