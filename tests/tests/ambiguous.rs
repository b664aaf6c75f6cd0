//! Requests that two parsers could read in two ways: refused, and not one byte reaches the session.

use std::net::Ipv4Addr;

use sallyport_tests::frames::{self, END_HEADERS, END_STREAM};
use sallyport_tests::{BOUND, Gateway, Raw, Recorder, Relay, Site, eventually};

struct Watched {
    gateway: Gateway,
    recorder: Recorder,
    _relay: Relay,
    _site: Site,
}

fn watched() -> Watched {
    let site = Site::new();
    let recorder = Recorder::start();
    let gateway = site.gateway("gw");
    let relay = site.relay(
        "node-a",
        &gateway,
        &format!("[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{}\"\naccess = \"public\"\n", recorder.port()),
    );
    gateway.wait_session("web");
    Watched {
        gateway,
        recorder,
        _relay: relay,
        _site: site,
    }
}

impl Watched {
    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.gateway.port())
    }

    fn connect(&self, alpn: &str) -> Raw {
        Raw::connect(self.gateway.address(Ipv4Addr::LOCALHOST.into()), alpn)
    }

    /// A refusal has a line of its own, which its answer points to.
    fn assert_logged(&self, client: &Raw, answer: &str) {
        let id = answer
            .lines()
            .find_map(|line| line.strip_prefix("x-request-id: "))
            .unwrap_or_default();
        assert!(!id.is_empty(), "no id in {answer:?}");
        let status = answer.split(' ').nth(1).unwrap_or("none");
        let address = client.local();
        let line = self
            .gateway
            .wait_for_line(&["sallyport::access", id, &address]);
        assert!(line.contains(status) && line.contains("cause"), "{line}");
        assert!(status != "421" || line.contains("evil.example"), "{line}");
    }

    /// The recorder works: a good request arrives, and is the only thing that ever did.
    fn assert_only_the_canary_arrives(&self) {
        drop(
            self.gateway
                .curl()
                .arg(self.gateway.session_url("web", "/canary"))
                .go()
                .expect(200),
        );
        let seen = self.recorder.seen();
        assert!(seen.starts_with("GET /canary HTTP/1.1\r\n"), "{seen}");
        assert_eq!(seen.matches(" HTTP/1.1\r\n").count(), 1, "{seen}");
    }
}

/// Request lines and header lines after a good `GET /s/web/x` with a good Host, `@` standing for the host.
const HEADS: &[&str] = &[
    // Framing.
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nContent-Length: 4, 4\r\n\r\nabcd",
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nContent-Length: +4\r\n\r\nabcd",
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nContent-Length: -1\r\n\r\n",
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nContent-Length: 0x4\r\n\r\nabcd",
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "POST /s/web/x HTTP/1.0\r\nHost: @\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    // Lines.
    "GET /s/web/x HTTP/1.1\nHost: @\n\n",
    "GET /s/web/x HTTP/1.1\r\nHost: @\nX: y\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: @\r\nX: a\r\n b\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: @\r\n X: a\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: @\r\nX: a\0b\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: @\r\nX: a\rb\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: @\r\nX Y: a\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: @\r\n: a\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: @\r\nX_Forwarded_For: 1.2.3.4\r\n\r\n",
    "GET /s/web/x\r\n\r\n",
    "GET /s/web/x HTTP/1.2\r\nHost: @\r\n\r\n",
    "GET /s/web/x HTTP/2.0\r\nHost: @\r\n\r\n",
    "GET  /s/web/x HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET /s/web/x y HTTP/1.1\r\nHost: @\r\n\r\n",
    // Host and target.
    "GET /s/web/x HTTP/1.1\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: @\r\nHost: @\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: @\r\nHost: evil.example\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost:\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: a/b@c\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: user@@\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "GET https://evil.example/s/web/x HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET https://user@@/s/web/x HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET //evil.example/s/web/x HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET /s/web/../web/x HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET /s/other/../web/x HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET /s%2fweb/x HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET /s/web%2f..%2fx HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET /s/web%5cx HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET /s/%77eb/x HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET /s//web/x HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET /s/./web/x HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET /s\\web/x HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET /s/web/%00 HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET /s/web/x#y HTTP/1.1\r\nHost: @\r\n\r\n",
    "GET s/web/x HTTP/1.1\r\nHost: @\r\n\r\n",
    // Methods and upgrades.
    "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: @\r\n\r\n",
    "TRACE /s/web/x HTTP/1.1\r\nHost: @\r\n\r\n",
    "FROB /s/web/x HTTP/1.1\r\nHost: @\r\n\r\n",
    "get /s/web/x HTTP/1.1\r\nHost: @\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: @\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: @\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "POST /s/web/x HTTP/1.1\r\nHost: @\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 0\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: @\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 12\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "GET /s/web/x HTTP/1.1\r\nHost: @\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n",
];

const REFUSALS: [&str; 7] = ["400", "404", "405", "421", "426", "501", "505"];

