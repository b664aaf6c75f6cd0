//! QUIC as tunnels use it: windows, keep-alive, endpoints, and the datagrams of flows.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use bytes::{Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{AckFrequencyConfig, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime};
use quinn_proto::HashedConnectionIdGenerator;
use sallyport_ops::Congestion;
use sallyport_wire::Code;
use tokio::sync::mpsc;

use crate::bbr::{self, ACK_EVERY};
use crate::life::{Closed, Life};
use crate::over_quic::code_of;
use crate::settings::Settings;
use crate::unread::Unread;

/// Bytes that a connection may have under way before it is admitted: a hello, and room for its framing.
const WINDOW_BEFORE_ADMISSION: u32 = 16 * 1024;

/// Connections whose first packets wait until they are looked at, which is at once, and bytes of those packets: of one
/// connection, room for a ClientHello; of all, far below what quinn would keep.
const WAITING: usize = 1_024;
const WAITING_BYTES: u64 = 16 * 1024;
const ALL_WAITING_BYTES: u64 = 4 * 1024 * 1024;

/// Between stateless resets nothing is waited: a restarted gateway owes one to each of its relays, and all of them ask
/// within one ping. Nobody gains by more of them, as each is shorter than the packet that it answers.
const RESET_INTERVAL: Duration = Duration::ZERO;

/// Why QUIC cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The TLS configuration does not allow QUIC.
    #[error("the TLS configuration does not allow QUIC: {0}")]
    Tls(#[from] NoInitialCipherSuite),
    /// A setting is out of QUIC's range.
    #[error("the idle timeout is out of range")]
    Idle(#[from] quinn::VarIntBoundsExceeded),
    /// The socket cannot be used.
    #[error("the UDP socket cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// Serves QUIC on a socket of this host. `reset_key` is kept over restarts, so that a restarted gateway tells relays at
/// once that their tunnels are gone (RFC 9000 §10.3).
///
/// # Errors
/// [`EndpointError`].
pub fn quic_endpoint(
    socket: std::net::UdpSocket,
    tls: Arc<rustls::ServerConfig>,
    reset_key: &[u8; 32],
    settings: &Settings,
) -> Result<quinn::Endpoint, EndpointError> {
    let socket = TokioRuntime.wrap_udp_socket(socket)?;
    quic_endpoint_on(socket, tls, reset_key, settings)
}

/// As [`quic_endpoint`], on whatever carries datagrams.
///
/// # Errors
/// [`EndpointError`].
pub fn quic_endpoint_on(
    socket: Arc<dyn AsyncUdpSocket>,
    tls: Arc<rustls::ServerConfig>,
    reset_key: &[u8; 32],
    settings: &Settings,
) -> Result<quinn::Endpoint, EndpointError> {
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    // Before admission a relay has its control stream and nothing else, and may send no more on it than a hello.
    let mut transport = transport(settings, 1)?;
    transport.receive_window(VarInt::from_u32(WINDOW_BEFORE_ADMISSION));
    config.transport_config(Arc::new(transport));
    config.migration(true);
    config
        .max_incoming(WAITING)
        .incoming_buffer_size(WAITING_BYTES)
        .incoming_buffer_size_total(ALL_WAITING_BYTES);
    let runtime = Arc::new(TokioRuntime);
    Ok(quinn::Endpoint::new_with_abstract_socket(
        endpoint_config(reset_key),
        Some(config),
        socket,
        runtime,
    )?)
}

/// A key that makes the same stateless resets in every process that has it. The generator of connection ids needs
/// a lasting key too: an endpoint answers only packets whose id it could have made itself.
fn endpoint_config(reset_key: &[u8; 32]) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset_key)));
    let derived = digest::digest(&digest::SHA256, reset_key);
    let ids = derived
        .as_ref()
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config.min_reset_interval(RESET_INTERVAL);
    config
}

/// How a relay dials.
pub(crate) fn client_config(
    tls: Arc<rustls::ClientConfig>,
    settings: &Settings,
) -> Result<quinn::ClientConfig, EndpointError> {
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport(settings, settings.streams_of_theirs())?));
    Ok(config)
}

