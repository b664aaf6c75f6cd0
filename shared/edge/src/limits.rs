//! Every deadline and budget that stands between a stranger and the rest of the program.

use std::time::Duration;

use sallyport_ops::duration::duration;
use serde::Deserialize;

/// The `[limits]` table of `gateway.toml`. Durations are written as `"10s"`, `"500ms"`, `"5m"`,
/// `"1h"` or as whole seconds; sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// From accept until the handshake is done: PROXY header, ClientHello and TLS together (10 s).
    #[serde(deserialize_with = "duration")]
    pub establish: Duration,
    /// Handshakes in progress at once, before early drop begins (1,000).
    pub handshakes: usize,
    /// Of these, handshakes of one address, or of one /64 of IPv6 (256).
    pub handshakes_per_source: usize,
    /// Client connections at once; none means that it is computed from the limits of the process.
    pub connections: Option<usize>,
    /// Client connections of one address, or of one /64 of IPv6 (1,024).
    pub connections_per_source: usize,
    /// Bytes of a ClientHello with its record headers (16 KiB).
    pub client_hello_bytes: usize,

    /// First byte after the handshake (10 s).
    #[serde(deserialize_with = "duration")]
    pub first_byte: Duration,
    /// A whole request head, from its first byte to its last (10 s); on HTTP/2 one frame or one
    /// header block.
    #[serde(deserialize_with = "duration")]
    pub head: Duration,
    /// Bytes of a request head, or of a header block of HTTP/2 (32 KiB).
    pub head_bytes: usize,
    /// Bytes of one header field, name and value (16 KiB).
    pub field_bytes: usize,
    /// Bytes of a request target (8 KiB).
    pub target_bytes: usize,
    /// Header fields of a request (100).
    pub fields: usize,
    /// Bytes of the trailers of a request (8 KiB).
    pub trailer_bytes: usize,
    /// Trailer fields of a request (32).
    pub trailer_fields: usize,

    /// Bytes per second below which a request body counts as stalled (500).
    pub body_rate: u64,
    /// Over how long that rate is averaged (20 s).
    #[serde(deserialize_with = "duration")]
    pub body_window: Duration,
    /// How long a body may take before the rate counts (10 s).
    #[serde(deserialize_with = "duration")]
    pub body_grace: Duration,
    /// Without any byte accepted by a client that has bytes to read (60 s).
    #[serde(deserialize_with = "duration")]
    pub write_stall: Duration,
    /// Without a request on an open connection (75 s).
    #[serde(deserialize_with = "duration")]
    pub keep_alive: Duration,
    /// Without a byte either way in an exchange that is under way, a WebSocket or a tunnel (1 h).
    #[serde(deserialize_with = "duration")]
    pub idle: Duration,
    /// Without a byte to a client that has finished sending (30 s).
    #[serde(deserialize_with = "duration")]
    pub half_closed: Duration,
    /// Age of a connection after which it is asked to end, ± 10 % (1 h).
    #[serde(deserialize_with = "duration")]
    pub max_age: Duration,
    /// Requests of one connection after which it is asked to end (10,000).
    pub max_requests: u64,
    /// For a client to read a refusal and close, or on HTTP/2 to stop sending what is not wanted any more (1 s). As long
    /// an error that comes before its request is through waits for the first bytes of its body.
    #[serde(deserialize_with = "duration")]
    pub linger: Duration,
    /// Bytes of such a client that are read and dropped meanwhile (64 KiB).
    pub linger_bytes: usize,

    /// Streams of one HTTP/2 connection at once (100).
    pub h2_streams: u32,
    /// Receive window of a stream of HTTP/2 (256 KiB).
    pub h2_stream_window: u32,
    /// Receive window of a connection of HTTP/2 (1 MiB).
    pub h2_connection_window: u32,
    /// Bytes waiting to be sent on one stream of HTTP/2 (64 KiB).
    pub h2_send_buffer: usize,
    /// For a client of HTTP/2 to open its window for an answer that waits for it (5 min); its stream is then reset.
    #[serde(deserialize_with = "duration")]
    pub h2_stall: Duration,
    /// Streams reset by the client that wait to be noticed (20).
    pub h2_pending_resets: usize,
    /// Streams that we reset because of the client's errors (100).
    pub h2_local_resets: usize,
    /// Streams that a client may reset within `h2_resets_per` (100).
    pub h2_resets: u32,
    /// See `h2_resets` (10 s).
    #[serde(deserialize_with = "duration")]
    pub h2_resets_per: Duration,
    /// Frames that move nothing within `h2_glitches_per` (1,000); at three quarters the connection
    /// is asked to end.
    pub h2_glitches: u32,
    /// See `h2_glitches` (1 h).
    #[serde(deserialize_with = "duration")]
    pub h2_glitches_per: Duration,
    /// What an eighth of the bytes that carry no payload may exceed the payload by (1 MiB).
    pub h2_overhead: u64,
    /// Between pings that ask whether a silent HTTP/2 client is still there (30 s).
    #[serde(deserialize_with = "duration")]
    pub h2_ping: Duration,
    /// For the answer to such a ping (10 s).
    #[serde(deserialize_with = "duration")]
    pub h2_ping_answer: Duration,

    /// For a relay to come that could serve a session, where none was lost: after a start (2 s).
    #[serde(deserialize_with = "duration")]
    pub relay_wait: Duration,
    /// Requests that wait for a relay at once; more are told to try again (1,000).
    pub relay_waiting: usize,
    /// For the first byte of an answer, where the session asks for a limit without naming one (300 s).
    #[serde(deserialize_with = "duration")]
    pub answer: Duration,
    /// That a stream to a session is kept without a request (2 s); it holds a connection there and about 30 KiB here.
    #[serde(deserialize_with = "duration")]
    pub upstream_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            establish: Duration::from_secs(10),
            handshakes: 1_000,
            handshakes_per_source: 256,
            connections: None,
            connections_per_source: 1_024,
            client_hello_bytes: 16 * KIB,
            first_byte: Duration::from_secs(10),
            head: Duration::from_secs(10),
            head_bytes: 32 * KIB,
            field_bytes: 16 * KIB,
            target_bytes: 8 * KIB,
            fields: 100,
            trailer_bytes: 8 * KIB,
            trailer_fields: 32,
            body_rate: 500,
            body_window: Duration::from_secs(20),
            body_grace: Duration::from_secs(10),
            write_stall: Duration::from_secs(60),
            keep_alive: Duration::from_secs(75),
            idle: Duration::from_secs(3_600),
            half_closed: Duration::from_secs(30),
            max_age: Duration::from_secs(3_600),
            max_requests: 10_000,
            linger: Duration::from_secs(1),
            linger_bytes: 64 * KIB,
            h2_streams: 100,
            h2_stream_window: 256 << 10,
            h2_connection_window: 1 << 20,
            h2_send_buffer: 64 * KIB,
            h2_stall: Duration::from_secs(300),
            h2_pending_resets: 20,
            h2_local_resets: 100,
            h2_resets: 100,
            h2_resets_per: Duration::from_secs(10),
            h2_glitches: 1_000,
            h2_glitches_per: Duration::from_secs(3_600),
            h2_overhead: 1 << 20,
            h2_ping: Duration::from_secs(30),
            h2_ping_answer: Duration::from_secs(10),
            relay_wait: Duration::from_secs(2),
            relay_waiting: 1_000,
            answer: Duration::from_secs(300),
            upstream_idle: Duration::from_secs(2),
        }
    }
}