#[test]
fn ambiguous_http1_is_refused() {
    let watched = watched();

    for head in HEADS {
        let bytes = head.replace('@', &watched.host());
        let mut client = watched.connect("http/1.1");
        client.send(bytes.as_bytes());
        let answer = client.read_until(b"\r\n\r\n", BOUND);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).unwrap_or("none");
        assert!(REFUSALS.contains(&status), "{head:?} got {answer:?}");
        // After a doubt about framing nothing more is read; a wrong name or path leaves no doubt.
        if !["404", "421"].contains(&status) {
            let (_, closed) = client.read_to_close(BOUND);
            assert!(closed, "left open after {head:?}: {answer}");
        }
        watched.assert_logged(&client, &answer);
    }
    watched.assert_only_the_canary_arrives();
}

#[test]
fn too_much_is_refused() {
    let watched = watched();
    let host = watched.host();
    let long = "a".repeat(9_000);
    let cases = [
        (
            format!("GET /s/web/{long} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            "414",
        ),
        (
            format!("GET /s/web/x HTTP/1.1\r\nHost: {host}\r\nX: {long}{long}\r\n\r\n"),
            "431",
        ),
        (
            format!(
                "GET /s/web/x HTTP/1.1\r\nHost: {host}\r\n{}\r\n",
                "X: y\r\n".repeat(101)
            ),
            "431",
        ),
        (
            format!(
                "GET /s/web/x HTTP/1.1\r\nHost: {host}\r\n{}\r\n",
                format!("X: {long}\r\n").repeat(4)
            ),
            "431",
        ),
    ];

    for (request, status) in cases {
        let mut client = watched.connect("http/1.1");
        client.send(request.as_bytes());
        let (answer, closed) = client.read_to_close(BOUND);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            closed && answer.split(' ').nth(1) == Some(status),
            "wanted {status}, got {answer:?}"
        );
        watched.assert_logged(&client, &answer);
    }
    watched.assert_only_the_canary_arrives();
}

#[test]
fn a_request_hidden_in_the_body_of_another_stays_hidden() {
    let watched = watched();
    let host = watched.host();
    let hidden = format!("GET /hidden HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let bytes = format!(
        "POST /s/web/x HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
    );

    let mut client = watched.connect("http/1.1");
    client.send(bytes.as_bytes());
    let (_, closed) = client.read_to_close(BOUND);

    assert!(closed);
    watched.assert_only_the_canary_arrives();
}

#[test]
fn ambiguous_http2_is_refused() {
    let watched = watched();

    for fields in http2_cases(&watched.host()) {
        let mut client = watched.connect("h2");
        client.send(&frames::preface());
        client.send(&frames::frame(
            1,
            END_HEADERS | END_STREAM,
            1,
            &frames::block(&fields),
        ));
        // Answered or reset: either way the stream is over, so nothing of it is still on its way.
        let ended = client.read_until_any(&STREAM_ONE_ENDS, BOUND);
        assert!(ended, "no end of the stream with {fields:?}");
        assert_eq!(watched.recorder.seen(), "", "{fields:?}");
        let address = client.local();
        drop(client);
        let line = watched
            .gateway
            .wait_for_line(&["sallyport::access", &address]);
        assert!(line.contains("cause"), "{line}");
    }
    watched.assert_only_the_canary_arrives();
}

/// How frames begin that end stream 1: HEADERS or DATA with END_STREAM, RST_STREAM; and GOAWAY.
const STREAM_ONE_ENDS: [&[u8]; 4] = [
    &[1, 5, 0, 0, 0, 1],
    &[0, 1, 0, 0, 0, 1],
    &[3, 0, 0, 0, 0, 1],
    &[7, 0, 0, 0, 0, 0],
];

/// Header lists, each with one fault.
fn http2_cases(host: &str) -> Vec<Vec<(&'static str, &str)>> {
    let good = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/s/web/x"),
        (":authority", host),
    ];
    let with = |extra: (&'static str, &'static str)| [&good[..], &[extra]].concat();
    let instead = |name: &str, value: &'static str| {
        good.iter()
            .map(|field| {
                if field.0 == name {
                    (field.0, value)
                } else {
                    *field
                }
            })
            .collect()
    };
    vec![
        with(("transfer-encoding", "chunked")),
        with(("connection", "close")),
        with(("x", "a\r\nb: c")),
        with(("x", "a\0b")),
        with(("X-Upper", "a")),
        with(("x y", "a")),
        with(("host", "evil.example")),
        with(("x_forwarded_for", "1.2.3.4")),
        with((":path", "/s/web/y")),
        with(("content-length", "5")),
        instead(":path", "/s/web/../x"),
        instead(":path", "/s/web%2fx"),
        instead(":path", "s/web/x"),
        instead(":path", "https://evil.example/s/web/x"),
        instead(":path", "/s/web/x y"),
        instead(":authority", "evil.example"),
        instead(":authority", "user@127.0.0.1"),
        instead(":method", "CONNECT"),
        instead(":method", "TRACE"),
        good.iter()
            .copied()
            .filter(|field| field.0 != ":authority")
            .collect(),
    ]
}

#[test]
fn a_fragment_in_http2_is_dropped_before_anything_is_decided() {
    let watched = watched();
    let request = frames::request(
        "GET",
        "/s/web/x#/../y",
        &watched.host(),
        END_HEADERS | END_STREAM,
    );

    let mut client = watched.connect("h2");
    client.send(&[frames::preface(), request].concat());

    eventually("the session sees what was routed", || {
        watched.recorder.seen().contains("\r\n\r\n")
    });
    assert!(
        watched.recorder.seen().starts_with("GET /x HTTP/1.1\r\n"),
        "{}",
        watched.recorder.seen()
    );
}
