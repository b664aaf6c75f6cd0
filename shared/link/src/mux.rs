//! yamux over one TLS connection, driven by a task of its own.
//!
//! The connection must be polled whether or not anyone reads: pings, credit and other streams depend on it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use futures::io::{AsyncRead, AsyncWrite};
use sallyport_wire::Code;
use sallyport_wire::message::{ControlKind, Reset};
use tokio::io::ReadBuf;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::ends::Ends;
use crate::life::Life;
use crate::settings::Settings;

/// The yamux number of the control stream: the first that the dialling side opens.
pub(crate) const CONTROL: u64 = 1;

/// Streams that the crate lets a connection hold. Far above what either side opens, because the crate kills the
/// connection at its limit, while we refuse the single stream that is too many.
const HARD_LIMIT: usize = 1_024;

/// The least that the crate allows for [`HARD_LIMIT`] streams of 256 KiB each.
const RECEIVE_LIMIT: usize = HARD_LIMIT * 256 * 1024;

/// Payload of a frame: with its header of 12 bytes it fills one TLS record (RFC 8446 §5.1).
const FRAME: usize = 16 * 1024 - 12;

/// Opens queued for the driver.
const OPENS: usize = 64;

/// A stream with its place among those that the other side may have open.
pub(crate) type Arrived = (yamux::Stream, OwnedSemaphorePermit);

/// The driver's other end.
#[derive(Debug)]
pub(crate) struct Mux {
    opens: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
    arrived: Mutex<mpsc::Receiver<Arrived>>,
}

impl Mux {
    /// Opens a stream, or `None` if the connection is gone.
    pub(crate) async fn open(&self) -> Option<yamux::Stream> {
        let (wanted, stream) = oneshot::channel();
        self.opens.send(wanted).await.ok()?;
        stream.await.ok()
    }

    /// Asks for a stream before anyone else does.
    pub(crate) fn ask(&self) -> oneshot::Receiver<yamux::Stream> {
        let (wanted, stream) = oneshot::channel();
        drop(self.opens.try_send(wanted)); // the queue is empty at the start
        stream
    }

    /// The next stream of the other side, or `None` if the connection is gone.
    pub(crate) async fn accept(&self) -> Option<Arrived> {
        self.arrived.lock().await.recv().await
    }
}

/// Polls a connection until the tunnel ends.
pub(crate) struct Driver<S> {
    connection: yamux::Connection<Batched<S>>,
    opens: mpsc::Receiver<oneshot::Sender<yamux::Stream>>,
    wanted: Option<oneshot::Sender<yamux::Stream>>,
    arrived: mpsc::Sender<Arrived>,
    control: Option<oneshot::Sender<yamux::Stream>>,
    common: Common,
}

/// What belongs to one connection: the handle, its driver, and where its control stream will come from.
pub(crate) struct Parts<S> {
    pub(crate) mux: Mux,
    pub(crate) driver: Driver<S>,
    /// For the accepting side: the stream that the other side opened first.
    pub(crate) control: oneshot::Receiver<yamux::Stream>,
}

/// What a tunnel's parts share.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    pub(crate) life: Arc<Life>,
    pub(crate) ends: Arc<Ends>,
    /// Places for streams of the other side.
    pub(crate) room: Arc<Semaphore>,
}

/// Starts yamux on a connection on which the hello is done.
pub(crate) fn begin<S>(io: S, mode: yamux::Mode, settings: &Settings, common: &Common) -> Parts<S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut config = yamux::Config::default();
    config.set_max_num_streams(HARD_LIMIT);
    config.set_max_connection_receive_window(Some(RECEIVE_LIMIT));
    config.set_split_send_size(FRAME);
    let (opens, wanted) = mpsc::channel(OPENS);
    let (arriving, arrived) = mpsc::channel(settings.accept_tls.max(1));
    let (control_in, control) = oneshot::channel();
    let driver = Driver {
        connection: yamux::Connection::new(Batched::new(io, &common.life), config, mode),
        opens: wanted,
        wanted: None,
        arrived: arriving,
        control: matches!(mode, yamux::Mode::Server).then_some(control_in),
        common: common.clone(),
    };
    let arrived = Mutex::new(arrived);
    Parts {
        mux: Mux { opens, arrived },
        driver,
        control,
    }
}

