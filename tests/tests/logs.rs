//! The log of a running process as its administrator reads it, and the details that are logged while they are asked for.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use sallyport_tests::{
    Daemon, Gateway, Program, Relay, Site, eventually, eventually_some, program, run_ok,
};
use serde_json::{Value, json};

/// Nothing listens there: each stream is let in, and its session not reached.
const WEB: &str = "[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:9\"\naccess = \"public\"\n";

fn said(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

fn shown(program: &Program, args: &[&str]) -> String {
    let output = program.command(args);
    assert_eq!(said(&output), (Some(0), String::new()), "{args:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Lines of JSON, each of which says what every line says. One that is still being written is left out.
fn parsed(lines: &str) -> Vec<Value> {
    let parse = |line: &str| -> Value {
        let parsed: Value = serde_json::from_str(line).expect("JSON");
        for member in ["time", "level", "target", "message"] {
            assert!(parsed[member].is_string(), "{line}");
        }
        parsed
    };
    let whole = lines.rfind('\n').map_or("", |end| &lines[..end]);
    whole.lines().map(parse).collect()
}

fn messages(lines: &str) -> Vec<String> {
    let message = |line: Value| line["message"].as_str().expect("text").to_owned();
    parsed(lines).into_iter().map(message).collect()
}

fn wait_up(program: &Program) {
    eventually("it answers", || program.status().is_some());
}

/// `logs` that goes on, its output in a file.
fn follow(relay: &Relay, args: &[&str]) -> Daemon {
    let config = relay.config().to_str().expect("UTF-8");
    let args = [&["logs", "--follow", "--config", config], args].concat();
    Daemon::start(
        &program("sallyport-relay"),
        &args,
        &relay.path().join("followed"),
    )
}

/// A gateway and a relay that log no more than they would anywhere else.
fn pair(site: &Site, config: &str) -> (Gateway, Relay) {
    let mut gateway = site.gateway_init("gw", "127.0.0.1", &[]);
    gateway.start_quietly();
    gateway.wait_ready();
    let mut relay = site.relay_stopped("node-a", &[&gateway], &format!("{config}{WEB}"));
    relay.start_quietly();
    gateway.wait_session("web");
    (gateway, relay)
}

/// Clients ask for the session so often.
fn asked(gateway: &Gateway, times: usize) {
    let url = gateway.session_url("web", &format!("/?n=[1-{times}]"));
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "120"])
        .args(["--noproxy", "*", "--output", "/dev/null", "--cacert"])
        .arg(gateway.certificate())
        .arg(url);
    run_ok(&mut curl);
}

#[test]
fn both_programs_show_what_they_logged_wherever_that_went() {
    let site = Site::new();
    let mut gateway = site.gateway_init("gw", "127.0.0.1", &[]);
    gateway.start_quietly();
    gateway.wait_ready();
    let mut relay = site.relay_stopped(
        "node-a",
        &[&gateway],
        &format!("[log]\nformat = \"text\"\n{WEB}"),
    );
    relay.start_prepared(|command| {
        command.env("LOGLEVEL", "info").stderr(Stdio::null());
    });
    gateway.wait_session("web");
    assert_eq!(relay.log(), "", "it has nowhere to write to");

    for (program, started) in [
        (&*gateway as &Program, "gateway started"),
        (&*relay, "relay started"),
    ] {
        let text = shown(program, &["logs"]);
        let line = text.lines().find(|line| line.contains(started));
        assert!(
            line.is_some_and(|line| line.contains(" INFO  sallyport_")),
            "{text}"
        );
        let lines = parsed(&shown(program, &["logs", "--json"]));
        assert!(lines.iter().any(|line| line["message"] == started));
        assert!(
            lines.iter().all(|line| line["level"] != "DEBUG"),
            "LOGLEVEL=info"
        );
    }
}

#[test]
fn loglevel_holds_for_both_programs() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let relay = site.relay("node-a", &gateway, WEB);
    gateway.wait_session("web");
    asked(&gateway, 1);

    for program in [&*gateway as &Program, &*relay] {
        eventually("details are logged", || {
            let lines = parsed(&shown(program, &["logs", "--json"]));
            lines.iter().any(|line| line["level"] == "DEBUG")
        });
    }
}

