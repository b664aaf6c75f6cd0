//! TCP as both ends see it: bytes in order, an end that is told, a reset that is an error, silence in a black hole.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, ReadHalf,
    WriteHalf, duplex, split,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::Network;

/// Bytes that fit into the buffers of one direction, at each end: fewer than one stream may have under way.
const BUFFER: usize = 64 * 1024;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    io: DuplexStream,
    reset: CancellationToken,
}

/// Both ends of a connection between two processes, given by the tokens of their deaths.
pub(super) fn connect(
    network: &Network,
    processes: [CancellationToken; 2],
) -> (Connection, Connection) {
    let reset = CancellationToken::new();
    let (near, near_wire) = duplex(BUFFER);
    let (far, far_wire) = duplex(BUFFER);
    let wires = (network.clone(), near_wire, far_wire);
    let joined = join(wires, processes, reset.clone());
    network.0.tasks.spawn(Span::none(), joined);
    let end = |io| Connection {
        io,
        reset: reset.clone(),
    };
    (end(near), end(far))
}

/// Carries bytes both ways until both sides have ended, or one of the processes has died and the other was told.
async fn join(
    (network, near, far): (Network, DuplexStream, DuplexStream),
    [one, other]: [CancellationToken; 2],
    reset: CancellationToken,
) {
    let (near_read, near_write) = split(near);
    let (far_read, far_write) = split(far);
    let there = carry(near_read, far_write, &network);
    let back = carry(far_read, near_write, &network);
    let both = async { tokio::join!(there, back) };
    tokio::pin!(both); // a reset drops what is under way, and no sooner
    tokio::select! {
        _ = &mut both => return,
        () = one.cancelled() => {}
        () = other.cancelled() => {}
    }
    network.tcp_passes().await;
    sleep(network.weather().delay).await;
    reset.cancel();
}

async fn carry(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    network: &Network,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        sleep(network.weather().delay).await;
        network.tcp_passes().await;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..read).unwrap_or_default()).await?;
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let ended = buf.filled().len() == before && buf.remaining() > 0;
        if ended && self.reset.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
