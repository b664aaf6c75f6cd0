//! Answers on HTTP/2 that come before the request's body is through, frame by frame (RFC 9113 §8.1).

use std::time::Duration;

use sallyport_edge::Limits;
use sallyport_edge::client::HttpVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::{LONG, Site, status};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A window before it is made larger (RFC 9113 §6.9.2).
const WINDOW: usize = 65_535;

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn ends(&self, stream: u32) -> bool {
        let may_end = matches!(self.kind, DATA | HEADERS);
        may_end && self.stream == stream && self.flags & END_STREAM != 0
    }

    fn resets(&self) -> bool {
        self.kind == RST_STREAM
    }

    fn number(&self) -> u32 {
        let bytes = self.payload.first_chunk().expect("four bytes");
        u32::from_be_bytes(*bytes)
    }
}

/// A client that writes frames by hand.
struct Client(TcpStream);

impl Client {
    async fn new(site: &Site) -> Self {
        let mut client = Self(site.connect(HttpVersion::Two, |_| {}).await);
        client.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        client.send(SETTINGS, 0, 0, &[]).await;
        client
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("sent");
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.write(&frame).await;
    }

    /// The head of a PUT, in literals (RFC 7541 §6.2.2).
    async fn put(&mut self, stream: u32, path: &str) {
        let fields = [
            (":method", "PUT"),
            (":scheme", "https"),
            (":path", path),
            (":authority", "gw.test"),
        ];
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).expect("short"));
                block.extend(text.as_bytes());
            }
        }
        self.send(HEADERS, END_HEADERS, stream, &block).await;
    }

    async fn next(&mut self) -> Frame {
        let read = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await?;
            let [l2, l1, l0, kind, flags, stream @ ..] = head;
            let length = usize::from(l2) << 16 | usize::from(l1) << 8 | usize::from(l0);
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await?;
            let stream = u32::from_be_bytes(stream);
            Ok::<_, std::io::Error>(Frame {
                kind,
                flags,
                stream,
                payload,
            })
        };
        let frame = tokio::time::timeout(LONG, read).await.expect("in time");
        frame.expect("a frame")
    }

    /// The frames up to the first that is such.
    async fn until(&mut self, such: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            frames.push(self.next().await);
            if frames.last().is_some_and(&such) {
                return frames;
            }
        }
    }
}

/// A site whose session answers as soon as it has the head of a request, and reads on.
async fn site(change: impl FnOnce(&mut Limits)) -> Site {
    let site = Site::limited(change);
    site.session(
        "web",
        |_| {},
        |mut stream| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a head"));
            }
            let answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nstop";
            stream.write_all(answer).await.expect("sent");
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
        },
    )
    .await;
    site
}

#[tokio::test]
async fn the_client_is_stopped_after_the_whole_answer_and_a_while() {
    let linger = Duration::from_millis(300);
    let site = site(|limits| limits.linger = linger).await;
    for path in ["/s/web/", "/s/nothing/"] {
        let mut client = Client::new(&site).await;
        let start = Instant::now();
        client.put(1, path).await;
        client.send(DATA, 0, 1, b"more to come").await;

        let answer = client.until(|frame| frame.ends(1)).await;
        assert!(!answer.iter().any(Frame::resets), "{path}: {answer:?}");
        let stop = client.until(Frame::resets).await;
        let stop = stop.last().expect("a reset");
        assert_eq!((stop.stream, stop.number()), (1, 0), "NO_ERROR");
        assert!(start.elapsed() >= linger, "{path}: {:?}", start.elapsed());
    }
}

/// A site whose session answers a request whose body is still to come with no more than a head.
async fn headed(status: &'static str, linger: Duration) -> Site {
    let site = Site::limited(|limits| limits.linger = linger);
    site.session(
        "web",
        |_| {},
        move |mut stream| async move {
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("sent");
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
        },
    )
    .await;
    site
}

#[tokio::test]
async fn the_head_of_an_early_error_waits_a_while_for_its_body() {
    let linger = Duration::from_millis(300);
    let site = headed("413 Too Large", linger).await;
    let start = Instant::now();
    let mut two = Client::new(&site).await;
    two.put(1, "/s/web/").await;
    let mut one = site.raw().await;
    one.send("PUT /s/web/ HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 9\r\n\r\n")
        .await;

    two.until(|frame| frame.kind == HEADERS).await;
    assert!(start.elapsed() >= linger, "{:?}", start.elapsed());
    assert_eq!(status(&one.head().await), 413);
    assert!(start.elapsed() >= linger, "{:?}", start.elapsed());
}

#[tokio::test]
async fn the_head_of_a_conversation_waits_for_nothing() {
    let site = headed("200 OK", Duration::from_secs(3_600)).await;
    let mut two = Client::new(&site).await;
    two.put(1, "/s/web/").await;
    two.until(|frame| frame.kind == HEADERS).await;
}

#[tokio::test]
async fn a_client_that_stops_by_itself_is_left_alone() {
    let site = site(|limits| limits.linger = Duration::from_secs(3_600)).await;
    let mut client = Client::new(&site).await;
    for stream in [1, 3, 5] {
        client.put(stream, "/s/web/").await;
        client.send(DATA, 0, stream, b"more to come").await;
        client.until(|frame| frame.ends(stream)).await;
        client.send(DATA, END_STREAM, stream, b"that was it").await;
    }
    client.send(PING, 0, 0, &[7; 8]).await;
    let rest = client.until(|frame| frame.kind == PING && frame.flags == 1);
    assert!(!rest.await.iter().any(Frame::resets));
}

#[tokio::test]
async fn a_client_that_never_stops_fills_one_window() {
    let site = site(|limits| {
        limits.linger = Duration::from_millis(300);
        limits.linger_bytes = 1;
        limits.h2_stream_window = u32::try_from(WINDOW).expect("a window");
    })
    .await;
    let mut client = Client::new(&site).await;
    client.put(1, "/s/nothing/").await;
    client.until(|frame| frame.ends(1)).await;
    for _ in 0..WINDOW / 16_000 {
        client.send(DATA, 0, 1, &[0; 16_000]).await;
    }
    let frames = client.until(Frame::resets).await;
    let more: u32 = frames
        .iter()
        .filter(|frame| frame.kind == WINDOW_UPDATE && frame.stream == 1)
        .map(Frame::number)
        .sum();
    assert!(more <= 16_000, "room for {more} more bytes");
}
