//! What the front tells the gate about the requests of a connection, and learns from it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Ended;
use crate::limits::Limits;
use crate::request_id;

/// The front's end of a gate; cloned into whatever handles the connection's requests.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    /// Requests begun so far.
    begun: AtomicU64,
    /// Requests of HTTP/2 that came, whether they could be begun or not.
    seen: AtomicU64,
    /// Exchanges that are under way.
    open: AtomicU32,
    /// Whether the answer to the one request of HTTP/1.1 has begun.
    answering: AtomicBool,
    upgraded: AtomicBool,
    quiet: AtomicBool,
    quiet_told: Notify,
    closing: AtomicBool,
    closing_told: Notify,
    ended: OnceLock<Ended>,
    refusal_id: OnceLock<String>,
    max_requests: u64,
    max_age: Instant,
    /// Woken when an exchange ends: the gate may let the next request in.
    pub(super) gate: AtomicWaker,
}

impl Shared {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            begun: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            open: AtomicU32::new(0),
            answering: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            quiet_told: Notify::new(),
            closing: AtomicBool::new(false),
            closing_told: Notify::new(),
            ended: OnceLock::new(),
            refusal_id: OnceLock::new(),
            max_requests: limits.max_requests,
            max_age: now + spread(limits.max_age),
            gate: AtomicWaker::new(),
        }
    }

    /// Exchanges that are under way.
    pub(super) fn open(&self) -> u32 {
        self.open.load(Ordering::Acquire)
    }

    /// Whether so many requests have come and all are answered.
    pub(super) fn is_answered(&self, requests: u64) -> bool {
        self.begun.load(Ordering::Acquire) >= requests && self.open() == 0
    }

    /// Whether a connection that has had so many requests gets no more.
    pub(super) const fn is_last(&self, requests: u64) -> bool {
        requests >= self.max_requests
    }

    /// Whether the answer to the one request of HTTP/1.1 has begun and not ended.
    pub(super) fn is_mid_answer(&self) -> bool {
        self.open() > 0 && self.answering.load(Ordering::Acquire)
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Acquire)
    }

    /// Nothing is under way, either way, or something is.
    pub(super) fn set_quiet(&self, quiet: bool) {
        if !self.quiet.swap(quiet, Ordering::AcqRel) && quiet {
            self.quiet_told.notify_one();
        }
    }

    /// Asks the front to end the connection in order.
    pub(super) fn ask_to_close(&self) {
        self.closing.store(true, Ordering::Release);
        self.closing_told.notify_waiters();
    }

    /// Keeps why the gate ended the connection; the first reason stays.
    pub(super) fn end(&self, why: Ended) {
        self.ended.get_or_init(|| why);
    }

    /// So many requests of HTTP/2 have come.
    pub(super) fn seen(&self, requests: u64) {
        self.seen.store(requests, Ordering::Relaxed);
    }

    /// The id under which this connection is refused.
    pub(super) fn refusal_id(&self) -> &str {
        self.refusal_id.get_or_init(request_id::fresh)
    }
}

/// A duration within 10 % of this one, so that connections made together do not end together.
fn spread(age: Duration) -> Duration {
    let drawn = RandomState::new().hash_one(0_u8) % 2_001; // keyed at random for each call
    age / 10_000 * (9_000 + u32::try_from(drawn).unwrap_or(1_000))
}

impl Handle {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Tells that hyper has handed over a request. The exchange lasts until the guard is dropped,
    /// so keep it in the answer's body, or in the stream of an upgraded connection.
    #[must_use]
    pub fn begin(&self) -> Exchange {
        let begun = self.0.begun.fetch_add(1, Ordering::AcqRel) + 1;
        self.0.open.fetch_add(1, Ordering::AcqRel);
        self.0.answering.store(false, Ordering::Release);
        if begun >= self.0.max_requests {
            self.0.ask_to_close();
        }
        Exchange {
            gate: self.clone(),
            answering: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Tells that the session's 101 is verified, before it is returned to hyper: the gate steps
    /// aside and lets every byte through. HTTP/1.1 only; on HTTP/2 an exchange that is answered is
    /// left alone.
    pub fn upgraded(&self) {
        self.0.upgraded.store(true, Ordering::Release);
        self.0.gate.wake();
    }

    /// Whether the connection should end after the current answer: too old or too many requests.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.0.closing.load(Ordering::Acquire) || Instant::now() >= self.0.max_age
    }

    /// Whether a client of HTTP/1.1 asks for nothing and has taken all of its answers, so that hyper is not needed.
    pub(crate) fn is_quiet(&self) -> bool {
        self.0.quiet.load(Ordering::Acquire)
    }

    /// Resolves once that has become so since it last did.
    pub(crate) async fn quieted(&self) {
        self.0.quiet_told.notified().await;
    }

    /// Resolves when the connection should end in order; then call hyper's `graceful_shutdown`.
    pub async fn closing(&self) {
        let told = self.0.closing_told.notified();
        if self.is_closing() {
            return;
        }
        tokio::select! {
            () = told => {}
            () = tokio::time::sleep_until(self.0.max_age) => {}
        }
    }

    /// Why the gate ended the connection, for the log; none if it did not.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.0.ended.get().copied()
    }

    /// The id that a refusal was answered with.
    #[must_use]
    pub fn refusal_id(&self) -> &str {
        self.0.refusal_id()
    }

    /// Requests of HTTP/2 that came and were never begun.
    #[must_use]
    pub fn unserved(&self) -> u64 {
        self.0
            .seen
            .load(Ordering::Relaxed)
            .saturating_sub(self.requests())
    }

    /// Requests begun so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.0.begun.load(Ordering::Acquire)
    }
}

/// One request and its answer; ends when dropped.
#[derive(Debug)]
pub struct Exchange {
    gate: Handle,
    answering: Arc<AtomicBool>,
}

impl Exchange {
    /// Tells that the head of the answer is about to be returned to hyper. From then on the request
    /// may be one side of a conversation, so its body may pause for as long as `Limits::idle`.
    pub fn answering(&self) {
        self.answering.store(true, Ordering::Release);
        self.gate.0.answering.store(true, Ordering::Release);
    }

    pub(super) fn answering_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.answering)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.gate.0.open.fetch_sub(1, Ordering::AcqRel);
        self.gate.0.gate.wake();
    }
}
