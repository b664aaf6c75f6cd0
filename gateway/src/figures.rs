//! What the gateway counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use sallyport_ops::Metrics;
use sallyport_wire::Code;

/// One label with one value.
type Labelled = Family<[(&'static str, &'static str); 1], Counter>;

/// The gateway's metrics; clones count into the same figures.
#[derive(Debug, Clone)]
pub struct Figures {
    connections: Labelled,
    streams: Labelled,
    refusals: Labelled,
    handshakes_failed: Labelled,
    reloads: Labelled,
    promotions: Labelled,
    bytes_up: Counter,
    bytes_down: Counter,
    streams_open: Gauge,
    streams_promoted: Gauge,
    tunnels: Gauge,
    nodes: Gauge,
    sessions: Gauge,
    lost_homes: Gauge,
}

impl Figures {
    /// Figures that are shown in `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let labelled = |name, help| metrics.register(name, help, Labelled::default());
        Self {
            connections: labelled(
                "connections_established",
                "Connections established, by kind",
            ),
            streams: labelled("streams", "Streams opened to sessions, by kind"),
            refusals: labelled(
                "refusals",
                "Relays, claims, streams and requests refused, by code",
            ),
            handshakes_failed: labelled(
                "handshakes_failed",
                "Connections that were not established, by cause",
            ),
            reloads: labelled("reloads", "Reloads of files, by result"),
            promotions: labelled(
                "promotions",
                "Streams that a data connection was to carry, by result",
            ),
            bytes_up: metrics.counter("bytes_up", "Bytes from clients to sessions"),
            bytes_down: metrics.counter("bytes_down", "Bytes from sessions to clients"),
            streams_open: metrics.gauge("streams_open", "Streams to sessions open now"),
            streams_promoted: metrics.gauge(
                "streams_promoted",
                "Streams that a data connection carries now",
            ),
            tunnels: metrics.gauge("tunnels", "Tunnels connected now"),
            nodes: metrics.gauge("relays", "Nodes connected now"),
            sessions: metrics.gauge("sessions", "Sessions that can be reached now"),
            lost_homes: metrics.gauge("lost_homes", "Sessions whose home was lost lately"),
        }
    }

    /// A connection was established.
    pub fn connection(&self, kind: &'static str) {
        self.connections.get_or_create(&[("kind", kind)]).inc();
    }

    /// A connection was not established.
    pub fn handshake_failed(&self, cause: &'static str) {
        self.handshakes_failed
            .get_or_create(&[("cause", cause)])
            .inc();
    }

    /// A relay, a claim, a stream or a request was refused.
    pub fn refusal(&self, code: Code) {
        self.refusals.get_or_create(&[("code", code.word())]).inc();
    }

    /// Files were read again, and taken or not.
    pub fn reload(&self, taken: bool) {
        let result = if taken { "taken" } else { "kept" };
        self.reloads.get_or_create(&[("result", result)]).inc();
    }

    /// A stream to a session was opened.
    pub fn stream_opened(&self, kind: &'static str) {
        self.streams.get_or_create(&[("kind", kind)]).inc();
        self.streams_open.inc();
    }

    /// A stream to a session ended after so many bytes.
    pub fn stream_ended(&self, up: u64, down: u64) {
        self.streams_open.dec();
        self.bytes_up.inc_by(up);
        self.bytes_down.inc_by(down);
    }

    /// A stream was to be carried by a data connection, and was not.
    pub fn promotion(&self, result: &'static str) {
        self.promotions.get_or_create(&[("result", result)]).inc();
    }

    /// A data connection begins to carry a stream, or has ended to.
    pub fn promoted(&self, begins: bool) {
        if begins {
            self.promotion("carried");
            self.streams_promoted.inc();
        } else {
            self.streams_promoted.dec();
        }
    }

    /// Who is connected now.
    pub fn connected(&self, nodes: usize, tunnels: usize, sessions: usize, lost: usize) {
        let set = |gauge: &Gauge, count: usize| gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        set(&self.nodes, nodes);
        set(&self.tunnels, tunnels);
        set(&self.sessions, sessions);
        set(&self.lost_homes, lost);
    }
}
