//! Bytes that arrived over QUIC and that nobody reads.
//!
//! QUIC has one window for all streams of a connection (RFC 9000 §4.1), so a few streams that are not read would hold up
//! all others, the control stream among them. While there are enough streams for that, what waits in them is taken out of
//! the window now and then; if it is too much, the stream that is read least goes, as it does over TLS.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn::{ReadError, VarInt};
use sallyport_splice::Pieces;
use sallyport_wire::Code;
use tokio::io::ReadBuf;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::settings::Settings;

/// What waits is looked at this often: nobody is held up for longer.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The receiving halves of a tunnel's streams, by their numbers. There are never more than streams.
#[derive(Debug)]
pub(crate) struct Unread {
    inboxes: Mutex<HashMap<u64, Arc<Inbox>>>,
    /// So many streams can fill the connection's window.
    enough: usize,
    /// Bytes that may wait altogether.
    most: usize,
    grown: Notify,
}

impl Unread {
    pub(crate) fn new(settings: &Settings) -> Self {
        let enough = settings.quic_window / settings.quic_stream_window.max(1);
        Self {
            inboxes: Mutex::default(),
            enough: usize::try_from(enough).unwrap_or(usize::MAX),
            most: settings.unread,
            grown: Notify::new(),
        }
    }

    /// Takes a stream's receiving half in.
    pub(crate) fn add(&self, number: u64, recv: quinn::RecvStream) -> Arc<Inbox> {
        let inbox = Arc::new(Inbox(Mutex::new(State {
            recv,
            kept: Pieces::new(),
            waiting: false,
            given_up: false,
        })));
        let mut inboxes = self.lock();
        inboxes.insert(number, Arc::clone(&inbox));
        if inboxes.len() >= self.enough {
            self.grown.notify_one();
        }
        inbox
    }

    pub(crate) fn remove(&self, number: u64) {
        self.lock().remove(&number);
    }

    /// Waits until it is time to look.
    pub(crate) async fn due(&self) {
        while self.lock().len() < self.enough {
            self.grown.notified().await;
        }
        sleep(LOOK_EVERY).await;
    }

    /// Takes what waits out of the window, and gives up streams until the rest is not too much.
    pub(crate) fn look(&self) {
        let inboxes: Vec<_> = self.lock().values().cloned().collect();
        let mut waiting = Vec::new();
        for inbox in inboxes {
            let bytes = inbox.lock().take_out(self.most);
            if bytes > 0 {
                waiting.push((bytes, inbox));
            }
        }
        waiting.sort_by_key(|(bytes, _)| *bytes);
        let mut all: usize = waiting.iter().map(|(bytes, _)| bytes).sum();
        while all > self.most
            && let Some((bytes, inbox)) = waiting.pop()
        {
            tracing::debug!(bytes, "a stream that nobody reads is given up");
            inbox.lock().give_up();
            all -= bytes;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Inbox>>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiving half of one stream.
#[derive(Debug)]
pub(crate) struct Inbox(Mutex<State>);

#[derive(Debug)]
struct State {
    recv: quinn::RecvStream,
    /// What was taken out of the window before anybody read it.
    kept: Pieces,
    /// Whether a reader waits, so that nothing is there.
    waiting: bool,
    given_up: bool,
}

/// Why nothing can be read.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// The stream or its connection failed.
    Failed(ReadError),
    /// Too much was not read.
    GivenUp,
}

impl Inbox {
    /// Reads; nothing read means that the other side finished in order.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Unreadable>> {
        let mut state = self.lock();
        if state.given_up {
            return Poll::Ready(Err(Unreadable::GivenUp));
        }
        if state.kept.read(buf) > 0 {
            return Poll::Ready(Ok(()));
        }
        let read = state.recv.poll_read_buf(cx, buf);
        state.waiting = read.is_pending();
        read.map_err(Unreadable::Failed)
    }

    /// Wants no more; the other side is told why.
    pub(crate) fn stop(&self, code: VarInt) {
        drop(self.lock().recv.stop(code)); // fails only if it ended by itself
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Keeps what has arrived; says how much is kept now, and stops once that is more than `most`.
    fn take_out(&mut self, most: usize) -> usize {
        // A reader that waits must stay the one that is woken.
        let mut nobody = Context::from_waker(Waker::noop());
        while !self.waiting && !self.given_up && self.kept.len() <= most {
            let next = pin!(self.recv.read_chunk(usize::MAX, true)).poll(&mut nobody);
            let Poll::Ready(Ok(Some(chunk))) = next else {
                break; // an end or a failure shows again when it is read
            };
            self.kept.push(chunk.bytes);
        }
        self.kept.len()
    }

    fn give_up(&mut self) {
        self.kept = Pieces::new();
        self.given_up = true;
        drop(self.recv.stop(VarInt::from_u32(Code::Limit.number())));
    }
}
