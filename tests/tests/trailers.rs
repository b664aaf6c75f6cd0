//! Trailers (RFC 9110 §6.5) both ways, between real clients and a real server, over HTTP/1.1 and HTTP/2.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use sallyport_tests::service::wait_listening;
use sallyport_tests::{BOUND, Daemon, Gateway, Port, Raw, Relay, Site, peer_script, run_ok};
use serde_json::{Value, json};

/// Node's server behind two sessions: `one` of HTTP/1.1, `two` of HTTP/2.
struct Trailers {
    gateway: Gateway,
    _relay: Relay,
    _server: (Daemon, [Port; 2]),
    _site: Site,
}

fn trailers() -> Trailers {
    let site = Site::new();
    let ports = [Port::reserve(), Port::reserve()];
    let [one, two] = ports.each_ref().map(Port::number);
    let server = Daemon::start(
        Path::new("node"),
        &[
            peer_script("node/trailers.mjs").as_os_str(),
            "serve".as_ref(),
            one.to_string().as_ref(),
            two.to_string().as_ref(),
        ],
        &site.path().join("server.log"),
    );
    wait_listening(one);
    wait_listening(two);
    let gateway = site.gateway("gw");
    let session = |id: &str, protocol: &str, port: u16| {
        format!(
            "[[session]]\nid = \"{id}\"\nprotocol = \"{protocol}\"\ntarget = \"127.0.0.1:{port}\"\naccess = \"public\"\n"
        )
    };
    let sessions = session("one", "http", one) + &session("two", "h2c", two);
    let relay = site.relay("node-a", &gateway, &sessions);
    gateway.wait_session("one");
    gateway.wait_session("two");
    Trailers {
        gateway,
        _relay: relay,
        _server: (server, ports),
        _site: site,
    }
}

const SESSIONS: [&str; 2] = ["one", "two"];

#[test]
fn trailers_of_an_answer_reach_curl() {
    let trailers = trailers();
    for (session, version) in SESSIONS
        .map(|id| [(id, "--http1.1"), (id, "--http2")])
        .concat()
    {
        let answer = trailers
            .gateway
            .curl()
            .args(&[version, "-H", "TE: trailers", "--data", "hello"])
            .arg(trailers.gateway.session_url(session, "/"))
            .go()
            .expect(200);

        let (head, after) = answer.head.split_once("\r\n\r\n").expect("a whole head");
        let (head, after) = (head.to_lowercase(), after.to_lowercase());
        assert!(
            after.contains("x-length: 5"),
            "{session} {version}: {after}"
        );
        assert!(!head.contains("x-length: 5"), "{session} {version}: {head}");
        // What only the gateway may say is not taken from a trailer either.
        assert!(!after.contains("6.6.6.6"), "{session} {version}: {after}");
    }
}

#[test]
fn trailers_of_a_request_reach_the_session() {
    let trailers = trailers();
    for (session, version) in SESSIONS.map(|id| [(id, "1"), (id, "2")]).concat() {
        let mut node = Command::new("node");
        node.arg(peer_script("node/trailers.mjs"))
            .args(["talk", version])
            .arg(trailers.gateway.session_url(session, "/"))
            .arg(trailers.gateway.certificate());

        let said: Value = serde_json::from_str(&run_ok(&mut node)).expect("one JSON object");

        let expected = json!({
            "status": 200, "seen": { "x-check": "kept" }, "trailers": { "x-length": "10" },
        });
        assert_eq!(said, expected, "{session} over HTTP/{version}");
    }
}

#[test]
fn trailers_that_are_too_much_or_out_of_place_are_refused() {
    let trailers = trailers();
    let host = format!("127.0.0.1:{}", trailers.gateway.port());
    let many: String = (0..33).map(|n| format!("X-{n}: 1\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "a".repeat(8 << 10));
    for (fields, status) in [
        ("X-Check: kept\r\n", "200"),
        (&many, "431"),
        (&long, "431"),
        ("Content-Length: 5\r\n", "400"),
        ("Authorization: Basic eDp5\r\n", "400"),
        ("Host: evil.example\r\n", "400"),
    ] {
        let mut client = Raw::connect(
            trailers.gateway.address(Ipv4Addr::LOCALHOST.into()),
            "http/1.1",
        );
        let request = format!(
            "POST /s/one/ HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
             5\r\nhello\r\n0\r\n{fields}\r\n"
        );
        client.send(request.as_bytes());
        let (answer, closed) = client.read_to_close(BOUND);

        let answer = String::from_utf8_lossy(&answer);
        let status = format!("HTTP/1.1 {status} ");
        assert!(closed && answer.starts_with(&status), "{fields}: {answer}");
    }
}
