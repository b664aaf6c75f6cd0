//! Scripts that choose servers, by the commands that an administrator types: edited, chained, tried, explained, repeated
//! and taken back, on a node alone and on nodes that share a broker.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use sallyport_tests::broker::NatsVersion;
use sallyport_tests::cluster::Cluster;
use sallyport_tests::{Relay, Site, eventually};
use serde_json::{Value, json};

fn up(relay: Relay) -> Relay {
    let relay = relay.started();
    eventually("the relay answers", || relay.status().is_some());
    relay
}

fn run(relay: &Relay, args: &[&str]) -> Output {
    relay.command(&[&["scripts"], args].concat())
}

fn told(relay: &Relay, args: &[&str]) -> String {
    let output = run(relay, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn json(relay: &Relay, args: &[&str]) -> Value {
    let text = told(relay, &[args, &["--json"]].concat());
    serde_json::from_str(&text).expect("JSON")
}

/// The code and the words with which something is refused.
fn refused(relay: &Relay, args: &[&str]) -> (Option<i32>, String) {
    let output = run(relay, args);
    assert!(!output.status.success(), "{args:?}: {output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

fn file(site: &Site, name: &str, text: &str) -> PathBuf {
    let path = site.path().join(name);
    fs::write(&path, text).expect("writable");
    path
}

fn edit(site: &Site, relay: &Relay, name: &str, source: &str) -> Value {
    let path = file(site, "draft.js", source);
    json(
        relay,
        &["edit", name, "--file", path.to_str().expect("text")],
    )
}

fn dry_run(relay: &Relay) -> Value {
    json(relay, &["dry-run", "--action", "session/start"])
}

/// The last verdict of a trace.
fn verdict(trace: &Value) -> Value {
    let attempts = trace["attempts"].as_array().expect("a list");
    attempts.last().expect("an attempt")["verdict"].clone()
}

fn chosen(server: &str, by: &str) -> Value {
    json!({ "server": { "server": server, "by": by } })
}

#[test]
fn scripts_are_edited_chained_tried_and_taken_back() {
    let site = Site::new();
    let relay = up(site.relay_stopped("n1", &[], ""));

    let list = told(&relay, &["list"]);
    assert!(
        list.contains("User's Logged In Server") && list.contains("login 3, start 3"),
        "{list}"
    );
    assert!(told(&relay, &["chain", "login"]).contains("2. find-logged-in"));
    assert!(told(&relay, &["show", "get-gpu"]).contains("function (input)"));
    let trace = dry_run(&relay);
    assert_eq!(verdict(&trace), chosen("n1", "fewest-sessions"));

    let first = "function(input) { console.log('one of ' + input.servers.length); return input.local.serverId }";
    let changed = json!([{ "kind": "scripts", "name": "ours", "change": "added" }]);
    assert_eq!(edit(&site, &relay, "ours", first), changed);
    told(&relay, &["chain", "start", "user-selection", "ours"]);
    assert_eq!(
        told(&relay, &["chain", "start"]),
        "1. user-selection\n2. ours\n"
    );
    eventually("the new chain decides", || {
        verdict(&dry_run(&relay)) == chosen("n1", "ours")
    });
    edit(
        &site,
        &relay,
        "ours",
        "() => { throw new Error('All servers are in use') }",
    );
    let said = json!({ "error": { "user": "All servers are in use", "log": "`ours` threw: All servers are in use" } });
    eventually("the new text decides", || verdict(&dry_run(&relay)) == said);

    told(&relay, &["rollback", "ours"]);
    assert_eq!(told(&relay, &["show", "ours"]), format!("{first}\n"));
    told(&relay, &["rollback", "ours", "--to", "3"]);
    assert!(told(&relay, &["show", "ours"]).contains("in use"));
    told(&relay, &["rollback", "ours", "--to", "1"]);
    eventually("the first text decides", || {
        verdict(&dry_run(&relay)) == chosen("n1", "ours")
    });
    let id = dry_run(&relay)["id"].as_str().expect("an id").to_owned();
    let text = told(&relay, &["trace", &id]);
    assert!(
        text.contains("chose n1") && text.contains("  one of 1"),
        "{text}"
    );

    told(&relay, &["chain", "start", "--default"]);
    told(&relay, &["remove", "ours"]);
    assert!(!told(&relay, &["list"]).contains("ours"));
    eventually("the usual chain decides", || {
        verdict(&dry_run(&relay)) == chosen("n1", "fewest-sessions")
    });
}

/// Commands, how they end, and words of what they say. `LONG` is a file that is too long.
const REFUSED: [(&str, i32, &str); 14] = [
    ("show theirs", 1, "there is no script `theirs`"),
    (
        "remove get-gpu",
        1,
        "`get-gpu` is predefined and stays as it is",
    ),
    (
        "edit get-gpu --executable /bin/true",
        1,
        "under another name",
    ),
    (
        "remove ours",
        1,
        "chains/start: `scripts`: there is no script `ours`",
    ),
    ("remove theirs", 1, "there is no theirs among the scripts"),
    ("chain login ours theirs", 1, "there is no script `theirs`"),
    (
        "edit ours --file LONG",
        1,
        "it is no text of 1 to 65536 bytes",
    ),
    ("edit ours --executable choose", 1, "it is no absolute path"),
    ("edit ours", 64, "--file"),
    (
        "rollback ours",
        1,
        "had no other text in the epochs that are kept (2, 1)",
    ),
    ("rollback ours --to 9", 1, "epoch 9 is not kept"),
    ("trace 0123456789", 1, "no placement `0123456789` is kept"),
    ("replay 0123456789", 1, "no placement `0123456789` is kept"),
    (
        "dry-run --action lunch",
        64,
        "write user/login or session/start",
    ),
];

#[test]
fn what_cannot_be_is_refused_with_the_fix() {
    let site = Site::new();
    let relay = up(site.relay_stopped("n1", &[], ""));
    edit(&site, &relay, "ours", "() => 0");
    told(&relay, &["chain", "start", "ours"]);
    let text = file(&site, "long.js", &"x".repeat((64 << 10) + 1));
    let text = text.to_str().expect("text");
    for (command, code, words) in REFUSED {
        let args: Vec<_> = command
            .split(' ')
            .map(|word| if word == "LONG" { text } else { word })
            .collect();
        let (got, said) = refused(&relay, &args);
        assert!(
            said.contains(words) && got == Some(code),
            "{args:?}: {got:?}: {said}"
        );
    }
    let request = file(&site, "request.json", "{\"user\": {}, \"colour\": 1}");
    let request = request.to_str().expect("text");
    let (_, said) = refused(
        &relay,
        &["dry-run", "--action", "user/login", "--file", request],
    );
    assert!(said.contains("colour"), "{said}");
}

#[test]
fn a_placement_is_explained_and_repeated_also_elsewhere() {
    let site = Site::new();
    let relay = up(site.relay_stopped("n1", &[], "[static_data]\ngpu = true\n"));
    edit(
        &site,
        &relay,
        "lot",
        "input => { console.log(Math.random(), Date.now()) }",
    );
    told(
        &relay,
        &["chain", "login", "lot", "needs-gpu", "random-server"],
    );
    let request = json!({ "user": { "login": "ada" }, "data": { "gpu": true } });
    let request = file(&site, "request.json", &request.to_string());
    let request = request.to_str().expect("text");
    let ask = || {
        json(
            &relay,
            &["dry-run", "--action", "user/login", "--file", request],
        )
    };
    eventually("the new chain decides", || {
        verdict(&ask()) == chosen("n1", "random-server")
    });
    let trace = ask();
    let id = trace["id"].as_str().expect("an id");
    let steps = &trace["attempts"][0]["steps"];
    let outcomes: Vec<_> = steps
        .as_array()
        .expect("a list")
        .iter()
        .map(|step| step["outcome"].clone())
        .collect();
    assert_eq!(
        outcomes,
        [
            json!("pass"),
            json!({ "servers": ["n1"] }),
            json!({ "server": "n1" })
        ]
    );
    let listed = json(&relay, &["trace"]);
    assert_eq!(
        (&listed[0]["id"], &listed[0]["user"]),
        (&json!(id), &json!("ada"))
    );
    assert_eq!(json(&relay, &["trace", id]), trace);
    eventually("the log has it", || {
        let logs = relay.command(&["logs"]).stdout;
        String::from_utf8_lossy(&logs)
            .lines()
            .any(|line| line.contains(id) && line.contains("a server was chosen"))
    });

    assert_eq!(json(&relay, &["replay", id])["same"], true);
    is_repeated_elsewhere(&site, &trace);
}

/// By a node that was not there, on which no relay runs.
fn is_repeated_elsewhere(site: &Site, trace: &Value) {
    let stranger = site.relay_stopped("n2", &[], "");
    let kept = file(site, "trace.json", &trace.to_string());
    let replay = ["replay", "--file", kept.to_str().expect("text")];
    assert!(told(&stranger, &replay).contains("All is as it was."));
    let mut other = trace.clone();
    other["attempts"][0]["moment"]["seed"] = json!(1);
    let other = file(site, "other.json", &other.to_string());
    let replay = ["replay", "--file", other.to_str().expect("text")];
    let output = run(&stranger, &replay);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.code() == Some(1) && said.contains("DIFFERENT"),
        "{said}"
    );
    draws_on_no_terminal(site, &stranger, trace);
}

/// Whatever a file from elsewhere says.
fn draws_on_no_terminal(site: &Site, stranger: &Relay, trace: &Value) {
    const DRAWN: &str = "\u{1b}[2J\u{9b}1m\u{202e}\r";
    let mut drawn = trace.clone();
    let attempt = &mut drawn["attempts"][0];
    attempt["verdict"]["server"]["server"] = json!(DRAWN);
    attempt["steps"][0]["script"] = json!(DRAWN);
    attempt["steps"][0]["outcome"] = json!({ "failed": DRAWN });
    drawn["chain"][0]["name"] = json!(DRAWN);
    let mut broken = drawn.clone();
    broken["request"]["action"] = json!(DRAWN);
    for (what, shown) in [(&drawn, "[2J"), (&broken, "unknown variant")] {
        let path = file(site, "drawn.json", &what.to_string());
        let replay = ["replay", "--file", path.to_str().expect("text")];
        for args in [&replay[..], &[&replay[..], &["--json"]].concat()] {
            let output = run(stranger, args);
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8(said).expect("text");
            assert!(said.contains(shown), "{said}");
            let draws = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!said.contains(draws), "{said:?}");
        }
    }
}

#[test]
fn nodes_that_share_a_broker_are_chosen_by_one_chain() {
    let site = Site::new();
    let cluster = Cluster::single(site.path());
    let _server = cluster.serve(0, NatsVersion::Debian);
    let configs = [
        ("n1", "[static_data]\nload = 3\n"),
        ("n2", "[static_data]\nload = 1\n"),
        (
            "n3",
            "[static_data]\nload = 2\n[cluster]\nobserve = false\n",
        ),
    ];
    let [one, two, three] = configs.map(|(node, config)| {
        let relay = site.relay_stopped(node, &[], config);
        cluster.copy_to(&relay);
        up(relay)
    });
    let least = "input => input.servers.sort((a, b) => a.load - b.load)[0].serverId";
    eventually("there is a store", || {
        let path = file(&site, "least.js", least);
        run(
            &three,
            &["edit", "least", "--file", path.to_str().expect("text")],
        )
        .status
        .success()
    });
    told(&three, &["chain", "start", "least"]);
    eventually("n1 sees all and chooses n2", || {
        let trace = dry_run(&one);
        trace["attempts"][0]["servers"]
            .as_array()
            .is_some_and(|all| all.len() == 3)
            && verdict(&trace) == chosen("n2", "least")
    });
    assert!(
        two.command(&["set", "start-enabled", "off"])
            .status
            .success()
    );
    eventually("n2 takes none", || {
        let trace = dry_run(&one);
        let dropped = json!([{ "server": "n2", "why": "startOff" }]);
        trace["attempts"][0]["dropped"] == dropped && verdict(&trace) == chosen("n3", "least")
    });
    let (_, said) = refused(&three, &["dry-run", "--action", "session/start"]);
    assert!(said.contains("does not hear the other nodes"), "{said}");
}
