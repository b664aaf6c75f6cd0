//! The gate between a client's decrypted stream and hyper.
//!
//! hyper keeps too few deadlines for the open internet and reads some requests that another parser
//! would read otherwise. The gate sees the raw bytes first: it holds a request back until its whole
//! head is there and can mean only one thing, and it ends the connection when a deadline or a
//! budget of `Limits` is used up. It needs nothing of hyper but to be polled, which hyper does
//! whenever its task wakes.

mod handle;
mod paced;
mod ended;
mod http1;
mod http2;
mod head;
mod chunked;
mod field;
mod bad;
mod farewell;
mod inbox;
mod bucket;
mod alarm;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use sallyport_splice::{Abort, Duplex};
use sallyport_wire::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

pub(crate) use alarm::Alarm;
pub use bad::Bad;
pub use ended::Ended;
pub use handle::{Exchange, Handle};
pub use head::{Framing, HeadShape, validate_head};
pub use paced::{Paced, PacedError};

use crate::client::HttpVersion;
use crate::limits::Limits;
use ended::Due;
use farewell::Farewell;
use handle::Shared;
use http1::{Brought, Http1};
use http2::Http2;

/// A client's stream with every deadline, budget and check in front of hyper.
#[derive(Debug)]
pub struct Gate<S> {
    io: S,
    reading: Reading,
    writing: Writing,
    farewell: Option<Farewell>,
    /// Hyper has ended the connection.
    shut: bool,
    /// What went wrong while the client rested; hyper is to hear of it.
    fault: Option<io::Error>,
    alarm: Alarm,
    shared: Arc<Shared>,
    limits: Arc<Limits>,
}

#[derive(Debug)]
enum Reading {
    One(Http1),
    Two(Box<Http2>),
}

/// How the client takes what we write.
#[derive(Debug)]
struct Writing {
    last: Instant,
    /// Since when it has taken nothing although there is something.
    blocked: Option<Instant>,
}

impl<S: Duplex> Gate<S> {
    /// A gate that has seen nothing yet; its first deadline starts now.
    #[must_use]
    pub fn new(io: S, http: HttpVersion, limits: &Arc<Limits>) -> (Self, Handle) {
        let now = Instant::now();
        let shared = Arc::new(Shared::new(limits, now));
        let gate = Self {
            io,
            reading: match http {
                HttpVersion::One => Reading::One(Http1::new(&shared, limits, now)),
                HttpVersion::Two => Reading::Two(Box::new(Http2::new(limits, now))),
            },
            writing: Writing {
                last: now,
                blocked: None,
            },
            farewell: None,
            shut: false,
            fault: None,
            alarm: Alarm::default(),
            shared: Arc::clone(&shared),
            limits: Arc::clone(limits),
        };
        (gate, Handle::new(shared))
    }

    /// Takes the gate away after an upgrade: the stream, and the bytes that were held back and come
    /// before anything that is read from it.
    #[must_use]
    pub fn into_parts(self) -> (S, Bytes) {
        let held = match self.reading {
            Reading::One(one) => one.into_inbox().into_bytes(),
            Reading::Two(_) => Bytes::new(),
        };
        (self.io, held)
    }

