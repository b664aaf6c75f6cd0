//! Whether a tunnel lives: when its peer was last heard, its figures, and why it ended.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use sallyport_wire::{Code, Refusal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::round_trip::RoundTrip;

/// Why a tunnel ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tunnel closed ({code}): {cause}")]
pub struct Closed {
    /// The reason as it stands on the wire.
    pub code: Code,
    /// The same for the log.
    pub cause: String,
}

/// The tunnel, or the flow, is closed; [`Tunnel::closed`](crate::Tunnel::closed) says why. Also returned for a message
/// that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tunnel is closed")]
pub struct TunnelClosed;

/// Shared by everything that belongs to one tunnel.
#[derive(Debug)]
pub(crate) struct Life {
    started: Instant,
    heard_ms: AtomicU64,
    round_trip: Mutex<RoundTrip>,
    sent: AtomicU64,
    received: AtomicU64,
    over: OnceLock<Closed>,
    ending: CancellationToken,
    farewell: CancellationToken,
}

impl Life {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            heard_ms: AtomicU64::new(0),
            round_trip: Mutex::default(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            over: OnceLock::new(),
            ending: CancellationToken::new(),
            farewell: CancellationToken::new(),
        }
    }

    /// Ends the tunnel; the first reason stays.
    pub(crate) fn end(&self, code: Code, cause: impl Into<String>) {
        let cause = cause.into();
        if self.over.set(Closed { code, cause }).is_ok() {
            self.ending.cancel();
        }
    }

    /// Why it ended, if it did.
    pub(crate) fn over(&self) -> Option<&Closed> {
        self.over.get()
    }

    /// Waits for the end.
    pub(crate) async fn closed(&self) -> Closed {
        self.ending.cancelled().await;
        self.over().cloned().unwrap_or_else(|| Closed {
            code: Code::Internal,
            cause: String::new(),
        })
    }

    /// Cancelled when the tunnel ends.
    pub(crate) fn ending(&self) -> &CancellationToken {
        &self.ending
    }

    /// Cancelled when the last control message has left and the connection may be cut.
    pub(crate) fn farewell(&self) -> &CancellationToken {
        &self.farewell
    }

    /// The peer gave a sign of life.
    pub(crate) fn hear(&self) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(ms, Ordering::Relaxed);
    }

    /// When the peer was last heard.
    pub(crate) fn heard(&self) -> Instant {
        self.started + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed))
    }

    pub(crate) fn measured(&self, rtt: Duration) {
        self.trips().measured(rtt);
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.trips().latest()
    }

    /// What a ping takes when it goes badly, once known.
    pub(crate) fn delay(&self) -> Option<Duration> {
        self.trips().worst()
    }

    fn trips(&self) -> MutexGuard<'_, RoundTrip> {
        self.round_trip
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts bytes read from the network, which is a sign of life.
    pub(crate) fn received(&self, bytes: usize) {
        self.hear();
        self.received.fetch_add(to_u64(bytes), Ordering::Relaxed);
    }

    /// Counts bytes written to the network.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(to_u64(bytes), Ordering::Relaxed);
    }

    /// Bytes written and read so far.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (
            self.sent.load(Ordering::Relaxed),
            self.received.load(Ordering::Relaxed),
        )
    }
}

/// A stream's error that carries a code.
pub(crate) fn broken(code: Code) -> io::Error {
    Refusal(code).into()
}

/// Lossless on every platform that we build for.
pub(crate) fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