fn count(lines: &str, message: &str) -> usize {
    let is_it = |found: &String| found == message;
    messages(lines).into_iter().filter(is_it).count()
}

#[test]
fn details_of_streams_are_logged_while_they_are_asked_for() {
    const OPENED: &str = "stream opened";
    const FAILED: &str = "session not reached";
    let site = Site::new();
    let (gateway, relay) = pair(&site, "");
    let follower = follow(&relay, &["--json"]);
    asked(&gateway, 1);
    eventually("the stream is told", || count(&follower.log(), FAILED) > 0);
    assert_eq!(
        count(&follower.log(), OPENED),
        0,
        "no details are wanted yet"
    );

    let states: Value = serde_json::from_str(&shown(
        &relay,
        &["debug", "on", "external", "--for", "10m", "--json"],
    ))
    .expect("JSON");
    assert_eq!(
        (&states[1]["category"], &states[1]["on"]),
        (&json!("external"), &json!(true))
    );
    assert!(
        states[1]["until"].is_string() && states[0]["on"] == false,
        "{states}"
    );
    asked(&gateway, 1);
    eventually("details are told", || count(&follower.log(), OPENED) > 0);
    let lines = parsed(&follower.log());
    let opened = lines
        .iter()
        .find(|line| line["message"] == OPENED)
        .expect("found");
    assert_eq!(
        (&opened["level"], &opened["session"], &opened["client"]),
        (&json!("DEBUG"), &json!("web"), &json!("127.0.0.1"))
    );
    // it is in the other log, too
    drop(relay.wait_for_line(&["DEBUG", OPENED]));

    let text = shown(&relay, &["debug", "off", "all"]);
    assert!(!text.contains(" on "), "{text}");
    let (opened, failed) = (
        count(&follower.log(), OPENED),
        count(&follower.log(), FAILED),
    );
    asked(&gateway, 1);
    eventually("the stream is told", || {
        count(&follower.log(), FAILED) > failed
    });
    assert_eq!(count(&follower.log(), OPENED), opened);
}

#[test]
fn details_of_a_gateway_are_logged_while_they_are_asked_for() {
    let site = Site::new();
    let (gateway, _relay) = pair(&site, "");
    let details = || {
        let lines = parsed(&shown(
            &gateway,
            &["logs", "--category", "external", "--json"],
        ));
        lines.iter().filter(|line| line["level"] == "DEBUG").count()
    };
    asked(&gateway, 1);
    assert_eq!(details(), 0, "no details are wanted yet");

    let text = shown(&gateway, &["debug", "on", "external"]);
    assert!(text.contains(" on "), "{text}");
    asked(&gateway, 1);
    eventually("details are told", || details() > 0);
    let text = shown(&gateway, &["debug", "off", "external"]);
    assert!(text.contains(" off "), "{text}");
    let (ended, said) = said(&gateway.command(&["debug", "on", "database"]));
    assert_eq!(ended, Some(64), "{said}");
    assert!(said.contains("there are external"), "{said}");
}

#[test]
fn details_of_dialling_name_each_step() {
    let site = Site::new();
    let (mut gateway, relay) = pair(&site, "tunnels = 1\n");
    shown(&relay, &["debug", "on", "external"]);
    assert!(gateway.daemon().terminate().success());
    gateway.start_quietly();

    eventually("it dials again", || {
        let lines = parsed(&shown(
            &relay,
            &["logs", "--category", "external", "--json"],
        ));
        let of = |message: &str| lines.iter().find(|line| line["message"] == message);
        let said = [
            "dialling",
            "connected",
            "saying hello",
            "welcomed",
            "telling the sessions",
        ];
        said.iter().all(|message| {
            of(message).is_some_and(|line| {
                line["gateway"]
                    .as_str()
                    .is_some_and(|url| url == gateway.url())
            })
        })
    });
    assert!(
        !shown(&relay, &["logs", "--json"]).contains("eyJ"),
        "a token"
    );
}

