//! Carries a stream that was let in: to the session's program, and back, until both are done.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use sallyport_link::{Promotable, Tunnel, TunnelStream};
use sallyport_ops::Tasks;
use sallyport_splice::{Duplex, Ended, Entry, Ledger, Live};
use sallyport_wire::NodeName;
use sallyport_wire::message::{DATA, Kind, Protocol};
use tracing::{debug, info};

use crate::config::Limits;
use crate::head::Request;
use crate::promote::Invitations;
use crate::reach::{self, ReachError, Upstream};
use crate::sessions::Session;
use crate::vnc;

/// A stream that was let in, and all that its task needs.
pub(crate) struct Admitted {
    pub(crate) request: Request,
    pub(crate) session: Arc<Session>,
    /// Number of the tunnel that it came on; 0 for none.
    pub(crate) tunnel: u64,
    /// What it came over, as lists show it.
    pub(crate) transport: &'static str,
    pub(crate) tasks: Tasks,
}

impl Admitted {
    /// Whether a data connection may carry it: the gateway knows how, and the session's program itself ends TLS.
    pub(crate) fn is_promotable(&self, from: &Tunnel) -> bool {
        let blind = self.request.kind == Kind::Tls && self.session.config.protocol == Protocol::Tls;
        blind && from.has(DATA)
    }
}

/// Joins streams to sessions, and lists them while they last.
#[derive(Debug)]
pub(crate) struct Carrier {
    node: NodeName,
    limits: Limits,
    splice: sallyport_splice::Limits,
    ledger: Ledger,
}

impl Carrier {
    /// For this node, within these bounds.
    pub(crate) fn new(node: NodeName, limits: Limits) -> Self {
        Self {
            node,
            splice: sallyport_splice::Limits {
                idle: Some(limits.idle),
                closing: Some(limits.closing),
                write_stall: Some(limits.write_stall),
                ..sallyport_splice::Limits::default()
            },
            ledger: Ledger::new(),
            limits,
        }
    }

    /// The node that this is.
    pub(crate) const fn node(&self) -> &NodeName {
        &self.node
    }

    /// Every bound.
    pub(crate) const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The streams that are open now.
    pub(crate) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Connects to the session's program.
    pub(crate) async fn reach(&self, admitted: &Admitted) -> Result<Upstream, ReachError> {
        let session = &admitted.session.config;
        let reached = reach::reach(session, &admitted.request.client, self.limits.connect).await;
        match &reached {
            Ok(_) => debug!(target = %session.target, "session reached"),
            Err(cause) => {
                info!(node = %self.node, session = %session.id, %cause, "session not reached");
            }
        }
        reached
    }

    /// Joins a client's stream to its session's until both are done.
    pub(crate) async fn splice<A: Duplex, B: Duplex>(
        &self,
        admitted: &Admitted,
        client: &mut A,
        session: &mut B,
    ) {
        let entry = self.enter(admitted);
        self.join(client, session, &entry).await;
    }

    /// Joins two streams that are listed already.
    pub(crate) async fn join<A: Duplex, B: Duplex>(
        &self,
        client: &mut A,
        session: &mut B,
        entry: &Entry,
    ) {
        let started = Instant::now();
        let ended = sallyport_splice::run(client, session, &self.splice, entry.meter()).await;
        log_end(&ended, started);
    }

    /// As [`Self::splice`], for a stream that data connections may carry.
    pub(crate) async fn splice_promotable(
        &self,
        admitted: &Admitted,
        invitations: &Arc<Invitations>,
        stream: TunnelStream,
        session: &mut Upstream,
    ) {
        let entry = self.enter(admitted);
        let started = Instant::now();
        let meter = Arc::clone(entry.meter());
        let promotee = invitations.promotee(stream.number(), meter);
        let mut client = Promotable::new(stream, promotee, self.limits.data_idle);
        let running = sallyport_splice::run_bare(&mut client, session, &self.splice, entry.meter());
        log_end(&running.await, started);
    }

    /// Ends the WebSocket in an HTTP stream and joins it to the RFB server.
    pub(crate) async fn bridge<S: Duplex + 'static>(&self, admitted: &Admitted, stream: S) {
        let reach = || async { self.reach(admitted).await.map_err(|error| error.code()) };
        match vnc::opened(stream, reach).await {
            Ok(Some((mut frames, mut upstream))) => {
                self.splice(admitted, &mut frames, &mut upstream).await
            }
            Ok(None) => debug!("no WebSocket was asked for"),
            Err(cause) => debug!(%cause, "HTTP to a desktop ended"),
        }
    }

    /// Lists a stream until the entry is dropped.
    pub(crate) fn enter(&self, admitted: &Admitted) -> Entry {
        self.enter_onward(&admitted.request, &self.node, admitted.transport)
    }

    /// As [`Self::enter`], for a session of any node.
    pub(crate) fn enter_onward(
        &self,
        request: &Request,
        node: &NodeName,
        transport: &'static str,
    ) -> Entry {
        let session = request.session.as_ref();
        self.ledger.open(Live {
            id: request.request_id.clone(),
            session: session.map(ToString::to_string).unwrap_or_default(),
            cluster: String::new(),
            node: node.to_string(),
            client: client(request),
            kind: kind_word(request.kind),
            transport,
            since: SystemTime::now(),
        })
    }
}

fn log_end(ended: &Ended, started: Instant) {
    debug!(
        up = ended.up,
        down = ended.down,
        ended_by = ended.by.word(),
        seconds = started.elapsed().as_secs_f64(),
        "stream ended"
    );
}

/// The word of a kind in logs and lists.
pub(crate) const fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Http => "http",
        Kind::Tcp => "tcp",
        Kind::Tls => "tls",
        Kind::Udp => "udp",
        Kind::Probe => "probe",
    }
}

/// The client's address, or nothing if it is not known.
pub(crate) fn client(request: &Request) -> String {
    let address = request.client.address();
    address.as_ref().map(IpAddr::to_string).unwrap_or_default()
}
