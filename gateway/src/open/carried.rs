//! A stream of the front through a tunnel, with its bytes counted as they go.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use sallyport_edge::opener::Way;
use sallyport_link::TunnelStream;
use sallyport_splice::{Abort, Duplex, Pieces};
use sallyport_wire::{Code, Refusal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::futures::OwnedNotified;

use super::{Opened, Passage};

/// A stream through a tunnel that is counted while it is open.
#[derive(Debug)]
pub struct Carried {
    stream: TunnelStream,
    passage: Passage,
    /// Until the relay has taken the stream: that its tunnel fell silent. Nobody waits for it then, for another may take
    /// it or its client can try again.
    untaken: Option<Pin<Box<OwnedNotified>>>,
}

impl Carried {
    /// Counts a stream from now on.
    pub fn new(opened: Opened<TunnelStream>) -> Self {
        Self {
            stream: opened.stream,
            untaken: Some(Box::pin(opened.passage.silenced())),
            passage: opened.passage,
        }
    }

    /// Ready once the tunnel fell silent before its relay took the stream.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stream.is_taken() {
            self.untaken = None;
        }
        match &mut self.untaken {
            Some(silence) => silence.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// The way that it takes.
    pub const fn way(&self) -> &Arc<Way> {
        &self.passage.way
    }

    fn sent(&self, bytes: usize) -> Poll<io::Result<usize>> {
        self.passage.meter().add_up(bytes as u64);
        Poll::Ready(Ok(bytes))
    }
}

impl AsyncRead for Carried {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buf) else {
            ready!(this.poll_silence(cx));
            return Poll::Ready(Err(Refusal(Code::TunnelLost).into()));
        };
        read?;
        let read = buf.filled().len().saturating_sub(before);
        this.passage.meter().add_down(read as u64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Carried {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.sent(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, slices))?;
        this.sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl Duplex for Carried {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        to: &mut Pieces,
    ) -> Option<Poll<io::Result<usize>>> {
        let Poll::Ready(taken) = self.stream.poll_take(cx, most, to)? else {
            let silence = self.poll_silence(cx);
            return Some(silence.map(|()| Err(Refusal(Code::TunnelLost).into())));
        };
        let counted = taken.inspect(|bytes| self.passage.meter().add_down(*bytes as u64));
        Some(Poll::Ready(counted))
    }

    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Bytes,
    ) -> Option<Poll<io::Result<usize>>> {
        let given = self.stream.poll_give(cx, piece);
        if let Some(Poll::Ready(Ok(bytes))) = given {
            self.passage.meter().add_up(bytes as u64);
        }
        given
    }
}

impl Abort for Carried {
    fn abort(&mut self, code: u32) {
        Abort::abort(&mut self.stream, code);
    }
}
