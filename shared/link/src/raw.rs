//! One stream of either transport, with the same ends: finished, aborted or lost, and never mistaken.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use sallyport_splice::Pieces;
use sallyport_wire::Code;
use tokio::io::ReadBuf;

use crate::over_quic::OverQuic;
use crate::over_tls::OverTls;

/// A stream of either transport.
#[derive(Debug)]
pub(crate) enum Raw {
    Tls(OverTls),
    Quic(OverQuic),
}

impl Raw {
    pub(crate) fn number(&self) -> u64 {
        match self {
            Self::Tls(stream) => stream.number(),
            Self::Quic(stream) => stream.number(),
        }
    }

    /// Reads; nothing read means that the other side finished in order.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match self {
            Self::Tls(stream) => stream.poll_read(cx, buf),
            Self::Quic(stream) => stream.poll_read(cx, buf),
        }
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tls(stream) => stream.poll_write(cx, buf),
            Self::Quic(stream) => stream.poll_write(cx, buf),
        }
    }

    /// Without a copy; `None` if this stream must be read from.
    pub(crate) fn poll_take(
        &self,
        cx: &Context<'_>,
        most: usize,
        to: &mut Pieces,
    ) -> Option<Poll<io::Result<usize>>> {
        match self {
            Self::Tls(stream) => Some(stream.poll_take(cx, most, to)),
            Self::Quic(_) => None,
        }
    }

    /// Without a copy.
    pub(crate) fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tls(stream) => stream.poll_give(cx, piece),
            Self::Quic(stream) => stream.poll_give(cx, piece),
        }
    }

    /// All bytes are written: ends our direction in order.
    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(stream) => stream.poll_finish(cx),
            Self::Quic(stream) => Poll::Ready(stream.finish()),
        }
    }

    /// Gives up whatever has not ended yet, in both directions.
    pub(crate) fn abort(&mut self, code: Code) {
        match self {
            Self::Tls(stream) => stream.abort(code),
            Self::Quic(stream) => stream.abort(code),
        }
    }
}
