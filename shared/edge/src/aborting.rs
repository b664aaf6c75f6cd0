//! A stream that nobody can end in order by accident.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use sallyport_splice::{Abort, Duplex, Pieces};
use sallyport_wire::{Code, Refusal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Aborts its stream when dropped, unless it was shut down or taken back before. So an exchange that is cut off in the
/// middle, by an error or by a future that is dropped, never looks finished to the other side.
#[derive(Debug)]
pub(crate) struct Aborting<S: Abort> {
    inner: Option<S>,
    code: Code,
    ended: bool,
    refused: Refused,
}

/// The refusal that a stream's reads or writes failed with, if any; shared with those who see only errors of hyper.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused(Arc<AtomicU32>);

impl Refused {
    /// The code of the refusal.
    pub(crate) fn code(&self) -> Option<Code> {
        self.0
            .load(Ordering::Acquire)
            .checked_sub(1)
            .map(Code::from_number)
    }

    fn note(&self, error: &io::Error) {
        if let Some(Refusal(code)) = Refusal::in_chain(error) {
            self.0.store(code.number() + 1, Ordering::Release);
        }
    }
}

impl<S: Abort> Aborting<S> {
    /// Watches a stream. `code` is what its other side hears of an abort.
    pub(crate) fn new(inner: S, code: Code) -> Self {
        Self {
            inner: Some(inner),
            code,
            ended: false,
            refused: Refused::default(),
        }
    }

    /// Where the stream's refusal will be.
    pub(crate) fn refused(&self) -> Refused {
        self.refused.clone()
    }

    /// The stream itself, unless it was taken back.
    pub(crate) const fn get_mut(&mut self) -> Option<&mut S> {
        self.inner.as_mut()
    }

    /// Gives the stream back, unwatched.
    pub(crate) fn into_inner(mut self) -> Option<S> {
        self.inner.take()
    }
}

impl<S: Duplex> Aborting<S> {
    fn stream(&mut self) -> io::Result<Pin<&mut S>> {
        self.inner
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| self.refused.note(error))
    }
}

impl<S: Abort> Drop for Aborting<S> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.as_mut().filter(|_| !self.ended) {
            inner.abort(self.code.number());
        }
    }
}

impl<S: Duplex> AsyncRead for Aborting<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(self.stream()?.poll_read(cx, buf));
        Poll::Ready(self.noted(result))
    }
}

impl<S: Duplex> AsyncWrite for Aborting<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(self.stream()?.poll_write(cx, bytes));
        Poll::Ready(self.noted(result))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(self.stream()?.poll_flush(cx));
        Poll::Ready(self.noted(result))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(self.stream()?.poll_shutdown(cx));
        self.ended = result.is_ok();
        Poll::Ready(self.noted(result))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(self.stream()?.poll_write_vectored(cx, slices));
        Poll::Ready(self.noted(result))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner
            .as_ref()
            .is_some_and(AsyncWrite::is_write_vectored)
    }
}

impl<S: Duplex> Duplex for Aborting<S> {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        to: &mut Pieces,
    ) -> Option<Poll<io::Result<usize>>> {
        let taken = self.inner.as_mut()?.poll_take(cx, most, to)?;
        Some(taken.map(|result| self.noted(result)))
    }

    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Bytes,
    ) -> Option<Poll<io::Result<usize>>> {
        let given = self.inner.as_mut()?.poll_give(cx, piece)?;
        Some(given.map(|result| self.noted(result)))
    }
}

impl<S: Abort> Abort for Aborting<S> {
    fn abort(&mut self, code: u32) {
        self.ended = true;
        if let Some(inner) = &mut self.inner {
            inner.abort(code);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.expect("a connection"), far.expect("a connection").0)
    }

    #[tokio::test]
    async fn dropping_aborts_and_shutting_down_does_not() {
        let (near, mut far) = pair().await;
        drop(Aborting::new(near, Code::ClientGone));
        let error = far.read(&mut [0]).await.expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

        let (near, mut far) = pair().await;
        let mut near = Aborting::new(near, Code::ClientGone);
        near.shutdown().await.expect("an orderly end");
        drop(near);
        assert_eq!(far.read(&mut [0]).await.expect("the end"), 0);
    }
}