/// Dials from a socket.
pub(crate) fn client_endpoint(
    socket: Arc<dyn AsyncUdpSocket>,
) -> Result<quinn::Endpoint, EndpointError> {
    let runtime = Arc::new(TokioRuntime);
    Ok(quinn::Endpoint::new_with_abstract_socket(
        EndpointConfig::default(),
        None,
        socket,
        runtime,
    )?)
}

fn transport(settings: &Settings, streams: u32) -> Result<TransportConfig, EndpointError> {
    // quinn counts from the last packet and needs a moment of its own: the dead are found within the figure.
    let idle = settings.dead_after.saturating_sub(settings.ping_every / 4);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY));
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(settings.quic_stream_window))
        .receive_window(VarInt::from_u32(settings.quic_window))
        .send_window(settings.quic_send_window)
        .keep_alive_interval(Some(settings.ping_every))
        .max_idle_timeout(Some(IdleTimeout::try_from(idle)?))
        .ack_frequency_config(Some(acks))
        .datagram_receive_buffer_size(Some(settings.datagram_receive_buffer))
        .datagram_send_buffer_size(settings.datagram_send_buffer);
    if settings.congestion == Congestion::Bbr {
        config.congestion_controller_factory(Arc::new(bbr::Factory));
    }
    Ok(config)
}

/// The flows of one tunnel, by the number of their stream. There are never more than streams.
#[derive(Debug, Default)]
pub(crate) struct Flows(Mutex<HashMap<u64, mpsc::Sender<Bytes>>>);

impl Flows {
    pub(crate) fn add(&self, number: u64, queue: mpsc::Sender<Bytes>) {
        self.lock().insert(number, queue);
    }

    pub(crate) fn remove(&self, number: u64) {
        self.lock().remove(&number);
    }

    /// Hands a datagram to its flow; one that nobody waits for, or that finds the queue full, is dropped.
    fn deliver(&self, mut datagram: Bytes) {
        let Ok(number) = decode_varint(&mut datagram) else {
            return;
        };
        let queue = self.lock().get(&number).cloned();
        if queue.is_none_or(|queue| queue.try_send(datagram).is_err()) {
            tracing::trace!(number, "a datagram was dropped");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Bytes>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A datagram with its flow's number in front, as a protobuf varint.
pub(crate) fn tagged(number: u64, datagram: &[u8]) -> Bytes {
    let mut tagged = BytesMut::with_capacity(datagram.len() + 10);
    encode_varint(number, &mut tagged);
    tagged.extend_from_slice(datagram);
    tagged.freeze()
}

/// Carries datagrams to their flows, looks after what nobody reads, and ends the tunnel with its connection, and the connection with its tunnel.
pub(crate) async fn drive(
    connection: quinn::Connection,
    life: Arc<Life>,
    (flows, unread): (Arc<Flows>, Arc<Unread>),
) {
    let _cut_short = Cut(connection.clone(), Arc::clone(&life));
    let ending = life.ending().clone();
    loop {
        tokio::select! {
            biased;
            () = ending.cancelled() => return,
            () = unread.due() => unread.look(),
            datagram = connection.read_datagram() => match datagram {
                Ok(datagram) => {
                    life.hear();
                    flows.deliver(datagram);
                }
                Err(error) => {
                    let closed = why(&error);
                    return life.end(closed.code, closed.cause);
                }
            },
        }
    }
}

/// Closes the connection however its task ends.
struct Cut(quinn::Connection, Arc<Life>);

impl Drop for Cut {
    fn drop(&mut self) {
        let Self(connection, life) = self;
        life.end(Code::TunnelLost, "the process is stopping");
        let code = life.over().map_or(Code::Closed, |closed| closed.code);
        connection.close(VarInt::from_u32(code.number()), b"");
    }
}

/// What a QUIC error means for a tunnel.
pub(crate) fn why(error: &quinn::ConnectionError) -> Closed {
    let code = match error {
        quinn::ConnectionError::ApplicationClosed(close) => code_of(close.error_code),
        quinn::ConnectionError::TransportError(_)
        | quinn::ConnectionError::ConnectionClosed(_)
        | quinn::ConnectionError::VersionMismatch
        | quinn::ConnectionError::CidsExhausted
        | quinn::ConnectionError::LocallyClosed
        | quinn::ConnectionError::TimedOut
        | quinn::ConnectionError::Reset => Code::TunnelLost,
    };
    Closed {
        code,
        cause: error.to_string(),
    }
}
