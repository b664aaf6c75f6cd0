//! One stream of a tunnel: head and answer in front, then bytes.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use sallyport_splice::{Abort, Duplex, Pieces};
use sallyport_wire::message::{Answer, Head, Refused};
use sallyport_wire::{Code, FrameError, MAX_HEAD, Refusal, frame};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::account::Account;
use crate::raw::Raw;

/// Read at once while a head or an answer is awaited.
const CHUNK: usize = 2 * 1024;

/// Payload that is copied to travel with an unsent head or answer.
const TOGETHER: usize = 16 * 1024;

/// A refusal must leave within this time; the stream is dropped with it.
const REFUSE_WITHIN: Duration = Duration::from_secs(5);

/// A stream that the other side opened, before its head is read.
pub struct Incoming {
    raw: Raw,
    place: OwnedSemaphorePermit,
    account: Option<Account>,
}

impl Incoming {
    pub(crate) const fn new(
        raw: Raw,
        place: OwnedSemaphorePermit,
        account: Option<Account>,
    ) -> Self {
        Self {
            raw,
            place,
            account,
        }
    }

    /// Reads the head, in the stream's own task.
    ///
    /// # Errors
    /// If no well-formed head arrives within `deadline`; the stream is reset then.
    pub async fn head(self, deadline: Duration) -> io::Result<(Head, TunnelStream)> {
        let mut stream = TunnelStream::new(self.raw, Turn::Ours, self.place, self.account);
        let head = std::future::poll_fn(|cx| stream.poll_message::<Head>(cx));
        match timeout(deadline, head).await {
            Ok(Ok(head)) => Ok((head, stream)),
            Ok(Err(error)) => {
                stream.abort(Code::Protocol);
                Err(error)
            }
            Err(_elapsed) => {
                stream.abort(Code::TooSlow);
                Err(Refusal(Code::TooSlow).into())
            }
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Incoming").field(&self.raw.number()).finish()
    }
}

/// Whose turn it is to answer the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The other side has not answered yet.
    Theirs,
    /// We have not answered yet.
    Ours,
    /// The stream is taken.
    Done,
    /// The other side refused.
    Refused(Code),
}

/// One stream of a tunnel: bytes both ways, each way closed on its own.
///
/// A read ends with `Ok(0)` only if the other side finished in order. An abort, a lost tunnel and a refusal are
/// errors that carry a [`sallyport_wire::Refusal`]. A stream dropped before it was shut down is aborted.
pub struct TunnelStream {
    raw: Raw,
    turn: Turn,
    /// A head or an answer that waits for company.
    unsent: Bytes,
    /// Bytes read behind a head or an answer.
    early: BytesMut,
    /// Set once the other side has taken the stream.
    taken: Option<Arc<AtomicBool>>,
    /// Payload both ways, where both sides tell what they have taken.
    account: Option<Account>,
    _place: OwnedSemaphorePermit,
}

impl TunnelStream {
    fn new(raw: Raw, turn: Turn, place: OwnedSemaphorePermit, account: Option<Account>) -> Self {
        Self {
            raw,
            turn,
            unsent: Bytes::new(),
            early: BytesMut::new(),
            taken: None,
            account,
            _place: place,
        }
    }

    /// A stream of ours, whose head waits for the first bytes.
    pub(crate) fn opened(
        raw: Raw,
        head: Bytes,
        place: OwnedSemaphorePermit,
        account: Option<Account>,
    ) -> Self {
        Self {
            unsent: head,
            ..Self::new(raw, Turn::Theirs, place, account)
        }
    }

