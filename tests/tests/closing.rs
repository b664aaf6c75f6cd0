//! Sessions that keep a connection alive and then close it without a word: nobody may notice, and nothing that
//! changes something may happen twice.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use sallyport_tests::service::Nginx;
use sallyport_tests::{Gateway, Relay, Site, run_ok};

const BOTH: [&str; 2] = ["--http1.1", "--http2"];

/// Answers that a connection gives before it closes.
const ANSWERS: usize = 3;

/// How a connection closes once it has given its answers.
#[derive(Debug, Clone, Copy)]
enum Close {
    /// At once, as by a count.
    AtOnce,
    /// When the next request is there, unread: a reset, as by a clock that runs out just then.
    OnNext,
    /// When the next request is read: an end.
    AfterNext,
}

/// A service that closes its connections like that; it writes down the first line of each request that it reads.
#[derive(Debug, Clone)]
struct Closer {
    port: u16,
    read: Arc<Mutex<Vec<String>>>,
}

impl Closer {
    fn start(close: Close) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let closer = Self {
            port,
            read: Arc::default(),
        };
        let serving = closer.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                thread::spawn(move || serving.serve(stream, close));
            }
        });
        closer
    }

    fn serve(&self, mut stream: TcpStream, close: Close) -> Option<()> {
        let mut unread = Vec::new();
        for _ in 0..ANSWERS {
            self.read_request(&mut stream, &mut unread)?;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .ok()?;
        }
        match close {
            Close::AtOnce => {}
            Close::OnNext => drop(stream.peek(&mut [0])),
            Close::AfterNext => self.read_request(&mut stream, &mut unread)?,
        }
        Some(())
    }

    /// Reads a request with its body.
    fn read_request(&self, stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<()> {
        let mut buffer = [0; 4_096];
        loop {
            let text = String::from_utf8_lossy(unread);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    let is_length = name.eq_ignore_ascii_case("content-length");
                    is_length.then(|| value.trim().parse::<usize>().ok())?
                });
                if body.len() >= length.unwrap_or(0) {
                    let line = head.lines().next().unwrap_or_default().to_owned();
                    self.read.lock().expect("no thread panicked").push(line);
                    unread.clear();
                    return Some(());
                }
            }
            match stream.read(&mut buffer) {
                Ok(count @ 1..) => unread.extend_from_slice(buffer.get(..count)?),
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// How often each request was read.
    fn times_read(&self) -> BTreeMap<String, usize> {
        let mut times = BTreeMap::new();
        for line in self.read.lock().expect("no thread panicked").iter() {
            *times.entry(line.clone()).or_default() += 1;
        }
        times
    }
}

struct Served {
    gateway: Gateway,
    _relay: Relay,
    site: Site,
}

fn serve(port: u16) -> Served {
    let site = Site::new();
    // An upload whose session closes is answered early; however slowly curl is scheduled, it shall see that answer.
    let gateway = site.gateway_with("gw", "127.0.0.1", "[limits]\nlinger = \"60s\"\n");
    let relay = site.relay(
        "node-a",
        &gateway,
        &format!(
            "[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{port}\"\naccess = \"public\"\n"
        ),
    );
    gateway.wait_session("web");
    Served {
        gateway,
        _relay: relay,
        site,
    }
}

impl Served {
    /// So many requests, twenty at a time; how often each status came.
    fn statuses(&self, version: &str, count: usize, more: &[&str]) -> BTreeMap<String, usize> {
        let mut urls = String::new();
        for number in 0..count {
            let url = self.gateway.session_url("web", &format!("/{number}"));
            writeln!(
                urls,
                "url = \"{url}\"\noutput = \"/dev/null\"\nwrite-out = \"%{{http_code}}\\n\""
            )
            .expect("a string");
        }
        let list = self.site.path().join("urls");
        fs::write(&list, urls).expect("the folder is writable");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", version])
            .args(["--parallel", "--parallel-max", "20"])
            .args(more)
            .arg("--cacert")
            .arg(self.gateway.certificate())
            .arg("--config")
            .arg(list);
        let mut statuses = BTreeMap::new();
        for line in run_ok(&mut curl).lines() {
            *statuses.entry(line.to_owned()).or_default() += 1;
        }
        statuses
    }

    fn expect_all_ok(&self, version: &str, count: usize) {
        let statuses = self.statuses(version, count, &[]);
        let all = BTreeMap::from([("200".to_owned(), count)]);
        assert_eq!(statuses, all, "{version}: {}", self.failures());
    }

    /// The first lines of the access log that tell of failures.
    fn failures(&self) -> String {
        let log = self.gateway.log();
        let failed = log.lines().filter(|line| line.contains("\"code\":"));
        failed.take(5).collect::<Vec<_>>().join("\n")
    }
}

fn two_thousand_gets(close: Close) {
    let served = serve(Closer::start(close).port);
    for version in BOTH {
        served.expect_all_ok(version, 2_000);
    }
    if !matches!(close, Close::AtOnce) {
        drop(
            served
                .gateway
                .wait_for_line(&["\"first_try\":", "\"status\":200"]),
        );
    }
}

#[test]
fn gets_are_safe_from_connections_that_close_at_once() {
    two_thousand_gets(Close::AtOnce);
}

#[test]
fn gets_are_safe_from_connections_that_are_reset() {
    two_thousand_gets(Close::OnNext);
}

#[test]
fn gets_are_safe_from_connections_that_end() {
    two_thousand_gets(Close::AfterNext);
}

#[test]
fn gets_are_safe_from_an_nginx_that_keeps_connections_for_three_requests() {
    let site = Site::new();
    let nginx = Nginx::start(
        site.path(),
        "keepalive_requests 3; keepalive_timeout 1s; location / { return 200 ok; }",
    );
    let served = serve(nginx.port.number());
    for version in BOTH {
        served.expect_all_ok(version, 2_000);
    }
}

#[test]
fn what_changes_something_is_never_sent_twice() {
    for close in [Close::OnNext, Close::AfterNext] {
        let closer = Closer::start(close);
        let served = serve(closer.port);
        for version in BOTH {
            let statuses = served.statuses(version, 200, &["--request", "POST", "--data", "x=1"]);
            let failed = statuses.get("502").copied().unwrap_or_default();
            assert!(
                failed > 0,
                "{close:?} {version}: some go on a stream that closes: {statuses:?}"
            );
            assert_eq!(statuses.values().sum::<usize>(), 200, "{statuses:?}");
        }
        let twice: Vec<_> = closer
            .times_read()
            .into_iter()
            .filter(|(_, times)| *times > BOTH.len())
            .collect();
        assert!(twice.is_empty(), "{close:?}: {twice:?}");
    }
}
