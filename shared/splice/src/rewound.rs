//! A stream whose first bytes were read already and are given back.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Abort;

/// Reads `first`, then goes on with the inner stream; writes go straight through.
#[derive(Debug)]
pub struct Rewound<S> {
    first: Bytes,
    inner: S,
}

impl<S> Rewound<S> {
    /// Puts `first` back in front of `inner`. The memory behind it is let go of once it is empty, which it may be.
    pub fn new(first: Bytes, inner: S) -> Self {
        let first = if first.is_empty() {
            Bytes::new()
        } else {
            first
        };
        Self { first, inner }
    }

    /// The stream below.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The stream below; what is still to be read again stays in front.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Whether everything that was given back has been read again.
    pub const fn is_at_end(&self) -> bool {
        self.first.is_empty()
    }

    /// What was not yet read again, and the stream below.
    pub fn into_parts(self) -> (Bytes, S) {
        (self.first, self.inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let amount = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.split_to(amount));
        if !self.first.has_remaining() {
            self.first = Bytes::new(); // lets go of the memory behind it
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
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
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<S: Abort> Abort for Rewound<S> {
    fn abort(&mut self, code: u32) {
        self.inner.abort(code);
    }
}