    /// Number of the stream in its tunnel, the same at both ends.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.raw.number()
    }

    /// For the side that did not open: the stream is taken. The answer leaves with the next write, flush or read;
    /// a write without it implies it.
    pub fn accept(&mut self) {
        if self.turn == Turn::Ours {
            self.turn = Turn::Done;
            self.unsent = encode(&Answer { refused: None });
        }
    }

    /// For the side that did not open: the stream is refused, and ends.
    pub async fn refuse(mut self, code: Code) {
        if self.turn == Turn::Ours {
            self.turn = Turn::Done;
            let refused = Some(Refused {
                code: code.number(),
                retry_after_ms: 0,
            });
            self.unsent = encode(&Answer { refused });
            if !matches!(timeout(REFUSE_WITHIN, self.shutdown()).await, Ok(Ok(()))) {
                tracing::trace!("a refusal did not leave");
            }
        }
        self.abort(code);
    }

    /// For the side that opened: waits until the other side has taken the stream.
    ///
    /// # Errors
    /// The refusal, or the loss of the stream.
    pub async fn answered(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            self.push(cx);
            self.poll_answer(cx)
        })
        .await
    }

    /// Whether the other side has taken the stream, as far as was read.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.turn == Turn::Done
    }

    /// Bytes written here that the other side's reader has taken, as far as it has told: never more than it has, less by
    /// [`Settings::ack_every`](crate::Settings::ack_every) and what is under way at most, and all once it has read to the
    /// end. `None` on a tunnel whose sides did not both name [`ACK`](sallyport_wire::message::ACK).
    #[must_use]
    pub fn taken(&self) -> Option<u64> {
        self.account.as_ref().map(Account::taken)
    }

    /// Gives the stream up in both directions: the other side's reads and writes fail with `code`.
    pub fn abort(&mut self, code: Code) {
        self.raw.abort(code);
    }

    /// The flag is set once the other side has taken the stream.
    pub(crate) fn tell_when_taken(&mut self, taken: Arc<AtomicBool>) {
        if self.turn == Turn::Done {
            taken.store(true, Ordering::Release);
        }
        self.taken = Some(taken);
    }

    /// Sends what waits, as far as it goes now. Its failure shows at the next read or write.
    fn push(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(error)) = self.poll_unsent(cx) {
            tracing::trace!(%error, "a head or an answer did not leave");
        }
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = ready!(self.raw.poll_write(cx, &self.unsent))?;
            self.unsent.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the head or answer and the first of `buf` in one write.
    fn poll_write_together(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let payload = buf.len().min(TOGETHER.saturating_sub(self.unsent.len()));
        let mut joined = BytesMut::with_capacity(self.unsent.len() + payload);
        joined.extend_from_slice(&self.unsent);
        joined.extend_from_slice(buf.get(..payload).unwrap_or_default());
        let written = ready!(self.raw.poll_write(cx, &joined))?;
        let ahead = written.min(self.unsent.len());
        self.unsent.advance(ahead);
        Poll::Ready(Ok(written - ahead))
    }

    /// Sends some of `buf`, behind whatever waits.
    fn poll_send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.refusal()?;
        self.accept();
        while !self.unsent.is_empty() {
            let written = ready!(self.poll_write_together(cx, buf))?;
            if written > 0 || buf.is_empty() {
                return Poll::Ready(Ok(written));
            }
        }
        self.raw.poll_write(cx, buf)
    }

    /// Reads what comes behind a head or an answer.
    fn poll_payload(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.push(cx);
        ready!(self.poll_answer(cx))?;
        if self.early.is_empty() {
            return self.raw.poll_read(cx, buf);
        }
        let ready = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early.split_to(ready));
        if self.early.is_empty() {
            self.early = BytesMut::new(); // gives the memory back
        }
        Poll::Ready(Ok(()))
    }

    /// The same without a copy; `None` if it must be read.
    fn poll_pieces(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        to: &mut Pieces,
    ) -> Option<Poll<io::Result<usize>>> {
        self.push(cx);
        match self.poll_answer(cx) {
            Poll::Ready(Ok(())) if self.early.is_empty() => self.raw.poll_take(cx, most, to),
            Poll::Ready(Ok(())) => {
                let early = std::mem::take(&mut self.early).freeze();
                let bytes = early.len();
                to.push(early);
                Some(Poll::Ready(Ok(bytes)))
            }
            Poll::Ready(Err(error)) => Some(Poll::Ready(Err(error))),
            Poll::Pending => Some(Poll::Pending),
        }
    }

    fn was_read(&mut self, bytes: usize) {
        if let Some(account) = &mut self.account {
            account.was_read(bytes);
        }
    }

    fn was_sent(&mut self, bytes: usize) {
        if let Some(account) = &mut self.account {
            account.was_sent(bytes);
        }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.turn == Turn::Theirs {
            let answer = ready!(self.poll_message::<Answer>(cx))?;
            self.turn = match answer.refused {
                Some(refused) => Turn::Refused(Code::from_number(refused.code)),
                None => Turn::Done,
            };
            if let (Turn::Done, Some(taken)) = (self.turn, &self.taken) {
                taken.store(true, Ordering::Release);
            }
        }
        Poll::Ready(self.refusal())
    }

    fn refusal(&self) -> io::Result<()> {
        match self.turn {
            Turn::Refused(code) => Err(Refusal(code).into()),
            Turn::Theirs | Turn::Ours | Turn::Done => Ok(()),
        }
    }

    /// Reads one message; bytes behind it are kept.
    fn poll_message<M: Message + Default>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<M>> {
        loop {
            match frame::decode::<M>(&mut self.early, MAX_HEAD) {
                Ok(Some(message)) => return Poll::Ready(Ok(message)),
                Ok(None) => {}
                Err(FrameError::TooLong { .. } | FrameError::Malformed(_)) => {
                    return Poll::Ready(Err(Refusal(Code::Protocol).into()));
                }
            }
            let mut chunk = [0; CHUNK];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(self.raw.poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Err(Refusal(Code::Protocol).into()));
            }
            self.early.extend_from_slice(chunk.filled());
        }
    }
}

/// An answer is a few bytes and always fits.
fn encode(answer: &Answer) -> Bytes {
    frame::encode(answer, MAX_HEAD).unwrap_or_default()
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (wanted, before) = (buf.remaining(), buf.filled().len());
        ready!(self.poll_payload(cx, buf))?;
        if wanted > 0 {
            self.was_read(buf.filled().len() - before);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.poll_send(cx, buf))?;
        self.was_sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unsent(cx) // what is written leaves by itself
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.accept();
        ready!(self.poll_unsent(cx))?;
        self.raw.poll_finish(cx)
    }
}

impl Duplex for TunnelStream {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        to: &mut Pieces,
    ) -> Option<Poll<io::Result<usize>>> {
        let taken = self.poll_pieces(cx, most, to)?;
        if let Poll::Ready(Ok(bytes)) = taken {
            self.was_read(bytes);
        }
        Some(taken)
    }

    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Bytes,
    ) -> Option<Poll<io::Result<usize>>> {
        if self.unsent.is_empty() && matches!(self.turn, Turn::Theirs | Turn::Done) {
            let given = self.raw.poll_give(cx, piece);
            if let Poll::Ready(Ok(bytes)) = given {
                self.was_sent(bytes);
            }
            return Some(given);
        }
        let written = Pin::new(self).poll_write(cx, piece);
        if let Poll::Ready(Ok(bytes)) = written {
            piece.advance(bytes);
        }
        Some(written)
    }
}

impl Abort for TunnelStream {
    fn abort(&mut self, code: u32) {
        Self::abort(self, Code::from_number(code));
    }
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream")
            .field("number", &self.number())
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}