    /// Waits in hyper's place while the client asks for nothing, with the same deadlines. Ready when hyper is needed: for
    /// a request, or to end the connection.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Reading::One(one) = &mut self.reading else {
            return Poll::Ready(());
        };
        let begun = match one.poll_begun(cx, &mut self.io) {
            Poll::Pending => self.watch(cx, Poll::Pending),
            begun @ Poll::Ready(_) => begun,
        };
        if let Poll::Ready(Err(error)) = begun {
            self.fault = Some(error);
        } else if begun.is_pending() && self.farewell.is_none() {
            return Poll::Pending;
        }
        self.shared.set_quiet(false);
        Poll::Ready(())
    }

    /// Notes whether the client of HTTP/1.1 asks for nothing and has taken all that was written.
    fn note_quiet(&self) {
        let between = matches!(&self.reading, Reading::One(one) if one.is_between_requests());
        let quiet = between && self.writing.blocked.is_none() && self.farewell.is_none();
        self.shared.set_quiet(quiet && !self.shut);
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.shared.gate.register(cx.waker());
        let refusal = match &mut self.reading {
            Reading::One(one) => match ready!(one.poll_read(cx, &mut self.io, buf))? {
                Brought::Bytes => return Poll::Ready(Ok(())),
                Brought::Refusal(bad) => Ended::Refused(bad),
            },
            Reading::Two(two) => {
                let before = buf.filled().len();
                ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
                let now = Instant::now();
                let new = buf.filled().get(before..).unwrap_or_default();
                let followed = two.follow(new, &self.limits, now);
                self.shared.seen(two.requests());
                if two.should_close(now) {
                    self.shared.ask_to_close();
                }
                let Err(ended) = followed else {
                    return Poll::Ready(Ok(()));
                };
                buf.set_filled(before);
                ended
            }
        };
        self.leave(cx, refusal)
    }

    /// Ends the connection: with an answer or in silence, and with a reset where neither can be
    /// understood any more.
    fn leave<T>(&mut self, cx: &Context<'_>, why: Ended) -> Poll<io::Result<T>> {
        self.shared.end(why);
        let mid_answer = matches!(self.reading, Reading::One(_)) && self.shared.is_mid_answer();
        if why.is_abrupt() || mid_answer {
            self.io.abort(Code::ClientGone.number());
            self.farewell = Some(Farewell::aborted(Instant::now()));
            return Poll::Ready(Err(why.into()));
        }
        let last_words = match &self.reading {
            Reading::One(_) => why.answer(self.shared.refusal_id()),
            Reading::Two(two) => why.go_away(two.last_stream()),
        };
        self.farewell = Some(Farewell::new(last_words, &self.limits, Instant::now()));
        cx.waker().wake_by_ref(); // hyper flushes next, and the words go out behind its own
        Poll::Pending
    }

    /// Looks at the clock before `result` is given to hyper.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.farewell.is_some() {
            return result;
        }
        let Some(due) = self.due() else {
            return result;
        };
        if self.alarm.poll(cx, due.at).is_pending() {
            return result;
        }
        match self.leave(cx, due.why) {
            Poll::Pending => result,
            failed @ Poll::Ready(_) => failed,
        }
    }

    fn due(&mut self) -> Option<Due> {
        let stalled = self.writing.blocked.map(|since| Due {
            at: since + self.limits.write_stall,
            why: Ended::WriteStall,
        });
        let reading = match &mut self.reading {
            Reading::One(one) => one.due(self.writing.last),
            Reading::Two(two) => Some(two.due(&self.shared, &self.limits, Instant::now())),
        };
        stalled.into_iter().chain(reading).reduce(Due::earlier)
    }

    /// Goes on with the farewell, if there is one; ready when it is over.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Option<Poll<()>> {
        let farewell = self.farewell.as_mut()?;
        if farewell.is_over() || farewell.poll(&mut self.io, cx).is_ready() {
            return Some(Poll::Ready(()));
        }
        if self.alarm.poll(cx, farewell.until).is_pending() {
            return Some(Poll::Pending);
        }
        if !farewell.cut() {
            self.io.abort(Code::ClientGone.number());
        }
        Some(Poll::Ready(()))
    }

    /// Whether hyper's bytes still reach the client.
    fn is_writable(&self) -> bool {
        self.farewell.as_ref().is_none_or(Farewell::is_waiting)
    }

    fn note_write(&mut self, result: &Poll<io::Result<usize>>) {
        let now = Instant::now();
        match result {
            Poll::Ready(Ok(bytes)) => {
                self.writing = Writing {
                    last: now,
                    blocked: None,
                };
                if let Reading::Two(two) = &mut self.reading {
                    two.wrote(*bytes, now);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                self.writing.blocked.get_or_insert(now);
            }
        }
    }
}

impl<S: Duplex> AsyncRead for Gate<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        if let Some(fault) = gate.fault.take() {
            return Poll::Ready(Err(fault));
        }
        if let Some(farewell) = gate.poll_farewell(cx) {
            return farewell.map(Ok); // the end of the stream, once it is over
        }
        let result = match gate.poll_bytes(cx, buf) {
            Poll::Pending => gate.watch(cx, Poll::Pending),
            ready @ Poll::Ready(_) => ready,
        };
        gate.note_quiet();
        result
    }
}

impl<S: Duplex> AsyncWrite for Gate<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        if !gate.is_writable() {
            return Poll::Ready(Ok(bytes.len())); // nobody reads it any more
        }
        let result = Pin::new(&mut gate.io).poll_write(cx, bytes);
        gate.note_write(&result);
        if result.is_pending() {
            gate.watch(cx, result)
        } else {
            result
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        if !gate.is_writable() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let result = Pin::new(&mut gate.io).poll_write_vectored(cx, slices);
        gate.note_write(&result);
        if result.is_pending() {
            gate.watch(cx, result)
        } else {
            result
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper calls it once all its bytes are written, so this is where the gate's own may follow.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        if gate.is_writable() {
            let result = Pin::new(&mut gate.io).poll_flush(cx);
            match &result {
                Poll::Pending => {
                    gate.writing.blocked.get_or_insert_with(Instant::now);
                }
                Poll::Ready(_) => gate.writing.blocked = None,
            }
            let result = gate.watch(cx, result);
            if !matches!(result, Poll::Ready(Ok(()))) {
                return result;
            }
        }
        if let Some(farewell) = &mut gate.farewell {
            farewell.begin();
        }
        let _still_going_on = gate.poll_farewell(cx);
        gate.note_quiet();
        Poll::Ready(Ok(()))
    }

    /// A client that is in the middle of a request is given time to read the answer that came early.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        gate.shut = true;
        gate.note_quiet();
        let early = matches!(&gate.reading, Reading::One(one) if one.is_mid_request());
        if gate.farewell.is_none() && early {
            gate.farewell = Some(Farewell::new(Bytes::new(), &gate.limits, Instant::now()));
        }
        if let Some(farewell) = &mut gate.farewell {
            farewell.begin();
        }
        if let Some(farewell) = gate.poll_farewell(cx) {
            return farewell.map(Ok);
        }
        let result = Pin::new(&mut gate.io).poll_shutdown(cx);
        if result.is_pending() {
            gate.writing.blocked.get_or_insert_with(Instant::now);
        }
        gate.watch(cx, result)
    }
}

impl<S: Duplex> Duplex for Gate<S> {}

impl<S: Abort> Abort for Gate<S> {
    fn abort(&mut self, code: u32) {
        self.io.abort(code);
    }
}

#[cfg(test)]
mod tests;
