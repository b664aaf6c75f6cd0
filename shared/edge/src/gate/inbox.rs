//! Bytes of the client that hyper may not see yet.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

/// Space for one read; on the stack, so that a connection that waits owns no buffer.
pub(super) const PIECE: [MaybeUninit<u8>; 4_096] = [MaybeUninit::uninit(); 4_096];

/// What was read and is held back.
#[derive(Debug, Default)]
pub(super) struct Inbox(BytesMut);

impl Inbox {
    /// Reads at most one piece more; gives its length, 0 at the end of the stream.
    pub(super) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut space = PIECE;
        let mut piece = ReadBuf::uninit(&mut space);
        ready!(Pin::new(io).poll_read(cx, &mut piece))?;
        self.0.extend_from_slice(piece.filled());
        Poll::Ready(Ok(piece.filled().len()))
    }

    /// Gives as much as fits, at most `most`; tells how much that was.
    pub(super) fn give(&mut self, buf: &mut ReadBuf<'_>, most: usize) -> usize {
        let amount = self.0.len().min(most).min(buf.remaining());
        buf.put_slice(self.0.get(..amount).unwrap_or_default());
        self.skip(amount);
        amount
    }

    /// Takes back what `buf` has beyond `kept`.
    pub(super) fn take_back(&mut self, buf: &mut ReadBuf<'_>, kept: usize) {
        self.0
            .extend_from_slice(buf.filled().get(kept..).unwrap_or_default());
        buf.set_filled(kept.min(buf.filled().len()));
    }

    pub(super) fn skip(&mut self, amount: usize) {
        self.0.advance(amount.min(self.0.len()));
        if self.0.is_empty() {
            self.0 = BytesMut::new(); // an idle connection keeps no memory
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.0.freeze()
    }
}
