//! The way of a stream: slot, head, access, session, program. Each stream is one task that owns all it took.

use std::sync::Arc;

use sallyport_link::{Incoming, Tunnel, TunnelStream};
use sallyport_ops::Tasks;
use sallyport_ops::metrics::{Counter, Family, Metrics};
use sallyport_splice::{Entry, Ledger, Meter};
use sallyport_wire::message::{Head, Kind};
use sallyport_wire::{Code, NodeName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{Span, debug, field, info, info_span, trace};

use crate::access::{self, Passage};
use crate::balance::Balance;
use crate::carry::{Admitted, Carrier};
use crate::config::Limits;
use crate::head::Request;
use crate::hop::Hop;
use crate::promote::{Invitations, Promotions};
use crate::reach::Upstream;
use crate::sessions::{Session, Sessions};
use crate::{carry, probe, terminate, udp};

mod clients;
mod distributed;

/// The tunnel that streams come from, and what belongs to it.
#[derive(Debug, Clone)]
pub struct Source {
    /// The tunnel.
    pub tunnel: Tunnel,
    /// The data connections of its streams.
    pub invitations: Arc<Invitations>,
    /// Owner of its streams.
    pub tasks: Tasks,
    /// Whether a stream may go on to another node: not one that came from another node already.
    pub hops: bool,
}

impl Source {
    /// A stream of the tunnel that was let in.
    fn admitted(&self, request: Request, session: Arc<Session>) -> Admitted {
        Admitted {
            request,
            session,
            tunnel: self.tunnel.id(),
            transport: self.tunnel.transport().word(),
            tasks: self.tasks.clone(),
        }
    }
}

/// Where a stream goes.
enum Way {
    /// Nowhere: it is a probe.
    Probe,
    /// To a session of this node.
    Here(Request, Arc<Session>, Passage),
    /// To another node, which decides on it.
    There(Request, NodeName),
}

/// Carries streams to the sessions of this node, and on to other nodes.
#[derive(Debug)]
pub struct Streams {
    sessions: Arc<Sessions>,
    hop: Hop,
    balance: Balance,
    carrier: Arc<Carrier>,
    promotions: Arc<Promotions>,
    total: Arc<Semaphore>,
    flows: Arc<Semaphore>,
    opened: Family<Vec<(&'static str, &'static str)>, Counter>,
    refused: Family<Vec<(&'static str, &'static str)>, Counter>,
}

impl Streams {
    /// For these sessions.
    #[must_use]
    pub fn new(node: NodeName, sessions: Arc<Sessions>, limits: Limits, metrics: &Metrics) -> Self {
        let count =
            |limit: u32| Arc::new(Semaphore::new(usize::try_from(limit).unwrap_or(usize::MAX)));
        Self {
            sessions,
            hop: Hop::default(),
            balance: Balance::default(),
            total: count(limits.streams),
            flows: count(limits.udp_flows),
            opened: metrics.register(
                "relay_streams",
                "Streams let in, by kind",
                Family::default(),
            ),
            refused: metrics.register(
                "relay_streams_refused",
                "Streams refused, by reason",
                Family::default(),
            ),
            promotions: Promotions::new(limits.data_connections, metrics),
            carrier: Arc::new(Carrier::new(node, limits)),
        }
    }

    /// The sessions of this node.
    #[must_use]
    pub const fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// The ways to other nodes.
    #[must_use]
    pub const fn hop(&self) -> &Hop {
        &self.hop
    }

    /// Where the clients of pools are distributed to.
    #[must_use]
    pub const fn balance(&self) -> &Balance {
        &self.balance
    }

    /// The data connections of all tunnels.
    #[must_use]
    pub const fn promotions(&self) -> &Arc<Promotions> {
        &self.promotions
    }

    /// The streams that are open now.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        self.carrier.ledger()
    }

    /// Serves the streams of a tunnel until it is closed; each is a task of its own.
    pub async fn serve(self: Arc<Self>, source: Source) {
        let most = usize::try_from(self.carrier.limits().streams_per_tunnel).unwrap_or(usize::MAX);
        let own = Arc::new(Semaphore::new(most));
        while let Some(incoming) = source.tunnel.accept().await {
            let slot = self.slot(&own);
            let span = info_span!(
                "stream",
                request = field::Empty,
                session = field::Empty,
                kind = field::Empty
            );
            let task = Arc::clone(&self).stream(incoming, slot, source.clone());
            source.tasks.spawn(span, task);
        }
    }

    fn slot(&self, own: &Arc<Semaphore>) -> Option<[OwnedSemaphorePermit; 2]> {
        let own = Arc::clone(own).try_acquire_owned().ok()?;
        let total = Arc::clone(&self.total).try_acquire_owned().ok()?;
        Some([own, total])
    }

    async fn stream(
        self: Arc<Self>,
        incoming: Incoming,
        slot: Option<[OwnedSemaphorePermit; 2]>,
        source: Source,
    ) {
        let (head, stream) = match incoming.head(self.carrier.limits().head).await {
            Ok(read) => read,
            Err(cause) => return debug!(%cause, "a stream without a proper head"),
        };
        // At its limits a tunnel still works: a probe refused here would have the gateway close it.
        if slot.is_none() && head.kind != i32::from(Kind::Probe) {
            debug!("as many streams as there may be");
            return self.refuse(stream, Code::Limit).await;
        }
        match self.admit(&head, source.hops, false) {
            Ok(way) => match self.distributed(&way).filter(|_| source.hops) {
                Some(pool) => Box::pin(self.distribute(pool, head, stream, &source)).await,
                None => Box::pin(self.go(way, head, stream, &source)).await,
            },
            Err(code) => self.refuse(stream, code).await,
        }
        drop(slot);
    }

    /// Carries a stream to where it is known to go.
    async fn go(self: Arc<Self>, way: Way, head: Head, stream: TunnelStream, source: &Source) {
        match way {
            Way::Probe => {
                let mut stream = stream;
                stream.accept();
                let echoed = probe::echo(&mut stream).await;
                trace!(bytes = echoed.unwrap_or_default(), "probe answered");
            }
            Way::There(request, node) => {
                let onward = (&request, &node, head);
                Box::pin(self.pass_on(onward, stream, &source.tunnel)).await;
            }
            Way::Here(request, session, passage) => {
                let admitted = source.admitted(request, session);
                Box::pin(self.carry(admitted, passage, stream, source)).await;
            }
        }
    }

    /// Everything that is decided about a stream before anything is done for it.
    fn admit(&self, head: &Head, hops: bool, invited: bool) -> Result<Way, Code> {
        let request = Request::read(head).inspect_err(|code| debug!(%code, "a malformed head"))?;
        let span = Span::current();
        span.record("request", &request.request_id);
        let Some(id) = &request.session else {
            return Ok(Way::Probe);
        };
        span.record("session", id.as_str());
        span.record("kind", carry::kind_word(request.kind));
        let session = self.sessions.locate(id);
        if session.is_err()
            && hops
            && let Some(node) = self.hop.locate(id)
        {
            self.opens(&request);
            return Ok(Way::There(request, node));
        }
        let session = session.inspect_err(
            |code| info!(node = %self.carrier.node(), %code, "no such session here"),
        )?;
        let passage = access::decide(&session.config, &request, invited).inspect_err(
            |code| info!(node = %self.carrier.node(), %code, client = carry::client(&request), "stream not let in"),
        )?;
        session.count();
        self.opens(&request);
        Ok(Way::Here(request, Arc::clone(session), passage))
    }

    fn opens(&self, request: &Request) {
        debug!(client = carry::client(request), "stream opened");
        self.opened
            .get_or_create(&vec![("kind", carry::kind_word(request.kind))])
            .inc();
    }

    /// Joins a stream to one on the node that has its session.
    async fn pass_on(
        &self,
        (request, node, head): (&Request, &NodeName, Head),
        mut stream: TunnelStream,
        tunnel: &Tunnel,
    ) {
        let transport = tunnel.transport().word();
        let entry = self.carrier.enter_onward(request, node, transport);
        if request.kind == Kind::Udp {
            return self
                .pass_on_datagrams((node, head), stream, tunnel, &entry)
                .await;
        }
        match self.hop.open(node, head).await {
            Ok(mut there) => {
                stream.accept();
                self.carrier.join(&mut stream, &mut there, &entry).await;
            }
            Err(code) => self.refuse(stream, code).await,
        }
    }

    async fn pass_on_datagrams(
        &self,
        (node, head): (&NodeName, Head),
        stream: TunnelStream,
        tunnel: &Tunnel,
        entry: &Entry,
    ) {
        let Ok(_place) = self.flows.try_acquire() else {
            debug!("as many flows as there may be");
            return self.refuse(stream, Code::Limit).await;
        };
        let there = match self.hop.open_flow(node, head).await {
            Ok(there) => there,
            Err(code) => return self.refuse(stream, code).await,
        };
        let here = stream.into_flow(tunnel);
        let idle = self.carrier.limits().udp_idle;
        let end = udp::join(&here, &there, idle, entry.meter()).await;
        debug!(ended_by = end.word(), "flow to another node ended");
    }

    async fn carry(
        self: Arc<Self>,
        admitted: Admitted,
        passage: Passage,
        mut stream: TunnelStream,
        source: &Source,
    ) {
        match passage {
            Passage::Straight => match self.carrier.reach(&admitted).await {
                Ok(upstream) => self.join(admitted, upstream, stream, source).await,
                Err(error) => self.refuse(stream, error.code()).await,
            },
            Passage::Bridge => {
                stream.accept();
                self.carrier.bridge(&admitted, stream).await;
            }
            Passage::EndTls => {
                stream.accept();
                Box::pin(terminate::serve(
                    Arc::clone(&self.carrier),
                    admitted,
                    stream,
                ))
                .await;
            }
            Passage::Datagrams => self.datagrams(&admitted, stream, &source.tunnel).await,
        }
    }

    /// Joins a stream to its session, which was reached.
    async fn join(
        &self,
        admitted: Admitted,
        mut upstream: Upstream,
        mut stream: TunnelStream,
        source: &Source,
    ) {
        stream.accept();
        if admitted.is_promotable(&source.tunnel) {
            let invitations = &source.invitations;
            let carried =
                self.carrier
                    .splice_promotable(&admitted, invitations, stream, &mut upstream);
            return carried.await;
        }
        let carried = self.carrier.splice(&admitted, &mut stream, &mut upstream);
        carried.await;
    }

    async fn datagrams(&self, admitted: &Admitted, stream: TunnelStream, tunnel: &Tunnel) {
        let Ok(_place) = self.flows.try_acquire() else {
            debug!("as many flows as there may be");
            return self.refuse(stream, Code::Limit).await;
        };
        let socket = match udp::connect(&admitted.session.config.target).await {
            Ok(socket) => socket,
            Err(cause) => {
                info!(node = %self.carrier.node(), session = %admitted.session.id(), %cause, "session not reached");
                return self.refuse(stream, Code::SessionRefused).await;
            }
        };
        let entry = self.carrier.enter(admitted);
        let flow = stream.into_flow(tunnel);
        let meter: &Meter = entry.meter();
        let end = udp::carry(&flow, &socket, self.carrier.limits().udp_idle, meter).await;
        debug!(
            up = meter.up(),
            down = meter.down(),
            ended_by = end.word(),
            "flow ended"
        );
    }

    async fn refuse(&self, stream: TunnelStream, code: Code) {
        debug!(%code, "stream refused");
        self.count_refused(code);
        stream.refuse(code).await;
    }

    /// Counts something that was refused.
    pub fn count_refused(&self, code: Code) {
        self.refused
            .get_or_create(&vec![("code", code.word())])
            .inc();
    }
}
