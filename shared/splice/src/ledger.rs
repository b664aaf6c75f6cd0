//! Which streams are open right now, and what each has carried.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::Meter;

/// What is known about a stream when it opens.
#[derive(Debug, Clone)]
pub struct Live {
    /// Request id that also stands in the logs of both sides.
    pub id: String,
    /// Session that the stream belongs to.
    pub session: String,
    /// Cluster of that session; empty for the default one.
    pub cluster: String,
    /// Node whose relay serves it.
    pub node: String,
    /// Client's address as far as it is known.
    pub client: String,
    /// What it carries: `http`, `websocket`, `tcp`, `tls`, `udp`.
    pub kind: &'static str,
    /// What carries it: `quic` or `tls`, empty where no tunnel is involved.
    pub transport: &'static str,
    /// When it opened.
    pub since: SystemTime,
}

/// One stream's row in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LiveFigures {
    /// See [`Live::id`].
    pub id: String,
    /// See [`Live::session`].
    pub session: String,
    /// See [`Live::cluster`].
    pub cluster: String,
    /// See [`Live::node`].
    pub node: String,
    /// See [`Live::client`].
    pub client: String,
    /// See [`Live::kind`].
    pub kind: &'static str,
    /// See [`Live::transport`].
    pub transport: &'static str,
    /// Whether a data connection beside that tunnel carries it now.
    pub promoted: bool,
    /// Seconds since 1970 at which it opened.
    pub since: u64,
    /// Seconds that it has been open.
    pub seconds: u64,
    /// Bytes from the client to the session so far.
    pub up: u64,
    /// Bytes from the session to the client so far.
    pub down: u64,
}

/// The open streams of a process. Clones share one list.
///
/// It is as long as there are streams: whoever opens one has taken a slot first.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    last: AtomicU64,
    open: Mutex<BTreeMap<u64, Row>>,
}

#[derive(Debug)]
struct Row {
    live: Live,
    meter: Arc<Meter>,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a stream; it is listed until the entry is dropped.
    #[must_use]
    pub fn open(&self, live: Live) -> Entry {
        let number = self.0.last.fetch_add(1, Ordering::Relaxed);
        let meter = Arc::new(Meter::new());
        let row = Row {
            live,
            meter: Arc::clone(&meter),
        };
        self.0.rows().insert(number, row);
        Entry {
            ledger: self.clone(),
            number,
            meter,
        }
    }

    /// How many streams are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.rows().len()
    }

    /// Whether no stream is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The open streams with their figures, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<LiveFigures> {
        let now = SystemTime::now();
        self.0.rows().values().map(|row| row.figures(now)).collect()
    }
}

impl Shared {
    fn rows(&self) -> MutexGuard<'_, BTreeMap<u64, Row>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Row {
    fn figures(&self, now: SystemTime) -> LiveFigures {
        LiveFigures {
            id: self.live.id.clone(),
            session: self.live.session.clone(),
            cluster: self.live.cluster.clone(),
            node: self.live.node.clone(),
            client: self.live.client.clone(),
            kind: self.live.kind,
            transport: self.live.transport,
            promoted: self.meter.is_promoted(),
            since: seconds_between(SystemTime::UNIX_EPOCH, self.live.since),
            seconds: seconds_between(self.live.since, now),
            up: self.meter.up(),
            down: self.meter.down(),
        }
    }
}

/// Zero where the clock was set back in between.
fn seconds_between(from: SystemTime, to: SystemTime) -> u64 {
    to.duration_since(from)
        .map_or(0, |gap: Duration| gap.as_secs())
}

/// A stream's place in the [`Ledger`]; dropping it takes the stream off the list.
#[derive(Debug)]
pub struct Entry {
    ledger: Ledger,
    number: u64,
    meter: Arc<Meter>,
}

impl Entry {
    /// The stream's counts, to be handed to [`run`](crate::run()).
    #[must_use]
    pub const fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.0.rows().remove(&self.number);
    }
}
