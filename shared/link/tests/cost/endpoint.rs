//! A client or a session that has all its bytes at once, takes all at once, and holds no memory for either.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use sallyport_splice::{Abort, Duplex};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Sends so many bytes, and counts what comes.
#[derive(Debug)]
pub(crate) struct Endpoint {
    to_send: usize,
    pub(crate) got: usize,
    pub(crate) aborted: bool,
}

impl Endpoint {
    pub(crate) const fn with(to_send: usize) -> Self {
        Self {
            to_send,
            got: 0,
            aborted: false,
        }
    }
}

impl AsyncRead for Endpoint {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = buf.remaining().min(self.to_send);
        buf.initialize_unfilled_to(bytes);
        buf.advance(bytes);
        self.to_send -= bytes;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endpoint {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.got += buf.len();
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Abort for Endpoint {
    fn abort(&mut self, _code: u32) {
        self.aborted = true;
    }
}

impl Duplex for Endpoint {}
