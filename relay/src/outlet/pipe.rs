//! A pipe in memory whose reader can tell a cut from an end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use sallyport_splice::{Abort, Duplex};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

/// One end of a pipe. Only a shutdown is an end: whatever is aborted, or dropped before, is a reset for its reader.
#[derive(Debug)]
pub(super) struct Pipe {
    io: DuplexStream,
    finished: Arc<AtomicBool>,
    peer_finished: Arc<AtomicBool>,
}

impl Pipe {
    /// Both ends of a pipe that holds so many bytes each way.
    pub(super) fn pair(bytes: usize) -> (Self, Self) {
        let (one, other) = duplex(bytes);
        let (first, second) = (Arc::default(), Arc::default());
        let near = Self {
            io: one,
            finished: Arc::clone(&first),
            peer_finished: Arc::clone(&second),
        };
        let far = Self {
            io: other,
            finished: second,
            peer_finished: first,
        };
        (near, far)
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (before, room) = (buf.filled().len(), buf.remaining());
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let is_end = room > 0 && buf.filled().len() == before;
        if is_end && !this.peer_finished.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // First, since the peer looks as soon as it sees the end.
        this.finished.store(true, Ordering::Release);
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl Duplex for Pipe {}

impl Abort for Pipe {
    /// The peer sees it once this end is dropped, after what is on its way.
    fn abort(&mut self, _code: u32) {
        self.finished.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use sallyport_splice::{EndedBy, Limits, Meter};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// What the other end reads after `end` was done to this one, and how it ended.
    async fn read_after(end: impl AsyncFnOnce(Pipe)) -> (Vec<u8>, io::Result<usize>) {
        let (mut near, mut far) = Pipe::pair(64);
        near.write_all(b"pixels").await.expect("room");
        end(near).await;
        let mut read = Vec::new();
        let ended = far.read_to_end(&mut read).await;
        (read, ended)
    }

    #[tokio::test]
    async fn a_shutdown_is_an_end() {
        let (read, ended) = read_after(async |mut pipe| {
            pipe.shutdown().await.expect("in order");
        })
        .await;
        assert_eq!(
            (read.as_slice(), ended.expect("the end")),
            (&b"pixels"[..], 6)
        );
    }

    #[tokio::test]
    async fn an_abort_is_a_reset_and_so_is_a_drop() {
        let aborted = read_after(async |mut pipe| pipe.abort(0)).await;
        let late = async |mut pipe: Pipe| {
            pipe.shutdown().await.expect("in order");
            pipe.abort(0);
        };
        for (read, ended) in [
            aborted,
            read_after(late).await,
            read_after(async |_| ()).await,
        ] {
            let error = ended.expect_err("a reset");
            assert_eq!(read, b"pixels");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn a_session_that_is_cut_is_cut_beyond_the_pipe() {
        let (mut front, mut bridge) = Pipe::pair(64);
        let (mut session, server) = Pipe::pair(64);
        drop(server);

        let ended = sallyport_splice::run(
            &mut bridge,
            &mut session,
            &Limits::default(),
            &Meter::default(),
        )
        .await;
        drop(bridge);

        assert!(matches!(ended.by, EndedBy::Session(_)), "{ended:?}");
        let error = front.read_u8().await.expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
