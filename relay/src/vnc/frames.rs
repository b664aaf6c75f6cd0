//! A WebSocket as a stream of bytes: what comes in binary messages is read, what is written goes out as such.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures::{Sink as _, Stream as _};
use sallyport_splice::{Abort, Duplex};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Most bytes of one message that goes out: a write that is longer is taken in parts.
const MAX_OUT: usize = 64 << 10;

/// Most bytes of one message that comes in. A viewer's longest is what is in its clipboard.
const MAX_IN: usize = 1 << 20;

/// The server's end of a WebSocket (RFC 6455) as bytes, each way closed with its own part of the closing
/// handshake (§7).
#[derive(Debug)]
pub(super) struct Frames<S> {
    socket: WebSocketStream<S>,
    unread: Bytes,
}

impl<S: Duplex> Frames<S> {
    /// Takes over a connection whose upgrade was answered.
    pub(super) async fn new(io: S) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(16 << 10)
            .write_buffer_size(0)
            .max_write_buffer_size(4 * MAX_OUT)
            .max_message_size(Some(MAX_IN))
            .max_frame_size(Some(MAX_IN));
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        Self {
            socket,
            unread: Bytes::new(),
        }
    }
}

impl<S: Duplex> AsyncRead for Frames<S> {
    /// The end of the stream is a close frame; a connection that breaks off without one is an error.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.unread = bytes,
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(not_binary())),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(Error::ConnectionClosed)) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
            }
        }
        let amount = this.unread.len().min(buf.remaining());
        buf.put_slice(this.unread.get(..amount).unwrap_or_default());
        this.unread.advance(amount);
        Poll::Ready(Ok(()))
    }
}

impl<S: Duplex> AsyncWrite for Frames<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut socket = Pin::new(&mut self.get_mut().socket);
        ready!(socket.as_mut().poll_ready(cx)).map_err(into_io)?;
        let part = bytes.get(..MAX_OUT).unwrap_or(bytes);
        let message = Message::Binary(Bytes::copy_from_slice(part));
        socket.start_send(message).map_err(into_io)?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket)
            .poll_flush(cx)
            .map_err(into_io)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.get_mut().socket).poll_close(cx)) {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(into_io(error))),
        }
    }
}

impl<S: Duplex> Duplex for Frames<S> {}

impl<S: Duplex> Abort for Frames<S> {
    fn abort(&mut self, code: u32) {
        self.socket.get_mut().abort(code);
    }
}

fn not_binary() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "RFB travels in binary messages, not in text",
    )
}

fn into_io(error: Error) -> io::Error {
    if let Error::Io(error) = error {
        return error;
    }
    io::Error::new(io::ErrorKind::InvalidData, error)
}
