//! A stream whose bytes are counted where no splice counts them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use sallyport_splice::{Abort, Duplex, Entry};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream to a session that counts in the ledger, where it stays listed until the last of its connection's
/// streams is gone.
pub(super) struct Metered<S> {
    inner: S,
    entry: Arc<Entry>,
}

impl<S> Metered<S> {
    pub(super) const fn new(inner: S, entry: Arc<Entry>) -> Self {
        Self { inner, entry }
    }

    fn sent(&self, amount: usize) {
        self.entry
            .meter()
            .add_up(u64::try_from(amount).unwrap_or(u64::MAX));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let amount = buf.filled().len().saturating_sub(before);
        self.entry
            .meter()
            .add_down(u64::try_from(amount).unwrap_or(u64::MAX));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let amount = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.sent(amount);
        Poll::Ready(Ok(amount))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let amount = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, slices))?;
        self.sent(amount);
        Poll::Ready(Ok(amount))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<S: Duplex> Duplex for Metered<S> {}

impl<S: Abort> Abort for Metered<S> {
    fn abort(&mut self, code: u32) {
        self.inner.abort(code);
    }
}
