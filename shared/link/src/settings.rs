//! Every number of a tunnel, with its reason.

use std::ops::RangeInclusive;
use std::time::Duration;

use sallyport_ops::Congestion;

/// Deadlines, queues and windows of a tunnel. [`Settings::gateway`] and [`Settings::relay`] are the defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The hello or its reply must be there within this time after the handshake. Default 5 s.
    pub hello_within: Duration,
    /// A handshake, TCP connect included, must be done within this time. Default 5 s.
    pub handshake_within: Duration,
    /// How long a refusal is held back, so that its time says nothing. Default 50 to 150 ms.
    pub refusal_delay: RangeInclusive<Duration>,
    /// A ping goes out this often. Default 2 s.
    pub ping_every: Duration,
    /// A peer that is silent this long is dead. Default 5.75 s: three pings went unanswered, and everybody concerned
    /// can still be told within 6 s.
    pub dead_after: Duration,
    /// Control messages must leave within this time. Default 10 s.
    pub control_write_within: Duration,
    /// Control messages queued, each way. Default 64.
    pub control_queue: usize,
    /// Where acknowledgements are told: once so many bytes more were taken of a stream. Default 256 KiB.
    pub ack_every: usize,
    /// Streams whose acknowledgements may wait to be told; others are told later. Default 8,192.
    pub acks: usize,
    /// An orderly close may take this long. Default 1 s.
    pub close_within: Duration,
    /// An open waits this long for the other side's leave. Default 2 s.
    pub open_within: Duration,
    /// Most streams that this side opens at once. Default 4,096.
    pub open: usize,
    /// Most streams that the other side may have open at once. Default 4,096 at a relay, 0 at a gateway.
    pub accept: usize,
    /// Datagrams queued in a flow, each way; the newest is dropped. Default 256.
    pub flow_queue: usize,
    /// Bytes of all streams of a tunnel that wait to be read; beyond it the stream that is read least is reset.
    /// Default 64 MiB.
    pub unread: usize,
    /// TLS: bytes that the window of one stream may grow to. Default 16 MiB.
    pub tls_stream_window: u32,
    /// TLS: bytes that the windows of all streams of a tunnel may grow by. Default 64 MiB.
    pub tls_window: usize,
    /// What decides how fast tunnels and data connections send. Default BBR.
    pub congestion: Congestion,
    /// QUIC: bytes that may be under way on one stream. Default 8 MiB.
    pub quic_stream_window: u32,
    /// QUIC: bytes that may be under way on one tunnel. Default 64 MiB.
    pub quic_window: u32,
    /// QUIC: bytes kept until they are acknowledged. Default 16 MiB.
    pub quic_send_window: u64,
    /// QUIC: bytes of datagrams that may wait on one tunnel to be sent. Default 1 MiB.
    pub datagram_send_buffer: usize,
    /// QUIC: bytes of datagrams that may wait on one tunnel to be read. Default 1 MiB at a relay; 256 KiB at a
    /// gateway, where strangers could fill it in the moment before their first datagram ends their connection.
    pub datagram_receive_buffer: usize,
    /// Dialling: the next address, or TLS after QUIC, starts this much later (RFC 8305 §5). Default 250 ms.
    pub stagger: Duration,
    /// Dialling: QUIC may go on for this time once TLS has failed. Default 1.5 s.
    pub quic_alone: Duration,
    /// Dialling: most bytes of a proxy's answer. Default 8 KiB.
    pub proxy_answer: usize,
}

impl Settings {
    /// For the side that dials and serves sessions.
    #[must_use]
    pub fn relay() -> Self {
        Self {
            hello_within: Duration::from_secs(5),
            handshake_within: Duration::from_secs(5),
            refusal_delay: Duration::from_millis(50)..=Duration::from_millis(150),
            ping_every: Duration::from_secs(2),
            dead_after: Duration::from_millis(5_750),
            control_write_within: Duration::from_secs(10),
            control_queue: 64,
            ack_every: 256 * 1024,
            acks: 8_192,
            close_within: Duration::from_secs(1),
            open_within: Duration::from_secs(2),
            open: 4_096,
            accept: 4_096,
            flow_queue: 256,
            unread: 64 * 1024 * 1024,
            tls_stream_window: 16 * 1024 * 1024,
            tls_window: 64 * 1024 * 1024,
            congestion: Congestion::Bbr,
            quic_stream_window: 8 * 1024 * 1024,
            quic_window: 64 * 1024 * 1024,
            quic_send_window: 16 * 1024 * 1024,
            datagram_send_buffer: 1024 * 1024,
            datagram_receive_buffer: 1024 * 1024,
            stagger: Duration::from_millis(250),
            quic_alone: Duration::from_millis(1_500),
            proxy_answer: 8 * 1024,
        }
    }

    /// Streams of the other side as QUIC counts them.
    pub(crate) fn streams_of_theirs(&self) -> u32 {
        u32::try_from(self.accept).unwrap_or(u32::MAX)
    }

    /// For the side that accepts: a relay opens nothing but its control stream there.
    #[must_use]
    pub fn gateway() -> Self {
        Self {
            accept: 0,
            datagram_receive_buffer: 256 * 1024,
            ..Self::relay()
        }
    }
}
