//! Streams that are, all the time or for a while, nothing but a socket, so that the kernel can move their bytes.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::{Abort, Duplex, Pieces, Rewound};

/// A stream that may be nothing but a socket just now.
///
/// Each direction may change between a socket and something else: the one that is read from whenever it says so, the
/// one that is written to only in [`Bare::settle`], because bytes may be in a pipe before it.
pub trait Bare {
    /// Does what the stream has to do by itself. Called whenever the task that carries it runs.
    ///
    /// # Errors
    /// If the stream is lost.
    fn tend(&mut self, _cx: &mut Context<'_>) -> io::Result<()> {
        Ok(())
    }

    /// Nothing is held back that was to be written to it: it may change what carries that direction.
    fn settle(&mut self, _cx: &mut Context<'_>) {}

    /// The socket that its next bytes come out of.
    fn source(&self) -> Option<Socket<'_>>;

    /// The socket that its next bytes go into.
    fn sink(&self) -> Option<Socket<'_>>;

    /// The kernel took so many bytes out of the source; none means that the socket has ended.
    fn taken(&mut self, _bytes: usize) {}

    /// The kernel put so many bytes into the sink.
    fn given(&mut self, _bytes: usize) {}
}

/// A socket that the kernel can splice.
#[derive(Debug, Clone, Copy)]
pub enum Socket<'s> {
    /// Over TCP.
    Tcp(&'s TcpStream),
    /// Over a unix socket.
    Unix(&'s UnixStream),
}

impl Socket<'_> {
    /// Reads with `read` once there is something, without a wait in between.
    pub(crate) fn poll_in(
        self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            std::task::ready!(match self {
                Self::Tcp(socket) => socket.poll_read_ready(cx),
                Self::Unix(socket) => socket.poll_read_ready(cx),
            })?;
            match self.try_io(Interest::READABLE, &mut read) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Writes with `write` once there is room, without a wait in between.
    pub(crate) fn poll_out(
        self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            std::task::ready!(match self {
                Self::Tcp(socket) => socket.poll_write_ready(cx),
                Self::Unix(socket) => socket.poll_write_ready(cx),
            })?;
            match self.try_io(Interest::WRITABLE, &mut write) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Clears the readiness when `io` finds that there is none.
    fn try_io(
        self,
        interest: Interest,
        io: impl FnOnce(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_io(interest, || io(socket.as_fd())),
            Self::Unix(socket) => socket.try_io(interest, || io(socket.as_fd())),
        }
    }
}

impl Bare for TcpStream {
    fn source(&self) -> Option<Socket<'_>> {
        Some(Socket::Tcp(self))
    }

    fn sink(&self) -> Option<Socket<'_>> {
        Some(Socket::Tcp(self))
    }
}

impl Bare for UnixStream {
    fn source(&self) -> Option<Socket<'_>> {
        Some(Socket::Unix(self))
    }

    fn sink(&self) -> Option<Socket<'_>> {
        Some(Socket::Unix(self))
    }
}

impl<S: Bare> Bare for Rewound<S> {
    fn tend(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.get_mut().tend(cx)
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        self.get_mut().settle(cx);
    }

    fn source(&self) -> Option<Socket<'_>> {
        self.get_ref().source().filter(|_| self.is_at_end())
    }

    fn sink(&self) -> Option<Socket<'_>> {
        self.get_ref().sink()
    }

    fn taken(&mut self, bytes: usize) {
        self.get_mut().taken(bytes);
    }

    fn given(&mut self, bytes: usize) {
        self.get_mut().given(bytes);
    }
}

/// A stream whose bytes are always copied.
#[derive(Debug)]
pub(crate) struct Copied<'s, S>(pub(crate) &'s mut S);

impl<S> Bare for Copied<'_, S> {
    fn source(&self) -> Option<Socket<'_>> {
        None
    }

    fn sink(&self) -> Option<Socket<'_>> {
        None
    }
}

impl<S: Duplex> AsyncRead for Copied<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl<S: Duplex> AsyncWrite for Copied<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

impl<S: Abort> Abort for Copied<'_, S> {
    fn abort(&mut self, code: u32) {
        self.0.abort(code);
    }
}

impl<S: Duplex> Duplex for Copied<'_, S> {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        to: &mut Pieces,
    ) -> Option<Poll<io::Result<usize>>> {
        self.0.poll_take(cx, most, to)
    }

    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Bytes,
    ) -> Option<Poll<io::Result<usize>>> {
        self.0.poll_give(cx, piece)
    }
}
