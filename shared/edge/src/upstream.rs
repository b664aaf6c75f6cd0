//! Streams to sessions, and the requests on them.
//!
//! A stream belongs to one client connection, one credential and one session. It is kept for the next request of the
//! same three and closed with the client connection, so a session that loses count of its own framing can only hurt
//! the client that it lost it with.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use sallyport_ops::Tasks;
use sallyport_wire::Code;
use sallyport_wire::message::Protocol;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug};

use crate::Limits;
use crate::aborting::{Aborting, Refused};
use crate::access_log::Record;
use crate::executor::Owned;
use crate::lease::{Idle, Key, Lease, Stream};
use crate::opener::{Ask, Denial, Opener, Way};
use crate::upload::Upload;

/// Most bytes of an answer's head, and of what is buffered of a body each way on HTTP/1.1.
const BUFFER: usize = 64 * 1024;

/// Most sessions that a client connection keeps an HTTP/2 stream to; the oldest goes first.
const LINKS_MAX: usize = 16;

/// The streams of one client connection.
#[derive(Debug)]
pub(crate) struct Upstreams<O> {
    opener: Arc<O>,
    limits: Arc<Limits>,
    tasks: Tasks,
    idle: Arc<Idle>,
    links: Mutex<Vec<(Key, LinkSlot)>>,
}

type LinkSlot = Arc<tokio::sync::Mutex<Option<Link>>>;

/// The streams that a request may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// One that was kept, if there is any.
    Kept,
    /// None but its own: one that was kept has just turned out to be closed.
    Fresh,
}

/// A request that got no answer.
#[derive(Debug)]
pub(crate) struct SendError {
    pub(crate) error: hyper::Error,
    /// What the stream itself was refused with.
    pub(crate) refused: Option<Code>,
    /// Whether nothing of the request left this process.
    pub(crate) unsent: bool,
    /// Whether the stream had served another request before, so that it may just have been closed.
    pub(crate) reused: bool,
    /// The way that the stream took.
    pub(crate) way: Arc<Way>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// No stream.
    Denied(Denial),
    /// No answer on the stream.
    Send(Box<SendError>),
}

impl From<Denial> for NoAnswer {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl<O: Opener> Upstreams<O> {
    pub(crate) fn new(opener: Arc<O>, limits: Arc<Limits>, tasks: Tasks) -> Self {
        let idle = Arc::new(Idle::default());
        Self {
            opener,
            limits,
            tasks,
            idle,
            links: Mutex::default(),
        }
    }

    /// Sends a request whose head fits the session's protocol, and waits for the head of the answer.
    pub(crate) async fn send(
        &self,
        ask: &Ask,
        request: Request<Upload>,
        record: &Record,
        choice: Choice,
    ) -> Result<(Response<Incoming>, Lease), NoAnswer> {
        match ask.found.protocol {
            Protocol::H2c => Box::pin(self.send_two(ask, request, record, choice)).await,
            Protocol::Http | Protocol::Vnc | Protocol::Tcp | Protocol::Tls | Protocol::Udp => {
                self.send_one(ask, request, record, choice).await
            }
        }
    }

    /// A request has come.
    pub(crate) fn stir(&self) {
        self.idle.stir();
    }

    /// Closes streams that were not used for [`Limits::upstream_idle`], and is ready some time after a request once none
    /// is left. It wakes nobody before there is one.
    pub(crate) async fn tidy(&self) {
        let pause = (self.limits.upstream_idle / 2).max(Duration::from_millis(10));
        self.idle.stirred().await;
        loop {
            sleep(pause).await;
            self.sweep();
            if !self.keeps_any() {
                return;
            }
        }
    }

    /// Whether any stream waits for another request.
    pub(crate) fn keeps_any(&self) -> bool {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        !links.is_empty() || !self.idle.is_empty()
    }

    fn sweep(&self) {
        let since = Instant::now().checked_sub(self.limits.upstream_idle);
        let Some(since) = since else { return };
        self.idle.retain(|idle| idle.since > since);
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|(_, slot)| {
            let Ok(link) = slot.try_lock() else {
                return true;
            };
            link.as_ref()
                .is_some_and(|link| link.is_used() || link.since > since)
        });
    }

    /// Drops the kept streams that could serve a request: one of them has just turned out to be dead.
    pub(crate) fn forget(&self, ask: &Ask) {
        let key = Key::of(ask);
        self.idle.retain(|idle| idle.key != key);
    }

    async fn send_one(
        &self,
        ask: &Ask,
        request: Request<Upload>,
        record: &Record,
        choice: Choice,
    ) -> Result<(Response<Incoming>, Lease), NoAnswer> {
        let key = Key::of(ask);
        let uploaded = request.body().done();
        let kept = match choice {
            Choice::Kept => self.idle.take(&key).await,
            Choice::Fresh => None,
        };
        let (mut stream, reused) = match kept {
            Some(stream) => (stream, true),
            None => (Box::pin(self.open_one(ask, record)).await?, false),
        };
        let way = Arc::clone(&stream.way);
        record.through(&way);
        let refused = stream.refused.clone();
        let sent = stream.sender.try_send_request(request);
        // The lease is dropped before the answer that is waited for, so that the stream is aborted, not finished.
        let waiting = Waiting {
            lease: Lease::one(key, stream, uploaded, &self.idle),
            sent: Box::pin(sent),
        };
        waiting.answer().await.map_err(|error| {
            let TrySendFailure { error, unsent } = error;
            NoAnswer::Send(Box::new(SendError {
                error,
                refused: refused.code(),
                unsent,
                reused,
                way,
            }))
        })
    }

