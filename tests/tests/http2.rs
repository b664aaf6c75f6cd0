//! The limits of an HTTP/2 connection, each reached by a client that no library would let go so far.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sallyport_tests::frames::{self, END_HEADERS, END_STREAM, Frame};
use sallyport_tests::{BOUND, Gateway, Raw, Relay, Site, eventually};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;

/// Error codes (RFC 9113 §7).
const FLOW_CONTROL_ERROR: u32 = 3;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A session that takes a request head and does no more; or sends without end what nobody asked for.
struct Session {
    port: u16,
    sent: Arc<AtomicU64>,
    /// Connections that are open.
    open: Arc<AtomicU64>,
}

impl Session {
    fn start(endless: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let sent = Arc::new(AtomicU64::new(0));
        let open = Arc::new(AtomicU64::new(0));
        let (count, connected) = (Arc::clone(&sent), Arc::clone(&open));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (count, connected) = (Arc::clone(&count), Arc::clone(&connected));
                connected.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || {
                    drop(serve(client, endless, &count));
                    connected.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { port, sent, open }
    }
}

fn serve(mut client: TcpStream, endless: bool, count: &AtomicU64) -> std::io::Result<()> {
    let mut head = [0; 1_024];
    let _however_long = client.read(&mut head)?;
    if endless {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        let part = vec![0; 1 << 16];
        loop {
            client.write_all(&part)?;
            count.fetch_add(1 << 16, Ordering::Relaxed);
        }
    }
    // Open as long as the test lives, without reading what comes.
    loop {
        thread::park();
    }
}

struct Http2 {
    gateway: Gateway,
    session: Session,
    _relay: Relay,
    _site: Site,
}

fn http2(limits: &str, endless: bool) -> Http2 {
    let site = Site::new();
    let session = Session::start(endless);
    let gateway = site.gateway_with("gw", "127.0.0.1", &format!("[limits]\n{limits}\n"));
    let relay = site.relay(
        "node-a",
        &gateway,
        &format!(
            "transport = \"tls\"\n[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{}\"\naccess = \"public\"\n",
            session.port
        ),
    );
    gateway.wait_session("web");
    Http2 {
        gateway,
        session,
        _relay: relay,
        _site: site,
    }
}

impl Http2 {
    /// A connection whose settings are in force, and what the gateway said first.
    fn connect(&self) -> (Raw, Vec<Frame>) {
        let mut client = Raw::connect(self.gateway.address(Ipv4Addr::LOCALHOST.into()), "h2");
        client.send(&frames::preface());
        let said = client.frames_until(|frame| frame.kind == WINDOW_UPDATE, BOUND);
        client.send(&frames::frame(SETTINGS, ACK, 0, &[]));
        (client, said)
    }

