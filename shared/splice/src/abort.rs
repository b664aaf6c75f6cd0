//! Ending a stream so that the other side can tell it from an orderly end.

use tokio::io::DuplexStream;
use tokio::net::{TcpStream, UnixStream};

/// Ends a stream in a way that the peer sees as broken off, never as finished.
pub trait Abort {
    /// Marks the stream as broken off; whatever is still unsent is given up.
    ///
    /// `code` says why, to transports that can carry a number (the tunnel's streams); it is the
    /// number of a `wire::Code`. Nothing may be read or written afterwards. The peer is told at
    /// the latest when the stream is dropped, which the caller does next.
    fn abort(&mut self, code: u32);
}

impl<S: Abort + ?Sized> Abort for Box<S> {
    fn abort(&mut self, code: u32) {
        (**self).abort(code);
    }
}

impl<S: Abort + ?Sized> Abort for &mut S {
    fn abort(&mut self, code: u32) {
        (**self).abort(code);
    }
}

impl Abort for TcpStream {
    /// Closing sends RST instead of FIN (`SO_LINGER` of zero).
    fn abort(&mut self, _code: u32) {
        // It fails only on a socket that is dead already, and then the peer knows.
        drop(self.set_zero_linger());
    }
}

impl Abort for UnixStream {
    /// A unix socket has no RST. The kernel reports `ECONNRESET` to the peer if bytes that it
    /// sent are still unread here when the socket is dropped; otherwise the peer sees the end of
    /// the stream, and a failure as soon as it writes.
    fn abort(&mut self, _code: u32) {}
}

impl<S: Abort> Abort for tokio_rustls::client::TlsStream<S> {
    /// Aborts what is below and sends no `close_notify`: the peer must treat the data as cut
    /// short (RFC 8446 §6.1).
    fn abort(&mut self, code: u32) {
        self.get_mut().0.abort(code);
    }
}

impl<S: Abort> Abort for tokio_rustls::server::TlsStream<S> {
    /// As for the client's side of TLS.
    fn abort(&mut self, code: u32) {
        self.get_mut().0.abort(code);
    }
}

impl<S: Abort> Abort for tokio_rustls::TlsStream<S> {
    /// As for the client's side of TLS.
    fn abort(&mut self, code: u32) {
        self.get_mut().0.abort(code);
    }
}

impl Abort for DuplexStream {
    /// An in-memory pipe is for tests and cannot carry an abort: its peer sees the end.
    fn abort(&mut self, _code: u32) {}
}
