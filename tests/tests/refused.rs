//! Who is not let in: each gets one generic answer, and the administrator a precise line.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use sallyport_tests::service::Nginx;
use sallyport_tests::stranger::now;
use sallyport_tests::{BOUND, Gateway, Site, Stranger};
use sallyport_wire::Code;
use serde_json::json;

/// One stranger, changed by `forge`, and the words that the gateway's log must then have.
fn refused(forge: impl FnOnce(&mut Stranger), code: Code, logged: &[&str]) {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let mut stranger = Stranger::connect(&gateway, "node-x");
    forge(&mut stranger);

    assert_eq!(stranger.hello(), Some(code));
    drop(gateway.wait_for_line(logged));
}

#[test]
fn good_credentials_are_let_in() {
    let site = Site::new();
    let gateway = site.gateway("gw");

    assert_eq!(Stranger::connect(&gateway, "node-x").hello(), None);
}

#[test]
fn a_wrong_secret() {
    refused(
        |stranger| stranger.secret = vec![7; 32],
        Code::Unauthorised,
        &["node-x", "signature"],
    );
}

#[test]
fn an_unknown_kid() {
    refused(
        |stranger| stranger.header["kid"] = json!("nobody"),
        Code::Unauthorised,
        &["node-x", "nobody"],
    );
}

#[test]
fn no_algorithm_and_another_one() {
    for alg in ["none", "HS512", "EdDSA"] {
        refused(
            |stranger| stranger.header["alg"] = json!(alg),
            Code::Unauthorised,
            &["node-x", alg],
        );
    }
}

#[test]
fn an_expired_token_of_a_known_key_hears_that_clocks_differ() {
    let old = |stranger: &mut Stranger| {
        stranger.claims["iat"] = json!(now() - 600);
        stranger.claims["exp"] = json!(now() - 540);
    };
    refused(old, Code::ClockSkew, &["node-x", "clock"]);
}

#[test]
fn a_token_for_another_gateway() {
    let other = |stranger: &mut Stranger| stranger.claims["aud"] = json!("https://other.example");
    refused(other, Code::Unauthorised, &["node-x", "other.example"]);
}

#[test]
fn a_token_that_was_used_is_refused_like_any_other() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let first = Stranger::connect(&gateway, "node-x");
    let (caught, id) = (first.token(), first.claims["jti"].clone());
    assert_eq!(first.hello(), None);

    // Caught and sent again: it is bound to the connection that it was made on.
    let thief = Stranger::connect(&gateway, "node-x");
    let elsewhere = thief.answer(caught.clone());
    // Made anew for this connection, with the id of the first: no id is taken twice.
    let mut replayed = Stranger::connect(&gateway, "node-x");
    replayed.claims["jti"] = id;
    let token = replayed.token();
    let again = replayed.answer(token.clone());
    // The same source fails often enough to be shut out, so no more than one to compare with.
    let mut guessing = Stranger::connect(&gateway, "node-x");
    guessing.secret = vec![7; 32];
    let guess = guessing.token();
    let guessed = guessing.answer(guess);

    let line = gateway.wait_for_line(&["relay refused", "node-x", "the token was used before"]);
    let kid = key_id(&gateway);
    assert!(
        line.contains("unauthorised") && line.contains(&kid),
        "{line}"
    );
    drop(gateway.wait_for_line(&["relay refused", "node-x", "another connection"]));
    assert_eq!(
        (&again, &elsewhere),
        (&guessed, &guessed),
        "told apart by a stranger"
    );
    let log = gateway.log();
    for token in [caught, token] {
        let signature = token.rsplit('.').next().unwrap_or_default();
        assert!(!log.contains(signature), "a token is in the log");
    }
}

/// The id of the gateway's first key.
fn key_id(gateway: &Gateway) -> String {
    let file = fs::read(gateway.path().join("gateway.json")).expect("init wrote it");
    let file: serde_json::Value = serde_json::from_slice(&file).expect("JSON");
    let kid = file
        .pointer("/keys/0/kid")
        .and_then(serde_json::Value::as_str);
    kid.expect("a key").to_owned()
}

#[test]
fn a_node_and_sessions_outside_the_scope() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let gateway = site.gateway("gw");
    let out = site.path().join("scoped.json");
    let added = gateway.command(&[
        "key",
        "add",
        "--nodes",
        "gpu-*",
        "--sessions",
        "note*",
        "--out",
        &out.display().to_string(),
    ]);
    assert!(added.status.success(), "{added:?}");
    let session = |id: &str| {
        let port = nginx.port.number();
        format!(
            "[[session]]\nid = \"{id}\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{port}\"\naccess = \"public\"\n"
        )
    };
    let with_key = |node: &str, sessions: &str| {
        let relay = site.relay_stopped(node, &[], sessions);
        fs::copy(&out, relay.path().join("gateways/gw.json")).expect("copied");
        relay.started()
    };

    // The relay does not even try; whoever does is told no by the gateway.
    let outside = with_key("cpu-1", &session("notebook"));
    drop(outside.wait_for_line(&["cpu-1", "for other nodes"]));
    drop(gateway.wait_for_line(&["keys taken"]));
    let forged = Stranger::connect_with(&gateway, &out, "cpu-1");
    assert_eq!(forged.hello(), Some(Code::OutOfScope));
    drop(gateway.wait_for_line(&["cpu-1", "scope"]));

    let inside = with_key("gpu-1", &(session("notebook") + &session("desk")));
    gateway.wait_session("notebook");
    drop(inside.wait_for_line(&["desk", "out_of_scope"]));
    assert!(!gateway.has_session("desk"));
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Sets the mode of a file, and says what a program must then say about it.
fn open_to(path: &Path, mode: u32) -> [String; 2] {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    let advice = format!("run `chmod 600 {}`", path.display());
    [format!("open to others (mode {mode:04o})"), advice]
}

