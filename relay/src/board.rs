//! What status shows of files, gateways and tunnels. A tunnel's row goes with its [`Row`], however its task ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sallyport_link::{Transport, Tunnel};
use sallyport_node::GatewayLink;
use sallyport_ops::Ready;
use sallyport_ops::metrics::{Family, Gauge, Metrics};
use sallyport_wire::Code;
use serde_json::{Value, json};

/// The readiness step that says whether any gateway is reached.
pub const TUNNELS: &str = "tunnels";

/// What is told of a gateway before the first dial has ended.
const UNTRIED: &str = "not connected yet";

/// The shared board. Clones show the same.
#[derive(Debug, Clone)]
pub struct Board(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    ready: Ready,
    gauge: Family<Vec<(&'static str, &'static str)>, Gauge>,
    files: Vec<(PathBuf, Option<String>)>,
    wanted: BTreeSet<String>,
    failures: BTreeMap<String, String>,
    last: u64,
    rows: BTreeMap<u64, Shown>,
}

#[derive(Debug)]
struct Shown {
    url: String,
    tunnel: Tunnel,
    kid: String,
    since: Instant,
    draining: bool,
    refused: Vec<(String, Code)>,
}

impl Board {
    /// An empty board that tells `ready` whether there are tunnels.
    #[must_use]
    pub fn new(ready: Ready, metrics: &Metrics) -> Self {
        let board = Self(Arc::new(Mutex::new(Inner {
            ready,
            gauge: metrics.register(
                "relay_tunnels",
                "Live tunnels, by transport",
                Family::default(),
            ),
            files: Vec::new(),
            wanted: BTreeSet::new(),
            failures: BTreeMap::new(),
            last: 0,
            rows: BTreeMap::new(),
        })));
        board.lock().tell();
        board
    }

    /// The gateway files, each with what is wrong with it, and the gateways that they name.
    pub fn files(&self, files: Vec<(PathBuf, Option<String>)>, wanted: BTreeSet<String>) {
        let mut inner = self.lock();
        inner.files = files;
        inner.wanted = wanted;
        inner.tell();
    }

    /// How the link to each gateway stands.
    #[must_use]
    pub fn links(&self) -> Vec<GatewayLink> {
        let inner = self.lock();
        inner.wanted.iter().map(|url| inner.link(url)).collect()
    }

    /// A dial failed.
    pub fn failed(&self, url: &str, cause: &str) {
        let mut inner = self.lock();
        inner.failures.insert(url.to_owned(), cause.to_owned());
        inner.tell();
    }

    /// A gateway is not dialled any more.
    pub fn forget(&self, url: &str) {
        let mut inner = self.lock();
        inner.failures.remove(url);
        inner.tell();
    }

    /// A tunnel came up; it is shown until the row is dropped.
    #[must_use]
    pub fn tunnel(&self, url: &str, tunnel: &Tunnel, kid: &str) -> Row {
        let mut inner = self.lock();
        inner.last = inner.last.wrapping_add(1);
        let number = inner.last;
        inner.failures.remove(url);
        let shown = Shown {
            url: url.to_owned(),
            tunnel: tunnel.clone(),
            kid: kid.to_owned(),
            since: Instant::now(),
            draining: false,
            refused: Vec::new(),
        };
        inner.rows.insert(number, shown);
        inner.tell();
        Row {
            board: self.clone(),
            number,
        }
    }

    /// Files, gateways and tunnels for status.
    #[must_use]
    pub fn show(&self) -> Value {
        let inner = self.lock();
        let files = inner
            .files
            .iter()
            .map(|(path, fault)| json!({ "path": path, "fault": fault }));
        let failures = inner
            .failures
            .iter()
            .map(|(url, cause)| json!({ "gateway": url, "cause": cause }));
        json!({
            "files": files.collect::<Vec<_>>(),
            "failures": failures.collect::<Vec<_>>(),
            "tunnels": inner.rows.values().map(Shown::show).collect::<Vec<_>>(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn link(&self, url: &str) -> GatewayLink {
        let tunnels = self.rows.values().filter(|row| row.url == url).count();
        let why = || self.failures.get(url).map_or(UNTRIED, String::as_str);
        GatewayLink {
            url: url.to_owned(),
            tunnels: tunnels as u64,
            cause: (tunnels == 0).then(|| why().to_owned()),
        }
    }

    fn tell(&self) {
        for transport in [Transport::Quic, Transport::Tls] {
            let count = self
                .rows
                .values()
                .filter(|row| row.tunnel.transport() == transport)
                .count();
            let gauge = self
                .gauge
                .get_or_create(&vec![("transport", transport.word())]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let state = if !self.rows.is_empty() {
            Ok(())
        } else if let Some((url, cause)) = self.failures.first_key_value() {
            Err(format!("{url}: {cause}"))
        } else if self.files.is_empty() {
            Err("no gateway file yet".to_owned())
        } else {
            Err(UNTRIED.to_owned())
        };
        self.ready.set(TUNNELS, state);
    }
}

impl Shown {
    fn show(&self) -> Value {
        let figures = self.tunnel.figures();
        let refused = self
            .refused
            .iter()
            .map(|(id, code)| json!({ "session": id, "code": code.word() }));
        json!({
            "gateway": self.url,
            "id": self.tunnel.id(),
            "transport": self.tunnel.transport().word(),
            "remote": self.tunnel.remote().to_string(),
            "kid": self.kid,
            "draining": self.draining,
            "seconds": self.since.elapsed().as_secs(),
            "rtt_ms": figures.rtt.map(milliseconds),
            "streams": figures.streams,
            "sent": figures.sent,
            "received": figures.received,
            "refused": refused.collect::<Vec<_>>(),
        })
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A tunnel's place on the board; dropping it takes the tunnel off.
#[derive(Debug)]
pub struct Row {
    board: Board,
    number: u64,
}

impl Row {
    /// The tunnel drains.
    pub fn draining(&self) {
        self.change(|shown| shown.draining = true);
    }

    /// The tunnel shows another key.
    pub fn key(&self, kid: &str) {
        self.change(|shown| kid.clone_into(&mut shown.kid));
    }

    /// What the gateway did not take; true if that is news.
    #[must_use]
    pub fn refused(&self, refused: &[(String, Code)]) -> bool {
        let mut news = false;
        self.change(|shown| {
            news = shown.refused != refused;
            refused.clone_into(&mut shown.refused);
        });
        news
    }

    fn change(&self, change: impl FnOnce(&mut Shown)) {
        if let Some(shown) = self.board.lock().rows.get_mut(&self.number) {
            change(shown);
        }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        let gone = {
            let mut inner = self.board.lock();
            let gone = inner.rows.remove(&self.number);
            inner.tell();
            gone
        };
        drop(gone); // outside the lock, since it may close the tunnel
    }
}
