//! What is local to a node: switches, static data and its drain, by the commands that an administrator types, and how
//! the node describes itself.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use sallyport_tests::{Relay, Site, eventually, eventually_some, program};
use serde_json::{Value, json};

const WEB: &str = "[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:9\"\n";

fn said(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

fn json(relay: &Relay, args: &[&str]) -> Value {
    let output = relay.command(&[args, &["--json"]].concat());
    assert_eq!(said(&output), (Some(0), String::new()), "{args:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn refused(relay: &Relay, args: &[&str]) -> String {
    let (ended, said) = said(&relay.command(args));
    assert!(ended != Some(0), "{args:?}");
    said
}

/// A relay that dials nobody and answers to commands.
fn alone(site: &Site, config: &str) -> Relay {
    let relay = site.relay_stopped("node-a", &[], config).started();
    wait_up(&relay);
    relay
}

fn wait_up(relay: &Relay) {
    eventually("the relay answers", || relay.status().is_some());
}

fn server(relay: &Relay) -> Value {
    let servers = json(relay, &["servers"]);
    servers
        .as_array()
        .expect("an array")
        .first()
        .expect("this node")
        .clone()
}

#[test]
fn a_node_describes_its_machine() {
    let site = Site::new();
    let relay = alone(
        &site,
        &format!("site = \"north\"\ngroups = [\"big\"]\n{WEB}[static_data]\ngpu = true\n"),
    );

    let server = server(&relay);

    assert_eq!(
        (&server["serverId"], &server["site"]),
        (&json!("node-a"), &json!("north"))
    );
    assert_eq!(
        (&server["groups"], &server["sessions"]),
        (&json!(["big"]), &json!(1))
    );
    assert_eq!(server["staticData"], json!({ "gpu": true }));
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").expect("Linux");
    let processors = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    assert_eq!(server["ncpu"], processors);
    for name in ["totalmem", "freemem", "memAvailable", "uptime"] {
        assert!(
            server[name].as_u64().is_some_and(|figure| figure > 0),
            "{name}: {server:#}"
        );
    }
    let first = server["lastUpdate"].as_i64();
    let table = relay.command(&["servers"]).stdout;
    let table = String::from_utf8(table).expect("text");
    assert!(
        table.starts_with("SERVER") && table.contains("node-a"),
        "{table}"
    );
    assert!(self::server(&relay)["lastUpdate"].as_i64() >= first);
}

#[test]
fn what_is_switched_stays_over_a_restart() {
    let site = Site::new();
    let mut relay = alone(&site, WEB);
    for args in [
        ["login-enabled", "off"],
        ["reservable", "on"],
        ["start-hours", "sat-sun, 20:00-06:00"],
    ] {
        json(&relay, &["set", args[0], args[1]]);
    }

    assert!(relay.daemon().terminate().success());
    relay.start();
    wait_up(&relay);

    let settings = json(&relay, &["set"]);
    assert_eq!(settings["loginEnabled"], false);
    assert_eq!(
        (&settings["startEnabled"], &settings["reservable"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(settings["startHours"], "sat-sun, 20:00-06:00");
    assert_eq!(
        (
            &server(&relay)["loginEnabled"],
            &server(&relay)["reservable"]
        ),
        (&json!(false), &json!(true))
    );
    let text = String::from_utf8(relay.command(&["status"]).stdout).expect("text");
    assert!(
        text.contains("logins off, starts on, reservable on"),
        "{text}"
    );
}

#[test]
fn settings_show_a_drain_and_that_they_are_local() {
    let site = Site::new();
    let relay = alone(&site, WEB);
    assert_eq!(json(&relay, &["set"])["draining"], false);

    json(&relay, &["drain", "node-a", "--deadline", "1h"]);

    let settings = json(&relay, &["set"]);
    assert_eq!(settings["draining"], true);
    let deadline = settings["drain"]["deadline"].as_str().expect("a time");
    assert!(
        deadline.contains('T') && deadline.ends_with('Z'),
        "{deadline}"
    );
    let text = String::from_utf8(relay.command(&["set"]).stdout).expect("text");
    assert!(text.contains(&format!("on, until {deadline}")), "{text}");
    assert!(text.contains("of this node alone"), "{text}");
    drop(relay.wait_for_line(&["the node drains", deadline]));
}

#[test]
fn starts_close_outside_their_hours() {
    let site = Site::new();
    let relay = alone(&site, WEB);
    // neither of two halves of the day is both
    json(&relay, &["set", "start-hours", "00:00-12:00"]);
    let morning = server(&relay);
    json(&relay, &["set", "start-hours", "12:00-24:00"]);
    let evening = server(&relay);

    let open = [&morning, &evening].map(|server| server["startEnabled"] == true);
    let why = [&morning, &evening].map(|server| server["startClosed"].as_str().map(str::to_owned));

    assert!(open[0] != open[1], "{why:?}");
    let closed = why[usize::from(open[0])].as_deref().expect("the reason");
    assert!(closed.starts_with("outside the start hours"), "{closed}");
}

#[test]
fn a_mistake_changes_nothing_and_says_what_to_write() {
    let site = Site::new();
    let relay = alone(&site, WEB);
    let before = json(&relay, &["set"]);
    for (args, part) in [
        (&["set", "login-enabled", "maybe"][..], "neither on nor off"),
        (&["set", "start-hours", "noon"], "mon-fri 20:00-06:00"),
        (&["set", "login-enabld", "on"], "login-enabled"),
        (&["set", "reservable"], "<VALUE>"),
        (&["static-data", "unset", "absent"], "has no `absent`"),
        (&["static-data", "set", "", "1"], "cannot be a key"),
        (&["drain", "node-b"], "this is node node-a"),
        (&["drain", "node-a", "--deadline", "soon"], "30m"),
        (&["drain", "node-a", "--deadline", "9999h"], "8784 hours"),
    ] {
        let said = refused(&relay, args);
        assert!(said.contains(part), "{args:?}: {said}");
    }
    assert_eq!(json(&relay, &["set"]), before);
}

#[test]
fn static_data_is_edited_by_command_by_editor_and_by_hand() {
    let site = Site::new();
    let mut relay = alone(&site, &format!("{WEB}[static_data]\ngroup = \"render\"\n"));
    let data = |relay: &Relay| json(relay, &["static-data"]);
    assert_eq!(data(&relay), json!({ "group": "render" }));

    json(&relay, &["static-data", "set", "gpu", "true"]);
    json(&relay, &["static-data", "set", "note", "not JSON"]);
    json(&relay, &["static-data", "set", "offset", "-3"]);
    json(&relay, &["static-data", "unset", "group"]);
    assert_eq!(
        data(&relay),
        json!({ "gpu": true, "note": "not JSON", "offset": -3 })
    );

    let edited = edit(&relay, "sed -i s/true/false/");
    assert_eq!(said(&edited), (Some(0), String::new()));
    assert_eq!(data(&relay)["gpu"], false);

    let file = relay.path().join("state/static-data.json");
    fs::write(&file, "{\"users\": [\"ann\"]}").expect("writable");
    eventually("the file is followed", || {
        data(&relay) == json!({ "users": ["ann"] })
    });
    fs::write(&file, "{").expect("writable");
    eventually("the fault is told", || {
        let text = relay.command(&["status"]).stdout;
        String::from_utf8_lossy(&text).contains("static-data.json")
    });
    assert_eq!(
        data(&relay),
        json!({ "users": ["ann"] }),
        "what it said last stays"
    );

    json(&relay, &["static-data", "reset"]);
    assert!(relay.daemon().terminate().success());
    relay.start();
    wait_up(&relay);
    assert_eq!(server(&relay)["staticData"], json!({ "group": "render" }));
}

#[test]
fn what_an_editor_left_unusable_is_kept() {
    let site = Site::new();
    let relay = alone(&site, WEB);

    let (ended, said) = said(&edit(&relay, "sh -c 'echo oops > $0'"));

    assert_eq!(ended, Some(1), "{said}");
    let kept = said.trim().rsplit(' ').next().expect("a path");
    assert_eq!(fs::read_to_string(kept).expect("it is there"), "oops\n");
    fs::remove_file(kept).expect("ours");
    assert_eq!(json(&relay, &["static-data"]), json!({}));
    let (ended, said) = self::said(&edit(&relay, "false"));
    assert!(
        ended == Some(1) && said.contains("nothing was changed"),
        "{said}"
    );
}

fn edit(relay: &Relay, editor: &str) -> Output {
    let mut command = Command::new(program("sallyport-relay"));
    command
        .args(["static-data", "edit", "--config"])
        .arg(relay.config());
    command.env("EDITOR", editor).env_remove("VISUAL");
    command.output().expect("it is built")
}

#[test]
fn gpus_are_those_that_nvidia_smi_tells_of_until_it_hangs() {
    let site = Site::new();
    let bin = site.path().join("bin");
    fs::create_dir(&bin).expect("writable");
    let tool = bin.join("nvidia-smi");
    let hang = site.path().join("hang");
    let script = format!(
        "#!/bin/sh\n[ -e {} ] && exec sleep 1000\necho '0, GPU-1, 81559, 1024, 37, NVIDIA H100'\n",
        hang.display()
    );
    fs::write(&tool, script).expect("writable");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).expect("its owner");
    let path = std::env::var("PATH").expect("a path");
    let path = format!("{}:{path}", bin.display());
    let mut relay = site.relay_stopped(
        "node-a",
        &[],
        &format!("[limits]\ngpu_every = \"1s\"\ngpu_query = \"1s\"\n{WEB}"),
    );
    relay.start_prepared(|command| {
        command.env("PATH", &path);
    });
    wait_up(&relay);

    let gpu = eventually_some("the GPU is seen", || server(&relay)["gpus"].get(0).cloned());
    assert_eq!(
        (&gpu["name"], &gpu["utilization"]),
        (&json!("NVIDIA H100"), &json!(37.0))
    );
    assert_eq!(gpu["memoryTotal"], 81_559_u64 << 20);

    fs::write(&hang, "").expect("writable");
    drop(relay.wait_for_line(&["WARN", "nvidia-smi gives no answer"]));
    eventually("no GPU is offered", || server(&relay)["gpus"] == json!([]));
    fs::remove_file(&hang).expect("there");
    eventually("it is asked again", || server(&relay)["gpus"] != json!([]));
}
