//! The ends that the tests join: one that breaks when told to, and one that never stops.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use crate::{Abort, Duplex, Pieces};

/// One end as the code under test holds it: remembers an abort, and breaks when told to.
#[derive(Debug)]
pub(super) struct End {
    pub(super) pipe: DuplexStream,
    pub(super) seen: Arc<Mutex<Seen>>,
    /// Whether bytes change hands in pieces, and how large those are at most.
    pub(super) pieces: Option<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) aborted: Option<u32>,
    pub(super) read_fault: Option<io::ErrorKind>,
    pub(super) write_fault: Option<io::ErrorKind>,
    pub(super) largest_write: usize,
    pub(super) unflushed: bool,
}

/// An end, the far side of its pipe, and what is known about the end.
pub(super) fn end(room: usize) -> (End, DuplexStream, Arc<Mutex<Seen>>) {
    let (pipe, far) = duplex(room);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let end = End {
        pipe,
        seen: Arc::clone(&seen),
        pieces: None,
    };
    (end, far, seen)
}

impl AsyncRead for End {
    /// A fault is met once what was sent before it has been read.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.pipe).poll_read(cx, buf);
        let nothing = buf.filled().len() == before;
        match self.seen.lock().unwrap().read_fault {
            Some(fault) if nothing => Poll::Ready(Err(fault.into())),
            _ => read,
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(fault) = self.seen.lock().unwrap().write_fault {
            return Poll::Ready(Err(fault.into()));
        }
        let taken = ready!(Pin::new(&mut self.pipe).poll_write(cx, bytes))?;
        let mut seen = self.seen.lock().unwrap();
        seen.largest_write = seen.largest_write.max(taken);
        seen.unflushed = true;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.seen.lock().unwrap().unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(fault) = self.seen.lock().unwrap().write_fault {
            return Poll::Ready(Err(fault.into()));
        }
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

impl Abort for End {
    fn abort(&mut self, code: u32) {
        self.seen.lock().unwrap().aborted = Some(code);
    }
}

pub(super) fn aborted(seen: &Arc<Mutex<Seen>>) -> Option<u32> {
    seen.lock().unwrap().aborted
}

/// Always has more to read, and takes all that is written.
#[derive(Debug)]
pub(super) struct Endless;

impl AsyncRead for Endless {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        buf.initialize_unfilled();
        buf.set_filled(buf.capacity());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Duplex for End {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        to: &mut Pieces,
    ) -> Option<Poll<io::Result<usize>>> {
        let piece = self.pieces?;
        let mut memory = vec![0; piece.min(most)];
        let mut buf = ReadBuf::new(&mut memory);
        let read = Pin::new(self).poll_read(cx, &mut buf);
        let came = Bytes::copy_from_slice(buf.filled());
        let bytes = came.len();
        to.push(came);
        Some(read.map_ok(|()| bytes))
    }

    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Bytes,
    ) -> Option<Poll<io::Result<usize>>> {
        let most = self.pieces?.min(piece.len());
        let written = Pin::new(self).poll_write(cx, &piece[..most]);
        if let Poll::Ready(Ok(bytes)) = written {
            piece.advance(bytes);
        }
        Some(written)
    }
}

impl Duplex for Endless {}

impl Abort for Endless {
    fn abort(&mut self, _code: u32) {}
}
