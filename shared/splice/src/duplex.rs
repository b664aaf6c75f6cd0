//! What can be joined: bytes both ways, aborts, and pieces where a stream has them.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpStream, UnixStream};

use crate::{Abort, Pieces, Rewound};

/// A byte stream that can also be aborted: what [`run`](crate::run()) joins two of.
///
/// A stream that holds in memory of its own what it has received, or what it has to send, hands that memory over and
/// takes it over, which spares a copy. The others, as sockets, read into a buffer and write from it.
pub trait Duplex: AsyncRead + AsyncWrite + Abort + Unpin + Send {
    /// Moves what has arrived to the end of `to`, some `most` bytes of it, and says how many; none is the end, as it is
    /// for a read. `None` says that the stream must be read from instead.
    fn poll_take(
        &mut self,
        _cx: &mut Context<'_>,
        _most: usize,
        _to: &mut Pieces,
    ) -> Option<Poll<io::Result<usize>>> {
        None
    }

    /// Takes what there is room for off the front of `piece`, which is not empty, and says how many bytes that were.
    /// `None` says that the stream must be written to instead.
    fn poll_give(
        &mut self,
        _cx: &mut Context<'_>,
        _piece: &mut Bytes,
    ) -> Option<Poll<io::Result<usize>>> {
        None
    }
}

impl<S: Duplex + ?Sized> Duplex for Box<S> {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        to: &mut Pieces,
    ) -> Option<Poll<io::Result<usize>>> {
        (**self).poll_take(cx, most, to)
    }

    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Bytes,
    ) -> Option<Poll<io::Result<usize>>> {
        (**self).poll_give(cx, piece)
    }
}

impl<S: Duplex + ?Sized> Duplex for &mut S {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        to: &mut Pieces,
    ) -> Option<Poll<io::Result<usize>>> {
        (**self).poll_take(cx, most, to)
    }

    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Bytes,
    ) -> Option<Poll<io::Result<usize>>> {
        (**self).poll_give(cx, piece)
    }
}

impl Duplex for TcpStream {}
impl Duplex for UnixStream {}
impl Duplex for DuplexStream {}
impl<S: Duplex> Duplex for Rewound<S> {}
impl<S: Duplex> Duplex for tokio_rustls::client::TlsStream<S> {}
impl<S: Duplex> Duplex for tokio_rustls::server::TlsStream<S> {}
impl<S: Duplex> Duplex for tokio_rustls::TlsStream<S> {}
