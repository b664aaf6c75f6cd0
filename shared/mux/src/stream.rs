//! One stream: bytes both ways, each way ended on its own.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::channel::{Channel, State};
use crate::shared::Shared;

/// One stream: bytes both ways, each way ended on its own.
///
/// A read ends with nothing only if the other side finished in order; all else is an error whose source is a
/// [`StreamError`](crate::StreamError). Shutdown is done once everything has left; a stream dropped before that, or
/// before the other side's end, is aborted with code 0.
pub struct Stream {
    channel: Arc<Channel>,
    shared: Arc<Shared>,
}

impl Stream {
    pub(crate) const fn new(channel: Arc<Channel>, shared: Arc<Shared>) -> Self {
        Self { channel, shared }
    }

    pub(crate) fn announce(&self) {
        if self.channel.lock().announce() {
            self.shared.schedule(&self.channel);
        }
    }

    /// Number of the stream on its connection, the same at both ends.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.channel.number
    }

    /// Gives the stream up in both directions: the other side's reads and writes fail with `code`.
    pub fn abort(&self, code: u32) {
        let after = self.channel.lock().abort(code);
        self.shared.settle(&self.channel, after);
    }

    /// Reads without a copy: moves what has arrived to `to`, at most `most` bytes, and says how many they were; none is
    /// the other side's orderly end.
    ///
    /// # Errors
    /// As reads.
    pub fn poll_take(
        &self,
        cx: &Context<'_>,
        most: usize,
        to: &mut impl Extend<Bytes>,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.channel.lock();
        let taken = ready!(state.poll_take(cx, most, to, self.shared.is_lost()))?;
        self.was_read(state, taken);
        Poll::Ready(Ok(taken))
    }

    /// Writes without a copy: takes what there is room for off the front of `piece`, and says how many bytes that were.
    ///
    /// # Errors
    /// As writes.
    pub fn poll_give(&self, cx: &Context<'_>, piece: &mut Bytes) -> Poll<io::Result<usize>> {
        let (most, lost) = (self.shared.settings.unsent, self.shared.is_lost());
        let mut state = self.channel.lock();
        let room = ready!(state.poll_room(cx, most, lost))?;
        let given = piece.split_to(room.min(piece.len()));
        let bytes = given.len();
        let schedule = state.write(given);
        drop(state);
        if schedule {
            self.shared.schedule(&self.channel);
        }
        Poll::Ready(Ok(bytes))
    }

    fn was_read(&self, mut state: MutexGuard<'_, State>, bytes: usize) {
        let schedule = state.was_read(bytes);
        drop(state);
        self.shared.sub_unread(bytes);
        if schedule {
            self.shared.schedule(&self.channel);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.channel.lock();
        let read = ready!(state.poll_read(cx, buf, self.shared.is_lost()))?;
        self.was_read(state, read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.channel.lock();
        // Looked at under the lock, for whoever loses the connection wakes those that wait by then.
        let lost = self.shared.is_lost();
        let room = ready!(state.poll_room(cx, self.shared.settings.unsent, lost))?;
        drop(state);
        let bytes = buf.get(..room).unwrap_or(buf);
        // Copied before the state is locked again; only this handle adds to the queue, so the room is still there.
        let copied = Bytes::copy_from_slice(bytes);
        if self.channel.lock().write(copied) {
            self.shared.schedule(&self.channel);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// What is written leaves by itself.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (finished, schedule) = self.channel.lock().poll_finish(cx, self.shared.is_lost());
        if schedule {
            self.shared.schedule(&self.channel);
        }
        finished
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.channel.lock();
        let mut after = state.abort(0);
        let (unread, abandoned) = state.release();
        after.schedule |= state.leave();
        if abandoned {
            self.shared.abandon(); // before the driver can forget the channel
        }
        drop(state);
        self.shared.sub_unread(unread);
        self.shared.settle(&self.channel, after);
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stream").field(&self.number()).finish()
    }
}