#[test]
fn details_end_with_the_relay() {
    let site = Site::new();
    let (_gateway, mut relay) = pair(&site, "");
    let on = |relay: &Relay| shown(relay, &["debug"]).matches(" on ").count();
    shown(&relay, &["debug", "on", "cluster"]);
    shown(&relay, &["debug", "on", "database"]);
    assert_eq!(on(&relay), 2);

    let mut follower = follow(&relay, &[]);
    eventually("it reads", || follower.log().contains("relay started"));
    assert!(relay.daemon().terminate().success());
    assert_eq!(follower.wait().code(), Some(1));
    assert!(
        follower.log().contains("sallyport-relay has ended"),
        "{}",
        follower.log()
    );
    relay.start_quietly();
    wait_up(&relay);
    assert_eq!(on(&relay), 0);
}

#[test]
fn a_category_shows_its_own_lines() {
    let site = Site::new();
    let (_gateway, relay) = pair(&site, "");

    let all = shown(&relay, &["logs", "--json"]);
    let external = shown(&relay, &["logs", "--category", "external", "--json"]);

    assert!(
        count(&all, "relay started") == 1 && count(&all, "tunnel up") > 0,
        "{all}"
    );
    assert!(count(&external, "relay started") == 0 && count(&external, "tunnel up") > 0);
    let database = shown(&relay, &["logs", "--category", "database", "--json"]);
    assert!(count(&database, "relay started") == 0 && count(&database, "tunnel up") == 0);
}

#[test]
fn what_there_is_not_is_refused_with_what_there_is() {
    let site = Site::new();
    let (_gateway, relay) = pair(&site, "[log]\ndebug_most = \"1h\"\n");
    for args in [
        &["logs", "--category", "exotic"][..],
        &["debug", "on", "exotic"],
        &["debug", "off", "exotic"],
    ] {
        let (ended, said) = said(&relay.command(args));
        assert_eq!(ended, Some(64), "{said}");
        assert!(
            said.contains("there are cluster, external, database"),
            "{said}"
        );
    }
    let too_long = relay.command(&["debug", "on", "external", "--for", "2h"]);
    let (ended, said) = said(&too_long);
    assert!(
        ended == Some(1) && said.contains("3600 s (debug_most"),
        "{said}"
    );
}

#[test]
fn a_follower_that_goes_leaves_its_place() {
    let site = Site::new();
    let (_gateway, relay) = pair(&site, "[log]\nreaders = 1\n");
    let mut follower = follow(&relay, &[]);
    eventually("it reads", || follower.log().contains("relay started"));
    let (ended, said) = said(&relay.command(&["logs"]));
    assert!(
        ended == Some(1) && said.contains("1 read the log already"),
        "{said}"
    );
    assert!(relay.status().is_some(), "other commands are answered");

    follower.signal(Signal::INT);
    assert!(!follower.wait().success());
    eventually("there is room again", || {
        relay.command(&["logs"]).status.success()
    });
}

#[test]
fn a_reader_that_stands_still_holds_up_nobody_and_is_told_what_it_missed() {
    let site = Site::new();
    let (gateway, relay) = pair(&site, "[log]\nkeep_lines = 100\n");
    let follower = follow(&relay, &["--json"]);
    eventually("it reads", || follower.log().contains("relay started"));
    follower.signal(Signal::STOP);

    shown(&relay, &["debug", "on", "external"]);
    asked(&gateway, 500);
    shown(&relay, &["debug", "off", "external"]);
    follower.signal(Signal::CONT);

    let last = "details are logged no more, by command";
    let (seen, lost) = eventually_some("it reads on", || up_to(last, &follower.log()));
    assert!(lost > 0, "nothing was missed");
    let (logged, _) = eventually_some("all is written", || up_to(last, &relay.log()));
    assert_eq!(seen + lost, logged, "{lost} are missing");
}

/// How many lines were logged up to this one, and how many were missed before it.
fn up_to(last: &str, lines: &str) -> Option<(u64, u64)> {
    let lines = parsed(lines);
    let end = lines.iter().position(|line| line["message"] == last)?;
    let lost = lines[..=end]
        .iter()
        .filter_map(|line| line["lost"].as_u64());
    let told = u64::try_from(lost.clone().count()).expect("few");
    Some((u64::try_from(end).expect("few") + 1 - told, lost.sum()))
}
