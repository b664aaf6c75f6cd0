//! The commands of both programs: what they say, where, and with which exit code.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::process::{Command, Output};

use rustix::process::geteuid;
use sallyport_tests::{Gateway, Site, program};

const WEB: &str = "[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:9\"\n";

fn told(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

#[test]
fn both_programs_name_the_same_exit_codes() {
    let help = |name: &str| {
        let mut command = Command::new(program(name));
        let output = command.arg("--help").output().expect("it is built");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (_, codes) = text.split_once("Exit codes:").expect("they are named");
        codes.to_owned()
    };
    let codes = help("sallyport-gateway");
    assert!(codes.contains("64") && codes.contains("78"), "{codes}");
    assert_eq!(codes, help("sallyport-relay"));
    for name in ["sallyport-gateway", "sallyport-relay"] {
        let output = Command::new(program(name)).arg("no-such-command").output();
        assert_eq!(output.expect("it is built").status.code(), Some(64));
    }
}

#[test]
fn the_log_is_a_table_in_both_files() {
    let site = Site::new();
    let gateway = site.gateway_init("gw", "127.0.0.1", &[]);
    let text = fs::read_to_string(gateway.config()).expect("init wrote it");
    for (log, code) in [("[log]\nformat = \"text\"\n", 0), ("log = \"text\"\n", 78)] {
        let relay = site.relay_stopped("node-a", &[&gateway], log);
        let (head, tail) = if code == 0 {
            (&*text, log)
        } else {
            (log, &*text)
        };
        fs::write(gateway.config(), format!("{head}\n{tail}")).expect("writable");

        for output in [relay.command(&["check"]), gateway.command(&["check"])] {
            let (ended, said) = told(&output);
            assert_eq!(ended, Some(code), "{said}");
            assert_eq!(
                said.contains("`log`: a table is expected"),
                code != 0,
                "{said}"
            );
        }
    }
}

#[test]
fn a_relay_that_dials_nobody_yet_is_told_so() {
    let site = Site::new();
    let relay = site.relay_stopped("node-a", &[], WEB);
    let config = fs::read_to_string(relay.config()).expect("written");
    for (from, to, why) in [
        ("\"gateways\"", "\"gateways\"", "no .json file in it"),
        (
            "\"gateways\"",
            "\"gateway.json\"",
            "gateway.json: not there",
        ),
        (
            "gateway_file = \"gateways\"",
            "",
            "no gateway_file is configured",
        ),
    ] {
        fs::write(relay.config(), config.replace(from, to)).expect("writable");
        let (ended, said) = told(&relay.command(&["check"]));
        assert_eq!(ended, Some(0), "{said}");
        assert!(said.contains("warning: ") && said.contains(why), "{said}");
    }

    let mut relay = relay;
    relay.start();
    drop(relay.wait_for_line(&["WARN", "no gateway_file is configured"]));
}

/// A gateway that becomes `nobody`, and that account's uid as `check` says it.
fn of_nobody(site: &Site, more: &str) -> (Gateway, u32) {
    let gateway = site.gateway_init("gw", "127.0.0.1", &[]);
    gateway.extend(&format!("user = \"nobody\"\n{more}"));
    let (ended, said) = told(&gateway.command(&["check"]));
    assert_eq!(ended, Some(78), "root keeps its files to itself: {said}");
    let owner = said
        .split("chown ")
        .nth(1)
        .and_then(|fix| fix.split(' ').next());
    let uid = owner.and_then(|uid| uid.parse().ok());
    (gateway, uid.unwrap_or_default())
}

/// Gives the gateway's folder and secrets away.
fn hand_over(gateway: &Gateway, to: u32) {
    for name in ["", "key.pem", "gateway.json"] {
        let done = chown(gateway.path().join(name), Some(to), None);
        assert!(done.is_ok(), "{done:?}");
    }
}

#[test]
fn root_checks_the_files_for_the_account_that_will_read_them() {
    if !geteuid().is_root() {
        return; // it would not become another account
    }
    let site = Site::new();
    let (gateway, nobody) = of_nobody(&site, "");
    hand_over(&gateway, nobody);

    let checked = gateway.command(&["check"]);

    assert_eq!(told(&checked), (Some(0), String::new()));
    assert!(String::from_utf8_lossy(&checked.stdout).contains("nobody"));
}

#[test]
fn a_file_that_the_account_may_not_read_is_named_with_the_cure() {
    if !geteuid().is_root() {
        return; // it would not become another account
    }
    let site = Site::new();
    let (gateway, nobody) = of_nobody(&site, "");
    fs::set_permissions(site.path(), fs::Permissions::from_mode(0o711)).expect("its owner");

    let (ended, said) = told(&gateway.command(&["run"]));

    assert_eq!(ended, Some(78), "{said}");
    assert!(said.contains(&format!("chown {nobody} ")), "{said}");
}

#[test]
fn an_account_need_not_be_able_to_make_its_directories() {
    if !geteuid().is_root() {
        return; // it would not become another account
    }
    let site = Site::new();
    let state = site.path().join("var/state");
    let state_dir = format!("state_dir = \"{}\"", state.display());
    let (mut gateway, nobody) = of_nobody(&site, &state_dir);
    hand_over(&gateway, nobody);
    fs::set_permissions(site.path(), fs::Permissions::from_mode(0o711)).expect("its owner");

    gateway.start();
    gateway.wait_ready();

    assert_eq!(fs::metadata(&state).expect("made").uid(), nobody);
}

#[test]
fn why_a_gateway_does_not_start_is_said_once() {
    let site = Site::new();
    let gateway = site.gateway_init("gw", "127.0.0.1", &[]);
    let port = std::net::TcpListener::bind(("::", gateway.port())).expect("it is reserved");

    let (ended, said) = told(&gateway.command(&["run"]));

    assert_eq!(ended, Some(1), "{said}");
    assert_eq!(said.matches("Address already in use").count(), 1, "{said}");
    drop(port);
}

#[test]
fn cluster_keys_are_made_listed_and_revoked() {
    let site = Site::new();
    let relay = site.relay_stopped("node-a", &[], WEB);
    let keys = relay.path().join("cluster-keys.json");
    let run = |args: &[&str]| {
        let output = relay.command(&[&["cluster-key"], args].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said, told(&output).1)
    };

    let (code, said, _) = run(&["add"]);
    assert!(code == Some(0) && said.contains("every node"), "{said}");
    let (code, said, _) = run(&["add", "--expires", "90d", "--json"]);
    assert_eq!(code, Some(0));
    let second: serde_json::Value = serde_json::from_str(&said).expect("one object");
    let kid = second["kid"].as_str().expect("an id");
    let mode = fs::metadata(&keys).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let (_, said, _) = run(&["list"]);
    assert!(said.contains(kid) && said.contains("never"), "{said}");
    assert_eq!(run(&["revoke", kid]).0, Some(0));
    let (_, said, _) = run(&["list", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&said).expect("one array");
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{said}");
    let (code, _, fault) = run(&["revoke", kid]);
    assert!(code == Some(1) && fault.contains("there are: k"), "{fault}");

    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).expect("its owner");
    let (code, said) = told(&relay.command(&["check"]));
    assert!(
        code == Some(78) && said.contains("cluster-keys.json"),
        "{said}"
    );
}
