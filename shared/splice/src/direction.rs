//! One direction of a stream: from a source to a sink until the source has ended.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::bare::Bare;
use crate::buffers::{Buffer, Loan, Pool, Size};
use crate::pieces::SLICES;
use crate::pipe::{self, Pipe};
use crate::{Duplex, Pieces};

/// Bytes that one direction may move before the other one, and other tasks, get their turn.
const TURN: usize = 512 * 1_024;

/// What went wrong, and on which end.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The source broke off.
    Read(io::Error),
    /// The sink did not take its bytes.
    Write(io::Error),
}

/// Moves bytes one way. It holds memory only while there are bytes that the sink has not taken.
#[derive(Debug)]
pub(crate) struct Direction<'r> {
    pool: &'static Pool,
    count: &'r AtomicU64,
    size: Size,
    held: Pieces,
    /// For pieces that are not in buffers of the pool.
    loan: Option<Loan>,
    pipe: Option<Pipe>,
    source: Source,
    sink: Sink,
    activity: u64,
    written: u64,
}

#[derive(Debug)]
enum Source {
    Open,
    Ended,
    /// Broken off; told only when the sink has what came before.
    Lost(io::Error),
}

#[derive(Debug)]
enum Sink {
    /// It has taken and flushed everything so far.
    Ready,
    /// It holds bytes that were not flushed.
    Unflushed,
    /// It was offered something and has not taken it.
    Blocked,
    /// It takes no more, while the source may still be sending.
    Refused(io::Error),
    /// It knows that there is no more, or need not be told.
    Closed,
}

impl<'r> Direction<'r> {
    pub(crate) const fn new(pool: &'static Pool, count: &'r AtomicU64) -> Self {
        Self {
            pool,
            count,
            size: Size::Small,
            held: Pieces::new(),
            loan: None,
            pipe: None,
            source: Source::Open,
            sink: Sink::Ready,
            activity: 0,
            written: 0,
        }
    }

    /// Bytes that the sink has taken.
    pub(crate) const fn written(&self) -> u64 {
        self.written
    }

    /// Grows with every byte that comes in or goes out.
    pub(crate) const fn activity(&self) -> u64 {
        self.activity
    }

    /// Whether the sink has not taken what it was offered at the last turn.
    pub(crate) const fn is_blocked(&self) -> bool {
        matches!(self.sink, Sink::Blocked)
    }

    /// Whether the source has said that it is done.
    pub(crate) const fn has_ended(&self) -> bool {
        matches!(self.source, Source::Ended)
    }

    /// Whether the sink takes no more, see [`Direction::refuse`].
    pub(crate) const fn is_refused(&self) -> bool {
        matches!(self.sink, Sink::Refused(_))
    }

    /// Whether nothing remains to be done.
    pub(crate) const fn is_done(&self) -> bool {
        matches!(self.sink, Sink::Closed) || (self.is_refused() && self.has_ended())
    }

    /// From now on what the source sends is read and thrown away, so that its end is still seen.
    pub(crate) fn refuse(&mut self, why: io::Error) {
        self.let_go();
        self.pipe = None;
        self.sink = Sink::Refused(why);
    }

    /// Why the sink took no more, if it did not.
    pub(crate) fn into_refusal(self) -> Option<io::Error> {
        match self.sink {
            Sink::Refused(why) => Some(why),
            Sink::Ready | Sink::Unflushed | Sink::Blocked | Sink::Closed => None,
        }
    }

