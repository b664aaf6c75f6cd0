//! Clients that begin something and never go on: each is closed, and nobody else waits meanwhile.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use sallyport_tests::frames::{self, END_HEADERS};
use sallyport_tests::service::Nginx;
use sallyport_tests::{BOUND, Gateway, Raw, Relay, Site};

/// All deadlines down to seconds, so that the test does not take minutes; not less, because honest clients of a
/// loaded machine have to keep them too.
const SHORT: &str = "[limits]\nestablish = \"3s\"\nfirst_byte = \"3s\"\nhead = \"3s\"\nkeep_alive = \"3s\"\n\
    body_grace = \"2s\"\nbody_window = \"2s\"\nwrite_stall = \"3s\"\n";

struct Web {
    gateway: Gateway,
    _nginx: Nginx,
    _relay: Relay,
    _site: Site,
}

fn web(limits: &str) -> Web {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let _file = nginx.random_file("large", 64 << 20);
    let gateway = site.gateway_with("gw", "127.0.0.1", limits);
    let relay = site.relay(
        "node-a",
        &gateway,
        &format!("[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{}\"\naccess = \"public\"\n",
            nginx.port.number()),
    );
    gateway.wait_session("web");
    Web {
        gateway,
        _nginx: nginx,
        _relay: relay,
        _site: site,
    }
}

/// A client that falls silent.
struct Silent {
    shape: &'static str,
    alpn: &'static str,
    sent: Vec<u8>,
    /// What the log says of it.
    said: &'static str,
}

fn silent_shapes(host: &str) -> Vec<Silent> {
    let upload = format!(
        "PUT /s/web/upload/x HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\n0123456789"
    );
    let chunked = format!(
        "PUT /s/web/upload/x HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"
    );
    let whole = format!("GET /s/web/echo HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let http2 = |rest: Vec<u8>| [frames::preface(), rest].concat();
    let open = frames::request("PUT", "/s/web/upload/x", host, END_HEADERS);
    let cut = frames::request("GET", "/s/web/echo", host, 0);
    let shape = |shape, alpn, sent: &[u8], said| Silent {
        shape,
        alpn,
        sent: sent.to_vec(),
        said,
    };
    let one = |name, sent: &str, said| shape(name, "http/1.1", sent.as_bytes(), said);
    let two = |name, sent: &[u8], said| shape(name, "h2", sent, said);
    let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n");
    vec![
        one("TLS, then silence", "", "no byte after the handshake"),
        one(
            "the start of an HTTP/2 preface on HTTP/1.1",
            "PRI ",
            SLOW_HEAD,
        ),
        one("part of a request line", "GET /s/w", SLOW_HEAD),
        one("a head without its end", &head, SLOW_HEAD),
        one("a body that stops", &upload, SLOW_BODY),
        one("a chunk that stops", &chunked, SLOW_BODY),
        one("a connection kept alive", &whole, "no further request"),
        two("HTTP/2 without a preface", &[], "no preface of HTTP/2"),
        two(
            "HTTP/2 without a stream",
            &http2(Vec::new()),
            "no further request",
        ),
        two(
            "HEADERS without their end",
            &http2(cut),
            "frame or header block too slow",
        ),
        two("an HTTP/2 body that stops", &http2(open), SLOW_BODY),
    ]
}

const SLOW_HEAD: &str = "request head too slow";
const SLOW_BODY: &str = "the request body came too slowly";

fn address(gateway: &Gateway) -> SocketAddr {
    gateway.address(Ipv4Addr::LOCALHOST.into())
}

#[test]
fn silent_clients_are_closed_and_others_served_meanwhile() {
    let web = web(SHORT);
    let host = format!("127.0.0.1:{}", web.gateway.port());
    let to = address(&web.gateway);

    thread::scope(|scope| {
        for silent in silent_shapes(&host) {
            let gateway = &web.gateway;
            scope.spawn(move || {
                let mut client = Raw::connect(to, silent.alpn);
                client.send(&silent.sent);
                let (_, closed) = client.read_to_close(BOUND);
                assert!(closed, "still open: {}", silent.shape);
                drop(gateway.wait_for_line(&[silent.said, &client.local()]));
            });
        }
        for bytes in [&b""[..], &[22], &[22, 3, 1, 2, 0, 1]] {
            scope.spawn(move || {
                let mut client = TcpStream::connect(to).expect("listens");
                client.write_all(bytes).expect("taken");
                client
                    .set_read_timeout(Some(BOUND))
                    .expect("a socket option");
                let ended = client.read_to_end(&mut Vec::new());
                let waits =
                    ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
                assert!(!waits, "still open without a handshake: {bytes:?}");
            });
        }
        for _ in 0..10 {
            drop(
                web.gateway
                    .curl()
                    .arg(web.gateway.session_url("web", "/echo"))
                    .go()
                    .expect(200),
            );
        }
    });
}

/// Sends `start`, then one byte now and then, until the gateway closes.
fn drips(to: SocketAddr, start: &[u8]) {
    let mut client = Raw::connect(to, "http/1.1");
    client.send(start);
    let since = Instant::now();
    loop {
        let (_, closed) = client.read_to_close(Duration::from_millis(300));
        if closed {
            return;
        }
        assert!(
            since.elapsed() < BOUND,
            "still open after {BOUND:?} of drips"
        );
        client.send(b"a");
    }
}

#[test]
fn dripping_clients_are_closed() {
    let web = web(SHORT);
    let host = format!("127.0.0.1:{}", web.gateway.port());
    let to = address(&web.gateway);
    let head = format!("GET /s/web/echo HTTP/1.1\r\nHost: {host}\r\nX-Drip: ");
    let body =
        format!("PUT /s/web/upload/x HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n\r\n");

    thread::scope(|scope| {
        scope.spawn(|| drips(to, head.as_bytes()));
        scope.spawn(|| drips(to, body.as_bytes()));
    });
}

#[test]
fn a_reader_that_takes_nothing_is_closed() {
    let web = web(SHORT);
    let host = format!("127.0.0.1:{}", web.gateway.port());
    let mut client = Raw::connect(address(&web.gateway), "http/1.1");

    client.send(format!("GET /s/web/large HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());

    drop(web.gateway.wait_for_line(&["takes no bytes"]));
    let (got, closed) = client.read_to_close(BOUND);
    assert!(
        closed && got.len() < 64 << 20,
        "{} bytes, closed: {closed}",
        got.len()
    );
}

#[test]
fn heavy_a_thousand_half_handshakes_do_not_keep_others_out() {
    // Defaults: each of these may stay for ten seconds.
    let web = web("");
    let to = address(&web.gateway);
    let idle: Vec<TcpStream> = (0..1_000)
        .map(|number: u16| {
            // Spread over sources: one address may hold 1,024 connections.
            let [high, low] = number.to_be_bytes();
            let from = SocketAddr::from(([127, 7, high, low], 0));
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
                .expect("a socket");
            socket.bind(&from.into()).expect("a loopback address");
            socket.connect(&to.into()).expect("listens");
            let mut stream = TcpStream::from(socket);
            stream.write_all(&[22, 3, 1]).expect("taken");
            stream
        })
        .collect();

    for _ in 0..20 {
        drop(
            web.gateway
                .curl()
                .arg(web.gateway.session_url("web", "/echo"))
                .go()
                .expect(200),
        );
    }
    drop(idle);
}
