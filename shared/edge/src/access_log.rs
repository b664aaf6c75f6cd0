//! One line per request, written when its last byte is through.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode, Version};
use sallyport_splice::Meter;
use sallyport_wire::{Code, SessionId};
use tokio::time::Instant;

use crate::opener::Way;

/// Most bytes that are kept of a host that is none; a DNS name with its port is no longer.
const HOST_BYTES: usize = 260;

/// What is known about one request; whoever still works on it holds it, and the last one to let go writes the line.
///
/// The line is an event of level info with the target `access`. It has the path, never the query, which may hold
/// secrets.
#[derive(Debug)]
pub struct Record {
    request_id: String,
    client: String,
    version: Version,
    method: Method,
    path: String,
    start: Instant,
    host: OnceLock<String>,
    session: OnceLock<SessionId>,
    way: Mutex<Option<Arc<Way>>>,
    status: AtomicU16,
    first_byte: OnceLock<Duration>,
    /// Milliseconds from `start` to the last byte of the request's body so far.
    last_upload: AtomicU64,
    meter: Meter,
    ended: OnceLock<EndedBy>,
    first_try: OnceLock<String>,
    failure: OnceLock<(Code, String)>,
}

/// Who ended an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// All was sent and received.
    Both,
    /// The client went away.
    Client,
    /// The session or the way to it.
    Session,
    /// The gateway, which answered itself.
    Gateway,
    /// A WebSocket on which nothing happened for too long.
    Idle,
}

impl EndedBy {
    const fn word(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Client => "client",
            Self::Session => "session",
            Self::Gateway => "gateway",
            Self::Idle => "idle",
        }
    }
}

impl Record {
    /// A request that has just come.
    pub(crate) fn new<B>(request_id: String, client: String, request: &http::Request<B>) -> Self {
        Self {
            request_id,
            client,
            version: request.version(),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            start: Instant::now(),
            host: OnceLock::new(),
            session: OnceLock::new(),
            way: Mutex::default(),
            status: AtomicU16::new(0),
            first_byte: OnceLock::new(),
            last_upload: AtomicU64::new(0),
            meter: Meter::new(),
            ended: OnceLock::new(),
            first_try: OnceLock::new(),
            failure: OnceLock::new(),
        }
    }

    /// The request's id.
    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Payload bytes both ways.
    pub(crate) const fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(crate) fn routed(&self, host: &str, session: &SessionId) {
        let _first_stays = self.host.set(host.to_owned());
        let _first_stays = self.session.set(session.clone());
    }

    /// Notes the host that was asked for and is not served, as it came: it may be the reason.
    pub(crate) fn asked_for(&self, head: &Parts) {
        let field = head.headers.get(HOST).map(HeaderValue::as_bytes);
        let host = field.or_else(|| Some(head.uri.authority()?.as_str().as_bytes()));
        if let Some(host) = host {
            let asked = String::from_utf8_lossy(host.get(..HOST_BYTES).unwrap_or(host));
            let _first_stays = self.host.set(asked.into_owned());
        }
    }

    /// Notes the way that is tried now; the last one is logged.
    pub(crate) fn through(&self, way: &Arc<Way>) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(way));
    }

    /// Notes that the head of the answer is about to be sent.
    pub(crate) fn answered(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Release);
        let _first_stays = self.first_byte.set(self.start.elapsed());
    }

    /// Notes bytes of the request's body.
    pub(crate) fn uploaded(&self, bytes: usize) {
        self.meter.add_up(bytes.try_into().unwrap_or(u64::MAX));
        let now = self
            .start
            .elapsed()
            .as_millis()
            .try_into()
            .unwrap_or(u64::MAX);
        self.last_upload.store(now, Ordering::Release);
    }

    /// Notes bytes of the answer's body.
    pub(crate) fn downloaded(&self, bytes: usize) {
        self.meter.add_down(bytes.try_into().unwrap_or(u64::MAX));
    }

    /// When the request was last heard of: its start, or the last byte of its body so far.
    pub(crate) fn last_heard(&self) -> Instant {
        self.start + Duration::from_millis(self.last_upload.load(Ordering::Acquire))
    }

    /// Notes who ended the exchange; the first one to say so is believed. Nobody says so when the client goes.
    pub(crate) fn ended(&self, by: EndedBy) {
        let _first_stays = self.ended.set(by);
    }

    /// Notes why the request is sent once more.
    pub(crate) fn retried(&self, cause: String) {
        let _first_stays = self.first_try.set(cause);
    }

    /// Notes why the client did not get what it asked for.
    pub(crate) fn failed(&self, code: Code, cause: &str) {
        let _first_stays = self.failure.set((code, cause.to_owned()));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let millis = |duration: &Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let failure = self.failure.get();
        let way = self.way.get_mut().unwrap_or_else(PoisonError::into_inner);
        let way = way.as_deref();
        tracing::info!(
            target: "sallyport::access",
            request_id = %self.request_id,
            client = %self.client,
            version = ?self.version,
            method = %self.method,
            host = self.host.get(),
            path = %self.path,
            status = self.status.load(Ordering::Acquire),
            session = self.session.get().map(tracing::field::display),
            node = way.map(|way| tracing::field::display(&way.node)),
            tunnel = way.map(|way| way.tunnel),
            transport = way.map(|way| way.transport),
            up = self.meter.up(),
            down = self.meter.down(),
            first_byte_ms = self.first_byte.get().map(millis),
            total_ms = millis(&self.start.elapsed()),
            ended_by = self.ended.get().copied().unwrap_or(EndedBy::Client).word(),
            first_try = self.first_try.get(),
            code = failure.map(|(code, _)| code.word()),
            cause = failure.map(|(_, cause)| cause.as_str()),
            "request"
        );
    }
}
