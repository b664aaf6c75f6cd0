//! A flow of datagrams in a tunnel.
//!
//! Datagrams travel as QUIC datagrams (RFC 9221) with the number of the flow's stream in front. One that does not
//! fit, and every one over TLS, goes on the stream itself, its length in front. So do the opener's first ones, until
//! the other side has taken the flow: they must not overtake the head.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::life::TunnelClosed;
use crate::quic::{Flows, tagged};
use crate::settings::Settings;
use crate::stream::TunnelStream;

/// Bytes of the length in front of a datagram on the stream.
const PREFIX: usize = 2;

/// A flow of datagrams. It ends when it is dropped, when the other side ends it, or with its tunnel.
#[derive(Debug)]
pub struct Flow {
    number: u64,
    /// Over QUIC only.
    connection: Option<quinn::Connection>,
    /// Whether the other side knows the flow, so that QUIC datagrams find it.
    known: Arc<AtomicBool>,
    arrived: Mutex<mpsc::Receiver<Bytes>>,
    onto_stream: mpsc::Sender<Bytes>,
    dropped: AtomicU64,
    _ends_task: DropGuard,
}

/// The part of a flow that lives in a task of its own.
pub(crate) struct Pump {
    stream: TunnelStream,
    arriving: mpsc::Sender<Bytes>,
    leaving: mpsc::Receiver<Bytes>,
    stop: CancellationToken,
    settings: Arc<Settings>,
    _registered: Registered,
}

/// Takes the flow out of the tunnel's list when its task ends.
struct Registered(Arc<Flows>, u64);

impl Drop for Registered {
    fn drop(&mut self) {
        self.0.remove(self.1);
    }
}

/// Splits a stream of kind UDP into the flow's handle and the task that it needs.
pub(crate) fn begin(
    mut stream: TunnelStream,
    connection: Option<quinn::Connection>,
    flows: &Arc<Flows>,
    settings: &Arc<Settings>,
) -> (Flow, Pump) {
    let number = stream.number();
    let known = Arc::new(AtomicBool::new(false));
    stream.accept();
    stream.tell_when_taken(Arc::clone(&known));
    let (arriving, arrived) = mpsc::channel(settings.flow_queue);
    let (onto_stream, leaving) = mpsc::channel(settings.flow_queue);
    flows.add(number, arriving.clone());
    let stop = CancellationToken::new();
    let flow = Flow {
        number,
        connection,
        known,
        arrived: Mutex::new(arrived),
        onto_stream,
        dropped: AtomicU64::new(0),
        _ends_task: stop.clone().drop_guard(),
    };
    let pump = Pump {
        stream,
        arriving,
        leaving,
        stop,
        settings: Arc::clone(settings),
        _registered: Registered(Arc::clone(flows), number),
    };
    (flow, pump)
}

impl Flow {
    /// Number of the flow's stream in its tunnel, the same at both ends.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Sends a datagram, at most 65,535 bytes. Like any network it may lose it, when its queue is full.
    ///
    /// # Errors
    /// [`TunnelClosed`] once the flow has ended.
    #[expect(clippy::unused_async, reason = "a transport that can wait may come")]
    pub async fn send(&self, datagram: Bytes) -> Result<(), TunnelClosed> {
        if self.onto_stream.is_closed() {
            return Err(TunnelClosed);
        }
        if self.send_directly(&datagram) {
            return Ok(());
        }
        let fits = u16::try_from(datagram.len()).is_ok();
        if !fits || self.onto_stream.try_send(datagram).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The next datagram, or `None` once the flow has ended.
    pub async fn recv(&self) -> Option<Bytes> {
        self.arrived.lock().await.recv().await
    }

    /// Datagrams that were not sent because a queue was full or they were too long.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// As a QUIC datagram, if it fits into one just now.
    fn send_directly(&self, datagram: &Bytes) -> bool {
        let Some(connection) = &self.connection else {
            return false;
        };
        if !self.known.load(Ordering::Acquire) {
            return false;
        }
        let tagged = tagged(self.number, datagram);
        let fits = connection
            .max_datagram_size()
            .is_some_and(|max| tagged.len() <= max);
        fits && connection.send_datagram(tagged).is_ok()
    }
}

impl Pump {
    /// Runs until either side ends the flow.
    pub(crate) async fn run(self) {
        let Self {
            stream,
            arriving,
            leaving,
            stop,
            settings,
            _registered,
        } = self;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let ended = tokio::select! {
            ended = receive(&mut reader, arriving) => ended,
            ended = transmit(&mut writer, leaving) => ended,
            () = stop.cancelled() => Ok(()),
        };
        if ended.is_err() {
            return; // dropping the stream aborts what is left of it
        }
        let closing = timeout(settings.close_within, writer.shutdown()).await;
        if !matches!(closing, Ok(Ok(()))) {
            tracing::trace!("a flow did not end in order");
        }
    }
}

/// Datagrams that come on the stream; the newest is dropped when the queue is full.
async fn receive(
    reader: &mut (impl AsyncRead + Unpin),
    arriving: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(datagram) = split(&mut buffer) {
            if arriving.try_send(datagram).is_err() {
                tracing::trace!("a datagram was dropped");
            }
        }
        if reader.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// Takes a whole datagram off the front.
fn split(buffer: &mut BytesMut) -> Option<Bytes> {
    let len = usize::from(u16::from_be_bytes(*buffer.first_chunk::<PREFIX>()?));
    if buffer.len() < PREFIX + len {
        buffer.reserve(PREFIX + len - buffer.len());
        return None;
    }
    buffer.advance(PREFIX);
    Some(buffer.split_to(len).freeze())
}

/// Datagrams that go on the stream.
async fn transmit(
    writer: &mut (impl AsyncWrite + Unpin),
    mut leaving: mpsc::Receiver<Bytes>,
) -> io::Result<()> {
    let mut framed = BytesMut::new();
    writer.flush().await?;
    while let Some(datagram) = leaving.recv().await {
        framed.clear();
        framed.put_u16(u16::try_from(datagram.len()).unwrap_or(u16::MAX));
        framed.extend_from_slice(&datagram);
        writer.write_all(&framed).await?;
        writer.flush().await?;
    }
    Ok(())
}