    /// Moves what can be moved now; ready when this direction is done.
    pub(crate) fn poll<S, T>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut T,
    ) -> Poll<Result<(), Fault>>
    where
        S: Duplex + Bare,
        T: Duplex + Bare,
    {
        let mut moved = 0;
        while !self.is_done() {
            ready!(self.poll_drain(cx, sink))?;
            ready!(self.poll_deliver(cx, sink))?;
            if !matches!(self.source, Source::Open) {
                return self.poll_finish(cx, sink);
            }
            if moved >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.poll_take(cx, source, sink) {
                Poll::Ready(came) => moved += came,
                Poll::Pending => {
                    ready!(self.poll_flush(cx, sink))?;
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the pipe is empty.
    fn poll_drain<T: Bare>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut T,
    ) -> Poll<Result<(), Fault>> {
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.is_empty()) {
            let Some(to) = sink.sink() else {
                let lost = io::Error::other("a socket was changed under its pipe");
                return Poll::Ready(Err(Fault::Write(lost)));
            };
            let Poll::Ready(gone) = pipe.poll_drain(cx, to) else {
                self.sink = Sink::Blocked;
                return Poll::Pending;
            };
            let gone = gone.map_err(Fault::Write)?;
            self.sink = Sink::Unflushed;
            sink.given(gone);
            self.count_written(gone as u64);
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the sink has all.
    fn poll_deliver<T: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut T,
    ) -> Poll<Result<(), Fault>> {
        if self.is_refused() {
            self.let_go();
        }
        while !self.held.is_empty() {
            let Poll::Ready(taken) = self.poll_hand_over(cx, sink) else {
                self.sink = Sink::Blocked;
                return Poll::Pending;
            };
            self.sink = Sink::Unflushed;
            let taken = taken.map_err(Fault::Write)?;
            if taken == 0 {
                return Poll::Ready(Err(Fault::Write(io::ErrorKind::WriteZero.into())));
            }
            self.count_written(taken as u64);
        }
        self.loan = None;
        Poll::Ready(Ok(()))
    }

    /// Lets the sink take what it takes at once, and says how many bytes that were.
    fn poll_hand_over<T: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut T,
    ) -> Poll<io::Result<usize>> {
        let given = self.held.with_first(|first| sink.poll_give(cx, first));
        if let Some(given) = given.flatten() {
            return given;
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let slices = self.held.slices(&mut slices);
        let written = match slices {
            [first, _, ..] if !sink.is_write_vectored() => {
                ready!(Pin::new(sink).poll_write(cx, first))?
            }
            [only] => ready!(Pin::new(sink).poll_write(cx, only))?,
            several => ready!(Pin::new(sink).poll_write_vectored(cx, several))?,
        };
        self.held.advance(written);
        Poll::Ready(Ok(written))
    }

    fn let_go(&mut self) {
        self.held = Pieces::new();
        self.loan = None;
    }

    fn count_written(&mut self, bytes: u64) {
        self.written += bytes;
        self.activity += bytes;
        self.count.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes what the source has: into a pipe where both ends are sockets, else into a buffer.
    fn poll_take<S, T>(&mut self, cx: &mut Context<'_>, source: &mut S, sink: &mut T) -> Poll<usize>
    where
        S: Duplex + Bare,
        T: Bare,
    {
        sink.settle(cx);
        if let Some(piped) = self.poll_pipe(cx, source, sink) {
            return piped;
        }
        self.poll_fill(cx, source)
    }

    /// Nothing if the bytes have to be copied, or the socket has ended: then a read says what that means.
    fn poll_pipe<S: Bare, T: Bare>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &T,
    ) -> Option<Poll<usize>> {
        // Whatever leaves here early gives the pipe back, which is empty.
        let pipe = self.pipe.take();
        let _to = sink.sink().filter(|_| !self.is_refused())?;
        let from = source.source()?;
        let mut pipe = pipe.or_else(pipe::take)?;
        match pipe.poll_fill(cx, from) {
            Poll::Pending => Some(Poll::Pending),
            Poll::Ready(Ok(0)) => {
                source.taken(0);
                None
            }
            Poll::Ready(Ok(came)) => {
                source.taken(came);
                self.activity += came as u64;
                self.pipe = Some(pipe);
                Some(Poll::Ready(came))
            }
            Poll::Ready(Err(lost)) => {
                self.source = Source::Lost(lost);
                Some(Poll::Ready(0))
            }
        }
    }

    /// Takes what is there, up to a buffer full, so that the sink gets few, large writes. Pending when there was nothing
    /// at all, and then nothing is held.
    fn poll_fill<S: Duplex>(&mut self, cx: &mut Context<'_>, source: &mut S) -> Poll<usize> {
        let loan = self.pool.lend(self.size);
        let came = match source.poll_take(cx, loan.size().bytes(), &mut self.held) {
            Some(taken) => self.note_taken(taken, loan),
            None => self.read(cx, source, loan.buffer()),
        };
        if came == 0 && matches!(self.source, Source::Open) {
            return Poll::Pending;
        }
        self.activity += came as u64;
        Poll::Ready(came)
    }

    /// The source has handed over what it held.
    fn note_taken(&mut self, taken: Poll<io::Result<usize>>, loan: Loan) -> usize {
        match taken {
            Poll::Ready(Ok(0)) => self.source = Source::Ended,
            Poll::Ready(Ok(came)) => {
                self.size = loan.size().after(came);
                self.loan = Some(loan);
                return came;
            }
            Poll::Ready(Err(lost)) => self.source = Source::Lost(lost),
            Poll::Pending => {}
        }
        0
    }

    /// Reads until the buffer is full or nothing more is there.
    fn read<S: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        mut buffer: Buffer,
    ) -> usize {
        while !buffer.is_full() {
            let (result, came) = buffer.fill(|spare| Pin::new(&mut *source).poll_read(cx, spare));
            match result {
                Poll::Ready(Ok(())) if came > 0 => continue,
                Poll::Ready(Ok(())) => self.source = Source::Ended,
                Poll::Ready(Err(lost)) => self.source = Source::Lost(lost),
                Poll::Pending => {}
            }
            break;
        }
        let filled = buffer.filled();
        if filled > 0 {
            self.size = buffer.size().after(filled);
            self.held.push(buffer.into());
        }
        filled
    }

    fn poll_flush<T: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut T,
    ) -> Poll<Result<(), Fault>> {
        if !matches!(self.sink, Sink::Unflushed | Sink::Blocked) {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(sink).poll_flush(cx);
        self.sink = if flushed.is_pending() {
            Sink::Blocked
        } else {
            Sink::Ready
        };
        flushed.map_err(Fault::Write)
    }

    /// Tells the sink that the source has ended, or the caller that it was lost.
    fn poll_finish<T: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut T,
    ) -> Poll<Result<(), Fault>> {
        if matches!(self.source, Source::Lost(_)) {
            ready!(self.poll_flush(cx, sink))?;
        }
        match std::mem::replace(&mut self.source, Source::Ended) {
            Source::Lost(lost) => return Poll::Ready(Err(Fault::Read(lost))),
            Source::Open | Source::Ended => {}
        }
        if self.is_refused() {
            return Poll::Ready(Ok(()));
        }
        if Pin::new(sink).poll_shutdown(cx).is_pending() {
            self.sink = Sink::Blocked;
            return Poll::Pending;
        }
        // A sink that failed here had taken every byte before. Whether its side ended in order is
        // for the other direction to tell, which reads from it.
        self.sink = Sink::Closed;
        Poll::Ready(Ok(()))
    }
}