    /// A request on a stream; its body is open without [`END_STREAM`].
    fn request(&self, stream: u32, method: &str, flags: u8) -> Vec<u8> {
        let host = format!("127.0.0.1:{}", self.gateway.port());
        frames::request_on(stream, (method, "/s/web/"), &host, END_HEADERS | flags)
    }
}

/// The value of a setting in a SETTINGS frame that came.
fn setting(frames: &[Frame], id: u16) -> Option<u32> {
    let settings = frames.iter().find(|frame| frame.kind == SETTINGS)?;
    settings.payload.chunks_exact(6).find_map(|entry| {
        let (name, value) = entry.split_first_chunk()?;
        (u16::from_be_bytes(*name) == id)
            .then(|| value.first_chunk().map(|v| u32::from_be_bytes(*v)))?
    })
}

/// The first error among frames: its stream and its code.
fn error(frames: &[Frame]) -> Option<(u32, u32)> {
    let of = |frame: &Frame| Some((frame.stream, frame.error()?));
    frames.iter().find_map(of)
}

#[test]
fn one_stream_more_than_announced_is_refused() {
    let http2 = http2("h2_streams = 2", false);
    let (mut client, said) = http2.connect();
    assert_eq!(setting(&said, 3), Some(2), "{said:?}");

    let requests = [1, 3, 5].map(|stream| http2.request(stream, "GET", END_STREAM));
    client.send(&requests.concat());

    let got = client.frames_until(|frame| frame.error().is_some(), BOUND);
    assert_eq!(error(&got), Some((5, REFUSED_STREAM)), "{got:?}");
}

#[test]
fn more_bytes_than_the_window_of_a_stream_are_an_error() {
    let http2 = http2("h2_stream_window = 10000", false);
    let (mut client, said) = http2.connect();
    assert_eq!(setting(&said, 4), Some(10_000), "{said:?}");

    client.send(&http2.request(1, "PUT", 0));
    client.send(&frames::frame(DATA, 0, 1, &[0; 10_001]));

    let got = client.frames_until(|frame| frame.error().is_some(), BOUND);
    let code = error(&got).map(|(_stream, code)| code);
    assert_eq!(code, Some(FLOW_CONTROL_ERROR), "{got:?}");
}

#[test]
fn more_bytes_than_the_window_of_a_connection_end_it() {
    let limits = "h2_stream_window = 1000000000\nh2_connection_window = 200000";
    let http2 = http2(limits, false);
    let (mut client, said) = http2.connect();
    let window = said.iter().find(|frame| frame.kind == WINDOW_UPDATE);
    let announced = window.map(|frame| (frame.stream, frame.payload.clone()));
    let more = (200_000_u32 - 65_535).to_be_bytes();
    assert_eq!(announced, Some((0, more.to_vec())));

    client.send(&http2.request(1, "PUT", 0));
    // The session reads nothing: once the way there is full, nothing makes room for more.
    let beyond = frames::frame(DATA, 0, 1, &[0; 16_384]).repeat(13);
    let since = Instant::now();
    let code = loop {
        client.send(&beyond);
        let got = client.frames_until(|frame| frame.kind == GOAWAY, Duration::from_millis(1));
        if let Some((_connection, code)) = error(&got) {
            break code;
        }
        assert!(since.elapsed() < BOUND, "no end of it");
    };
    assert_eq!(code, FLOW_CONTROL_ERROR);
}

#[test]
fn what_waits_for_a_client_that_reads_nothing_is_limited() {
    const MIB: u64 = 1 << 20;
    // Far more than everything else on the way holds.
    let far = 64 * MIB;
    let open = |limit: u64| {
        let http2 = http2(&format!("h2_send_buffer = {limit}"), true);
        let mut client = Raw::connect(http2.gateway.address(Ipv4Addr::LOCALHOST.into()), "h2");
        let widest = [&[0, 4][..], &0x7fff_ffff_u32.to_be_bytes()].concat();
        let window = (0x7fff_ffff_u32 - 65_535).to_be_bytes();
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        client.send(&frames::frame(SETTINGS, 0, 0, &widest));
        client.send(&frames::frame(WINDOW_UPDATE, 0, 0, &window));
        client.send(&http2.request(1, "GET", END_STREAM));
        (http2, client)
    };
    let sent = |http2: &Http2| http2.session.sent.load(Ordering::Relaxed);

    let (small, _client) = open(64 << 10);
    let mut before = 0;
    eventually("the session is held up", || {
        thread::sleep(Duration::from_secs(1));
        let now = sent(&small);
        std::mem::replace(&mut before, now) == now && now > 0
    });
    assert!(sent(&small) < far, "{} bytes wait somewhere", sent(&small));

    let (large, _client) = open(2 * far);
    eventually("with room for it, more waits", || sent(&large) > far);
}

#[test]
fn a_client_that_opens_no_window_loses_its_stream() {
    let http2 = http2("h2_stall = \"300ms\"", true);
    let (mut client, _said) = http2.connect();
    for stream in [1, 3] {
        client.send(&http2.request(stream, "GET", END_STREAM));
        let got = client.frames_until(|frame| frame.error().is_some(), BOUND);
        let answered = got
            .iter()
            .any(|frame| (frame.stream, frame.kind) == (stream, HEADERS));
        assert!(answered, "{got:?}");
        assert_eq!(error(&got), Some((stream, CANCEL)), "{got:?}");
    }
    eventually("the session is let go", || {
        http2.session.open.load(Ordering::Relaxed) == 0
    });
}

#[test]
fn streams_that_are_reset_before_they_are_noticed_are_limited() {
    let http2 = http2("h2_pending_resets = 3", false);
    let (mut client, _said) = http2.connect();
    let streams = (0..40_u32).map(|n| 2 * n + 1);
    let cancelled = |stream| {
        let reset = frames::frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [http2.request(stream, "GET", END_STREAM), reset].concat()
    };
    client.send(&streams.flat_map(cancelled).collect::<Vec<u8>>());

    let got = client.frames_until(|frame| frame.kind == GOAWAY, BOUND);

    assert_eq!(error(&got), Some((0, ENHANCE_YOUR_CALM)), "{got:?}");
}

#[test]
fn streams_that_have_to_be_reset_are_limited() {
    let http2 = http2("h2_local_resets = 3", false);
    let (mut client, _said) = http2.connect();
    // More bytes than the head says are an error of their stream (RFC 9113 §8.1.1).
    let host = format!("127.0.0.1:{}", http2.gateway.port());
    let head = frames::block(&[
        (":method", "PUT"),
        (":scheme", "https"),
        (":path", "/s/web/"),
        (":authority", &host),
        ("content-length", "1"),
    ]);
    let faulty = |stream| {
        let request = frames::frame(1, END_HEADERS, stream, &head);
        [request, frames::frame(DATA, 0, stream, b"two")].concat()
    };
    let streams = (0..10_u32).map(|n| 2 * n + 1);
    client.send(&streams.flat_map(faulty).collect::<Vec<u8>>());

    let got = client.frames_until(|frame| frame.kind == GOAWAY, BOUND);

    let last = got.iter().rev().find_map(Frame::error);
    assert_eq!(last, Some(ENHANCE_YOUR_CALM), "{got:?}");
}

#[test]
fn a_session_that_says_nothing_has_its_time() {
    let http2 = http2("answer = \"1s\"", false);
    let since = Instant::now();

    let url = http2.gateway.session_url("web", "/");
    drop(http2.gateway.curl().arg(url).go().expect(504));

    assert!(since.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_client_that_answers_no_ping_is_closed() {
    let http2 = http2("h2_ping = \"1s\"\nh2_ping_answer = \"1s\"", false);
    let (mut client, _said) = http2.connect();
    let since = Instant::now();
    client.send(&http2.request(1, "GET", END_STREAM));

    // The session does not answer either, for which it has 300 s.
    let got = client.frames_until(|_| false, BOUND);

    let took = since.elapsed();
    assert!(got.iter().any(|frame| frame.kind == PING), "{got:?}");
    assert!(took >= Duration::from_secs(2), "{took:?}");
    assert!(took < BOUND, "still open");
}