impl Limits {
    /// What makes these limits useless, with the name of the key; none where they can be used.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let zero = self
            .durations()
            .into_iter()
            .find(|(_, value)| value.is_zero());
        let none = self.amounts().into_iter().find(|(_, value)| *value == 0);
        let name = zero
            .map(|(name, _)| name)
            .or_else(|| none.map(|(name, _)| name));
        if let Some(name) = name {
            return Some(format!("`{name}` is 0, which would refuse everybody"));
        }
        if self.head_bytes < self.field_bytes.max(self.target_bytes) {
            return Some("`head_bytes` is less than `field_bytes` or `target_bytes`".to_owned());
        }
        let longest = Duration::from_secs(10 * 365 * 86_400);
        let endless = self
            .durations()
            .into_iter()
            .find(|(_, value)| *value > longest);
        endless.map(|(name, _)| format!("`{name}` is longer than ten years"))
    }

    const fn durations(&self) -> [(&'static str, Duration); 18] {
        [
            ("establish", self.establish),
            ("first_byte", self.first_byte),
            ("head", self.head),
            ("body_window", self.body_window),
            ("write_stall", self.write_stall),
            ("keep_alive", self.keep_alive),
            ("idle", self.idle),
            ("half_closed", self.half_closed),
            ("max_age", self.max_age),
            ("linger", self.linger),
            ("h2_stall", self.h2_stall),
            ("h2_resets_per", self.h2_resets_per),
            ("h2_glitches_per", self.h2_glitches_per),
            ("h2_ping", self.h2_ping),
            ("h2_ping_answer", self.h2_ping_answer),
            ("relay_wait", self.relay_wait),
            ("answer", self.answer),
            ("upstream_idle", self.upstream_idle),
        ]
    }

    fn amounts(&self) -> [(&'static str, usize); 15] {
        let small = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        [
            ("handshakes", self.handshakes),
            ("handshakes_per_source", self.handshakes_per_source),
            ("connections", self.connections.unwrap_or(usize::MAX)),
            ("connections_per_source", self.connections_per_source),
            ("client_hello_bytes", self.client_hello_bytes),
            ("head_bytes", self.head_bytes),
            ("field_bytes", self.field_bytes),
            ("target_bytes", self.target_bytes),
            ("fields", self.fields),
            (
                "max_requests",
                usize::try_from(self.max_requests).unwrap_or(usize::MAX),
            ),
            ("h2_streams", small(self.h2_streams)),
            ("h2_stream_window", small(self.h2_stream_window)),
            ("h2_connection_window", small(self.h2_connection_window)),
            ("h2_send_buffer", self.h2_send_buffer),
            ("h2_glitches", small(self.h2_glitches)),
        ]
    }
}

const KIB: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_can_be_set_and_nothing_else() {
        let text = "head = \"1500ms\"\nidle = \"2h\"\nkeep_alive = 5\nmax_age = \"3m\"\nfields = 7\nconnections = 9";
        let limits: Limits = toml::from_str(text).expect("valid");
        let expected = Limits {
            head: Duration::from_millis(1_500),
            idle: Duration::from_secs(7_200),
            keep_alive: Duration::from_secs(5),
            max_age: Duration::from_secs(180),
            fields: 7,
            connections: Some(9),
            ..Limits::default()
        };
        assert_eq!(limits, expected);
        assert!(toml::from_str::<Limits>("heads = 1").is_err());
    }

    #[test]
    fn a_limit_that_would_shut_everybody_out_is_named() {
        assert_eq!(Limits::default().fault(), None);
        let limits = Limits {
            head: Duration::ZERO,
            ..Limits::default()
        };
        assert!(limits.fault().expect("a fault").contains("`head`"));
        let limits = Limits {
            field_bytes: 99 << 10,
            ..Limits::default()
        };
        assert!(limits.fault().expect("a fault").contains("`head_bytes`"));
    }
}
