//! Streams for pools that the login chain distributes: to the member on the node that it chooses, and to the next one if
//! that does not take them.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use sallyport_link::TunnelStream;
use sallyport_placement::{Placed, PlacementError};
use sallyport_wire::message::{Head, Kind, Offer};
use sallyport_wire::{Code, NodeName, PoolName, SessionId};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{Source, Streams, Way};
use crate::access::Passage;
use crate::balance::{Guest, Members};
use crate::carry::Admitted;
use crate::head::Request;
use crate::reach::Upstream;

impl Streams {
    /// The pool that the login chain distributes, if a stream is for one of its members: this node has one that says so.
    pub(super) fn distributed(&self, way: &Way) -> Option<(Request, PoolName)> {
        let (request, pool) = match way {
            Way::Probe => return None,
            Way::Here(request, session, _) => (request, session.config.pool.clone()),
            Way::There(request, _) => {
                let session = request.session.as_ref()?;
                let offer = self.hop.directory().offer(session, Instant::now());
                (request, offer.and_then(|offer| offer.pool.parse().ok()))
            }
        };
        let pool = pool.filter(|_| matches!(request.kind, Kind::Tcp | Kind::Tls))?;
        let says_so = |config: &crate::config::SessionConfig| {
            config.balance_login && config.pool.as_ref() == Some(&pool)
        };
        let mut own = self.sessions.iter();
        own.any(|session| says_so(&session.config))
            .then(|| (request.clone(), pool))
    }

    /// Joins a stream to one on the node that is chosen for its client.
    pub(super) async fn distribute(
        self: Arc<Self>,
        (request, pool): (Request, PoolName),
        head: Head,
        stream: TunnelStream,
        source: &Source,
    ) {
        let members = self.members(&pool);
        let address = request.client.address();
        let guest = Guest {
            pool: &pool,
            address: address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            members: &members,
        };
        match Box::pin(self.find_way(&guest, &head, source)).await {
            Ok(Found::There(node, mut there)) => {
                self.balance.keep(&guest, node.clone());
                let transport = source.tunnel.transport().word();
                let entry = self.carrier.enter_onward(&request, &node, transport);
                let mut stream = stream;
                stream.accept();
                self.carrier.join(&mut stream, &mut there, &entry).await;
            }
            Ok(Found::Here(node, way)) => {
                self.balance.keep(&guest, node);
                Box::pin(self.go(*way, head, stream, source)).await;
            }
            Ok(Found::Reached(node, admitted, upstream)) => {
                self.balance.keep(&guest, node);
                Box::pin(self.join(*admitted, upstream, stream, source)).await;
            }
            Err(code) => self.refuse(stream, code).await,
        }
    }

    /// The members of a pool that take clients: on other nodes, and here.
    fn members(&self, pool: &PoolName) -> Members {
        let takes = |offer: &Offer| !offer.down && offer.weight > 0;
        let mut members: Members = self
            .hop
            .directory()
            .members(pool)
            .into_iter()
            .filter(|(_, offer)| takes(offer))
            .filter_map(|(node, offer)| Some((node, offer.id.parse().ok()?)))
            .collect();
        let own = self.sessions.iter().find(|session| {
            let config = &session.config;
            config.pool.as_ref() == Some(pool) && !session.is_down() && config.weight > 0
        });
        if let Some(own) = own {
            members.insert(self.carrier.node().clone(), own.id().clone());
        }
        members
    }

    /// To where a client was before, else to where the chain sends it.
    async fn find_way(
        &self,
        guest: &Guest<'_>,
        head: &Head,
        source: &Source,
    ) -> Result<Found, Code> {
        if let Some(node) = self.balance.kept(guest)
            && let Some(session) = guest.members.get(&node)
            && let Ok(found) = self.try_way((&node, session), head, source).await
        {
            debug!(%node, "a client comes back");
            return Ok(found);
        }
        let refused = |error: PlacementError| {
            info!(pool = %guest.pool, cause = %error, "a client goes nowhere");
            code(&error)
        };
        let mut placed: Placed = self.balance.place(guest).await.map_err(refused)?;
        loop {
            let node = placed.server().clone();
            let found = match guest.members.get(&node) {
                Some(session) => self.try_way((&node, session), head, source).await,
                None => Err(Code::UnknownSession),
            };
            match found {
                Ok(found) => {
                    placed.started();
                    return Ok(found);
                }
                Err(code) => placed = placed.failed(code.text()).await.map_err(refused)?,
            }
        }
    }

    async fn try_way(
        &self,
        (node, session): (&NodeName, &SessionId),
        head: &Head,
        source: &Source,
    ) -> Result<Found, Code> {
        let head = Head {
            target: session.to_string(),
            ..head.clone()
        };
        if node != self.carrier.node() {
            let there = Box::pin(self.hop.open(node, head)).await?;
            return Ok(Found::There(node.clone(), there));
        }
        let node = node.clone();
        match self.admit(&head, false, false)? {
            Way::Here(request, session, Passage::Straight) => {
                let admitted = source.admitted(request, session);
                let reached = self.carrier.reach(&admitted).await;
                let upstream = reached.map_err(|error| error.code())?;
                Ok(Found::Reached(node, Box::new(admitted), upstream))
            }
            way @ (Way::Here(..) | Way::There(..) | Way::Probe) => {
                Ok(Found::Here(node, Box::new(way)))
            }
        }
    }
}

/// Where a client goes.
enum Found {
    /// To another node, which has taken it.
    There(NodeName, TunnelStream),
    /// To a session of this node, which has been reached.
    Reached(NodeName, Box<Admitted>, Upstream),
    /// To a session of this node.
    Here(NodeName, Box<Way>),
}

fn code(error: &PlacementError) -> Code {
    match error {
        PlacementError::Busy(_) | PlacementError::Waited(_) => Code::Limit,
        PlacementError::Threw { .. } => Code::Forbidden,
        PlacementError::Script { .. }
        | PlacementError::Unknown { .. }
        | PlacementError::Disabled { .. }
        | PlacementError::Exhausted(_)
        | PlacementError::NoServer { .. }
        | PlacementError::Failed { .. }
        | PlacementError::NotObserving
        | PlacementError::TooLarge { .. } => Code::SessionDown,
    }
}
