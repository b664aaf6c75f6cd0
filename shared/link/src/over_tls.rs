//! The mux over one TLS connection, and its streams.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use sallyport_mux::{Broken, Driver, Stream, StreamError};
use sallyport_splice::Pieces;
use sallyport_wire::Code;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use crate::life::{Life, broken};
use crate::settings::Settings;

/// The number of the control stream: the first that the dialling side opens.
pub(crate) const CONTROL: u32 = 1;

/// The bounds of the mux.
pub(crate) fn bounds(settings: &Settings) -> sallyport_mux::Settings {
    sallyport_mux::Settings {
        backlog: settings.accept.max(1), // the control stream arrives like others
        backlog_code: Code::Limit.number(),
        unread_code: Code::Limit.number(),
        window: settings.tls_stream_window,
        budget: settings.tls_window,
        unread: settings.unread,
        ..sallyport_mux::Settings::default()
    }
}

/// Runs until the connection or the tunnel ends, then closes the connection with the tunnel's code.
pub(crate) async fn drive<S>(mut driver: Driver<S>, life: Arc<Life>, close_within: Duration)
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    let _cut_short = EndsWith(Arc::clone(&life));
    let farewell = life.farewell().clone();
    let broken = tokio::select! {
        broken = driver.run() => Some(broken),
        () = farewell.cancelled() => None,
    };
    match broken {
        Some(Broken::GoneAway(code)) => {
            life.end(Code::from_number(code), "closed by the other side");
        }
        Some(broken @ Broken::Protocol(_)) => life.end(Code::Protocol, broken.to_string()),
        Some(broken @ Broken::Flood) => life.end(Code::Limit, broken.to_string()),
        Some(broken @ (Broken::Transport(_) | Broken::HungUp)) => {
            life.end(Code::TunnelLost, broken.to_string());
        }
        None => {}
    }
    let code = life.over().map_or(Code::Closed, |closed| closed.code);
    if !matches!(
        timeout(close_within, driver.close(code.number())).await,
        Ok(Ok(()))
    ) {
        tracing::debug!("the connection did not close in order");
    }
}

/// Whatever ends the driver, a dropped task included, ends the tunnel.
struct EndsWith(Arc<Life>);

impl Drop for EndsWith {
    fn drop(&mut self) {
        self.0.end(Code::TunnelLost, "the process is stopping");
    }
}

/// A stream of the mux.
#[derive(Debug)]
pub(crate) struct OverTls {
    stream: Stream,
    finished: bool,
}

impl OverTls {
    pub(crate) const fn new(stream: Stream) -> Self {
        Self {
            stream,
            finished: false,
        }
    }

    pub(crate) fn number(&self) -> u64 {
        u64::from(self.stream.number())
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = Pin::new(&mut self.stream);
        stream.poll_read(cx, buf).map_err(|error| failed(&error))
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        stream.poll_write(cx, buf).map_err(|error| failed(&error))
    }

    pub(crate) fn poll_take(
        &self,
        cx: &Context<'_>,
        most: usize,
        to: &mut Pieces,
    ) -> Poll<io::Result<usize>> {
        let taken = self.stream.poll_take(cx, most, to);
        taken.map_err(|error| failed(&error))
    }

    pub(crate) fn poll_give(&self, cx: &Context<'_>, piece: &mut Bytes) -> Poll<io::Result<usize>> {
        let given = self.stream.poll_give(cx, piece);
        given.map_err(|error| failed(&error))
    }

    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = Pin::new(&mut self.stream);
        let finished = stream.poll_shutdown(cx).map_err(|error| failed(&error));
        self.finished |= matches!(finished, Poll::Ready(Ok(())));
        finished
    }

    pub(crate) fn abort(&self, code: Code) {
        self.stream.abort(code.number());
    }
}

impl Drop for OverTls {
    fn drop(&mut self) {
        self.abort(if self.finished {
            Code::Closed
        } else {
            Code::Internal
        });
    }
}

fn failed(error: &io::Error) -> io::Error {
    match StreamError::of(error) {
        Some(StreamError::Reset(code)) => broken(Code::from_number(code)),
        Some(StreamError::Unread) => broken(Code::Limit),
        Some(StreamError::Lost) => broken(Code::TunnelLost),
        Some(StreamError::Closed) | None => io::ErrorKind::BrokenPipe.into(),
    }
}

/// The connection under the mux: counts bytes and signs of life.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    io: S,
    life: Arc<Life>,
}

impl<S> Counted<S> {
    pub(crate) const fn new(io: S, life: Arc<Life>) -> Self {
        Self { io, life }
    }

    fn sent(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.life.sent(bytes);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.life.received(buf.filled().len() - before);
        read
    }
}

impl<S: AsyncBufRead + Unpin> AsyncBufRead for Counted<S> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Pin::new(&mut self.get_mut().io).poll_fill_buf(cx)
    }

    fn consume(mut self: Pin<&mut Self>, bytes: usize) {
        self.life.received(bytes);
        Pin::new(&mut self.io).consume(bytes);
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.sent(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