impl<S> Driver<S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    /// Runs until the connection or the tunnel ends, then closes the connection.
    pub(crate) async fn run(mut self, settings: Arc<Settings>) {
        let life = Arc::clone(&self.common.life);
        let farewell = life.farewell().clone();
        let _cut_short = EndsWith(self.common.clone());
        let lost = tokio::select! {
            cause = std::future::poll_fn(|cx| self.poll(cx)) => Some(cause),
            () = farewell.cancelled() => None,
        };
        if let Some(cause) = lost {
            // What arrived before is still read by the control loop, a farewell above all, which then ends the tunnel.
            life.suspect(cause);
            drop(timeout(settings.close_within, life.ending().cancelled()).await);
        }
        let closing = std::future::poll_fn(|cx| self.connection.poll_close(cx));
        if !matches!(timeout(settings.close_within, closing).await, Ok(Ok(()))) {
            tracing::debug!("the connection did not close in order");
        }
    }

    /// Ready with the cause once the connection is gone.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        loop {
            match self.connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    self.arrive(stream);
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(error.to_string()),
                Poll::Ready(None) => return Poll::Ready("the other side hung up".to_owned()),
                Poll::Pending => {}
            }
            if self.wanted.is_none() {
                self.wanted = ready!(self.opens.poll_recv(cx).map(|wanted| wanted));
            }
            let Some(wanted) = self.wanted.take_if(|wanted| !wanted.is_closed()) else {
                if self.wanted.take().is_some() {
                    continue; // whoever wanted it has gone
                }
                return Poll::Pending; // no handle is left to open anything
            };
            match self.connection.poll_new_outbound(cx) {
                Poll::Ready(Ok(stream)) => drop(wanted.send(stream)),
                Poll::Ready(Err(error)) => return Poll::Ready(error.to_string()),
                Poll::Pending => {
                    self.wanted = Some(wanted);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Hands a new stream on: the control stream to its loop, others as long as there is room.
    fn arrive(&mut self, stream: yamux::Stream) {
        let number = u64::from(stream.id().val());
        if number == CONTROL {
            if let Some(control) = self.control.take() {
                drop(control.send(stream));
            }
            return;
        }
        let Ok(place) = Arc::clone(&self.common.room).try_acquire_owned() else {
            let code = Code::Limit.number();
            let reset = Reset {
                stream: number,
                code,
            };
            if self.common.ends.tell(ControlKind::Reset(reset)).is_err() {
                self.common.life.end(Code::Limit, "a flood of streams");
            }
            return;
        };
        // The queue holds as many as there are places, so this fails only when nobody listens any more.
        drop(self.arrived.try_send((stream, place)));
    }
}

/// Whatever ends the driver, a dropped task included, ends the tunnel and wakes its streams.
struct EndsWith(Common);

impl Drop for EndsWith {
    fn drop(&mut self) {
        self.0.life.lose("the process is stopping");
        self.0.ends.wake_all();
    }
}

/// The socket under yamux: what is written between two flushes leaves together, so that a frame's header does not
/// travel alone. Counts bytes and signs of life.
pub(crate) struct Batched<S> {
    io: S,
    buffer: BytesMut,
    life: Arc<Life>,
}

/// Bytes gathered before they are written even without a flush.
const BATCH: usize = 64 * 1024;

impl<S> Batched<S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    fn new(io: S, life: &Arc<Life>) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            life: Arc::clone(life),
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.life.sent(written);
            self.buffer.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> AsyncRead for Batched<S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(buf);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut into))?;
        let read = into.filled().len();
        if read > 0 {
            self.life.received(read);
        }
        Poll::Ready(Ok(read))
    }
}

impl<S> AsyncWrite for Batched<S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.buffer.len() + buf.len() > BATCH {
            ready!(self.poll_drain(cx))?;
        }
        self.buffer.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Waits for the other side to hang up too: a socket closed with bytes unread is reset by TCP, and the reset
    /// could overtake our last words. Whoever calls holds the deadline.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        loop {
            let mut ignored = [0; 1_024];
            let mut ignored = ReadBuf::new(&mut ignored);
            let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut ignored));
            if read.is_err() || ignored.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