    async fn open_one(&self, ask: &Ask, record: &Record) -> Result<Stream, Denial> {
        let stream = open(&*self.opener, ask, record).await?;
        let way = self.opener.way(&stream);
        let stream = Aborting::new(stream, Code::ClientGone);
        let refused = stream.refused();
        let (sender, connection) = builder()
            .handshake::<_, Upload>(TokioIo::new(stream))
            .await
            .map_err(|error| Denial::new(Code::Internal, error.to_string()))?;
        let kill = CancellationToken::new();
        let killed = kill.clone();
        self.tasks.spawn(Span::current(), async move {
            tokio::select! {
                biased;
                () = killed.cancelled() => {}
                result = connection => {
                    if let Err(error) = result {
                        debug!(%error, "a stream to a session ended");
                    }
                }
            }
        });
        Ok(Stream {
            sender,
            kill: kill.drop_guard(),
            refused,
            way,
        })
    }

    async fn send_two(
        &self,
        ask: &Ask,
        request: Request<Upload>,
        record: &Record,
        choice: Choice,
    ) -> Result<(Response<Incoming>, Lease), NoAnswer> {
        let (mut link, reused) = self.link(ask, record, choice).await?;
        record.through(&link.way);
        let active = Arc::clone(&link.active);
        let uploaded = request.body().done();
        link.sender
            .try_send_request(request)
            .await
            .map(|answer| (answer, Lease::two(active, uploaded)))
            .map_err(|failed| {
                let TrySendFailure { error, unsent } = failed.into();
                NoAnswer::Send(Box::new(SendError {
                    error,
                    refused: link.refused.code(),
                    unsent,
                    reused,
                    way: link.way,
                }))
            })
    }

    /// The one HTTP/2 connection of this client connection to a session.
    async fn link(
        &self,
        ask: &Ask,
        record: &Record,
        choice: Choice,
    ) -> Result<(Link, bool), Denial> {
        let slot = self.slot(Key::of(ask));
        let mut slot = slot.lock().await;
        let usable = |link: &&mut Link| choice == Choice::Kept && !link.sender.is_closed();
        if let Some(link) = slot.as_mut().filter(usable) {
            link.since = Instant::now();
            return Ok((link.clone(), true));
        }
        let link = self.open_two(ask, record).await?;
        *slot = Some(link.clone());
        Ok((link, false))
    }

    fn slot(&self, key: Key) -> LinkSlot {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, slot)) = links.iter().find(|(held, _)| *held == key) {
            return Arc::clone(slot);
        }
        if links.len() >= LINKS_MAX {
            // Its requests go on; only new ones need a new stream.
            links.remove(0);
        }
        let slot = LinkSlot::default();
        links.push((key, Arc::clone(&slot)));
        self.idle.stir();
        slot
    }

    async fn open_two(&self, ask: &Ask, record: &Record) -> Result<Link, Denial> {
        let stream = open(&*self.opener, ask, record).await?;
        let way = self.opener.way(&stream);
        let stream = Aborting::new(stream, Code::ClientGone);
        let refused = stream.refused();
        let (sender, connection) = http2::Builder::new(Owned(self.tasks.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(self.limits.h2_stream_window)
            .initial_connection_window_size(self.limits.h2_connection_window)
            .max_send_buf_size(self.limits.h2_send_buffer)
            .max_header_list_size(u32::try_from(BUFFER).unwrap_or(u32::MAX))
            .handshake::<_, Upload>(TokioIo::new(stream))
            .await
            .map_err(|error| {
                Denial::new(
                    refused.code().unwrap_or(Code::SessionRefused),
                    error.to_string(),
                )
            })?;
        self.tasks.spawn(Span::current(), async move {
            if let Err(error) = connection.await {
                debug!(%error, "an HTTP/2 stream to a session ended");
            }
        });
        Ok(Link {
            sender,
            active: Arc::default(),
            since: Instant::now(),
            refused,
            way,
        })
    }
}

impl<O> Drop for Upstreams<O> {
    fn drop(&mut self) {
        self.idle.retain(|_| false);
    }
}

/// An HTTP/2 connection over a stream; hyper resets its requests one by one.
#[derive(Debug, Clone)]
struct Link {
    sender: http2::SendRequest<Upload>,
    active: Arc<()>,
    since: Instant,
    refused: Refused,
    way: Arc<Way>,
}

impl Link {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.active) > 1
    }
}

/// Opens a stream, and notes the way that failed if there is none. Whoever uses the stream notes its way.
pub(crate) async fn open<O: Opener>(
    opener: &O,
    ask: &Ask,
    record: &Record,
) -> Result<O::Stream, Denial> {
    opener.open(ask).await.inspect_err(|denial| {
        if let Some(way) = &denial.way {
            record.through(way);
        }
    })
}

/// HTTP/1.1 towards a session; at most 100 fields in an answer's head, which is what hyper does best.
pub(crate) fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BUFFER).max_header_size(BUFFER);
    builder
}

/// A request whose answer is waited for.
struct Waiting<F> {
    lease: Lease,
    sent: std::pin::Pin<Box<F>>,
}

impl<F> Waiting<F>
where
    F: Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>>,
{
    async fn answer(mut self) -> Result<(Response<Incoming>, Lease), TrySendFailure> {
        let answer = self.sent.as_mut().await?;
        Ok((answer, self.lease))
    }
}

struct TrySendFailure {
    error: hyper::Error,
    unsent: bool,
}

impl From<TrySendError<Request<Upload>>> for TrySendFailure {
    fn from(mut failed: TrySendError<Request<Upload>>) -> Self {
        let unsent = failed.take_message().is_some();
        Self {
            error: failed.into_error(),
            unsent,
        }
    }
}