#[test]
fn a_gateway_does_not_start_with_keys_that_others_can_read() {
    let site = Site::new();
    let mut gateway = site.gateway_init("gw", "127.0.0.1", &[]);
    let file = gateway.path().join("gateway.json");

    for mode in [0o644, 0o640, 0o604] {
        let words = open_to(&file, mode);
        let checked = gateway.command(&["check"]);
        gateway.start();
        let ended = gateway.daemon().wait();

        assert_eq!((checked.status.code(), ended.code()), (Some(78), Some(78)));
        for word in &words {
            assert!(said(&checked).contains(word), "{}", said(&checked));
            assert!(gateway.log().contains(word), "{}", gateway.log());
        }
    }
    let _closed_again = open_to(&file, 0o600);
    gateway.start();
    gateway.wait_ready();
}

#[test]
fn a_running_gateway_keeps_its_keys_when_others_can_read_their_file() {
    let site = Site::new();
    let mut gateway = site.gateway("gw");
    let [what, advice] = open_to(&gateway.path().join("gateway.json"), 0o644);

    gateway.daemon().signal(rustix::process::Signal::HUP);

    drop(gateway.wait_for_line(&["keys", "not taken", &what, &advice]));
    assert_eq!(Stranger::connect(&gateway, "node-x").hello(), None);
}

#[test]
fn a_relay_does_not_use_keys_that_others_can_read() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let session = "[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:9\"\naccess = \"public\"\n";
    let mut relay = site.relay_stopped("node-a", &[&gateway], session);
    let file = relay
        .path()
        .join(format!("gateways/{}.json", gateway.port()));
    let [what, advice] = open_to(&file, 0o644);

    let checked = relay.command(&["check"]);
    assert_eq!(checked.status.code(), Some(78));
    for word in [&what, &advice] {
        assert!(said(&checked).contains(word), "{}", said(&checked));
    }
    relay.start();
    assert_eq!(relay.daemon().wait().code(), Some(78));
    for word in [&what, &advice] {
        assert!(relay.log().contains(word), "{}", relay.log());
    }
    assert!(!gateway.log().contains("node-a"), "it dialled");
    let _closed = open_to(&file, 0o600);
    relay.start();
    gateway.wait_session("web");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_likely_meant_one() {
    let site = Site::new();
    let gateway = site.gateway_init("gw", "127.0.0.1", &[]);
    gateway.extend("sesions_domain = \"x.example\"\n");
    let checked = gateway.command(&["check"]);
    assert_eq!(checked.status.code(), Some(78), "{}", said(&checked));
    for part in [
        "gateway.toml",
        "sesions_domain",
        "sessions_domain",
        "line 1",
    ] {
        assert!(
            said(&checked).contains(part),
            "no {part} in {}",
            said(&checked)
        );
    }

    let relay = site.relay_stopped(
        "node-a",
        &[],
        "\n[[session]]\nid = \"x\"\nprotocl = \"http\"\ntarget = \"127.0.0.1:1\"\n",
    );
    let checked = relay.command(&["check"]);
    assert_eq!(checked.status.code(), Some(78), "{}", said(&checked));
    for part in ["relay.toml", "protocl", "protocol"] {
        assert!(
            said(&checked).contains(part),
            "no {part} in {}",
            said(&checked)
        );
    }
}

#[test]
fn garbage_gets_no_answer_and_harms_nobody() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let garbage: Vec<u8> = (0..4_096_u32)
        .map(|n| u8::try_from(n * 31 % 256).unwrap_or(0))
        .collect();

    for bytes in [
        &garbage[..],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"SSH-2.0-x\r\n",
        &[0x16, 3, 1, 0xff, 0xff, 1],
    ] {
        let mut client =
            TcpStream::connect((Ipv4Addr::LOCALHOST, gateway.port())).expect("listens");
        client
            .set_read_timeout(Some(BOUND))
            .expect("a socket option");
        // The gateway may close before all of it is taken.
        let _closed = client.write_all(bytes);
        let mut answer = Vec::new();
        let _reset = client.read_to_end(&mut answer);
        assert!(answer.len() <= 7, "at most a TLS alert, got {answer:?}");
    }
    drop(
        gateway
            .curl()
            .arg(format!("{}/", gateway.url()))
            .go()
            .expect(200),
    );
}

#[test]
fn no_secret_in_any_log() {
    let site = Site::new();
    let gateway: Gateway = site.gateway("gw");
    let stranger = Stranger::connect(&gateway, "node-x");
    let (token, secret) = (stranger.token(), stranger.secret.clone());
    assert_eq!(stranger.hello(), None);
    let relay = site.relay("node-a", &gateway, "");
    drop(gateway.wait_for_line(&["node-a"]));

    let file = fs::read_to_string(gateway.path().join("gateway.json")).expect("there");
    let written: serde_json::Value = serde_json::from_str(&file).expect("JSON");
    let text = written
        .pointer("/keys/0/secret")
        .and_then(serde_json::Value::as_str)
        .expect("a secret");
    for log in [gateway.log(), relay.log()] {
        assert!(!log.contains(text) && !log.contains(&token));
        assert!(!log.contains(&format!("{secret:?}")));
    }
}
