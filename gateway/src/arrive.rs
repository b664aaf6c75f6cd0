//! A relay at the door: who it is, whether its name is its own, and whether it may join.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use sallyport_link::admission::{Admitted, NotAdmitted};
use sallyport_link::key::Key;
use sallyport_link::names::{Binding, Claim, ClaimError, NodeKey};
use sallyport_link::{Gatekeeper, Transport};
use sallyport_wire::message::{Hello, Refused, Welcome};
use sallyport_wire::{BINDING_LEN, ClusterNode, Code};
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::hub::Hub;
use crate::registry::{NotJoined, Who};

/// When a relay may come back that was refused for want of room, or because the gateway drains.
const COME_BACK: Duration = Duration::from_secs(5);

/// One relay at the door.
#[derive(Debug)]
pub struct Visitor {
    hub: Arc<Hub>,
    arrival: OnceLock<Arrival>,
}

/// A relay that was let in.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Number that its tunnel has.
    pub tunnel: u64,
    /// What it proved.
    pub admitted: Admitted,
    /// The key that it proved it with.
    pub key: Arc<Key>,
}

/// Why a relay is refused: what it hears, and what the log says.
struct Refusal {
    code: Code,
    cause: String,
    kid: Option<String>,
    skew: Option<i64>,
    retry_after: Duration,
}

impl Visitor {
    /// Somebody whose hello has not been read yet.
    pub const fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            arrival: OnceLock::new(),
        }
    }

    /// What is known of it once it was let in.
    pub fn into_arrival(self) -> Option<Arrival> {
        self.arrival.into_inner()
    }
}

impl Arrival {
    /// Its node, in the cluster of its key.
    fn node(&self) -> ClusterNode {
        ClusterNode {
            cluster: self.admitted.scope.cluster.clone(),
            name: self.admitted.node.clone(),
        }
    }

    /// As the registry knows it.
    pub fn who(&self) -> Who {
        let admitted = &self.admitted;
        Who {
            node: self.node(),
            key: NodeKey::new(admitted.node_key),
            kid: admitted.kid.clone(),
            generation: admitted.generation,
            successor_of: admitted.successor_of.unwrap_or(0),
            site: admitted.site.clone(),
            software: admitted.software.clone(),
        }
    }

    /// What the name of its node would be bound to.
    fn binding(&self) -> Binding {
        Binding {
            key: NodeKey::new(self.admitted.node_key),
            kid: self.admitted.kid.clone(),
            ephemeral: self.admitted.scope.ephemeral,
        }
    }
}

impl Gatekeeper for Visitor {
    async fn admit(
        &self,
        hello: &Hello,
        binding: &[u8; BINDING_LEN],
        peer: SocketAddr,
        transport: Transport,
    ) -> Result<Welcome, Refused> {
        match self.hub.examine(hello, binding, peer).await {
            Ok(arrival) => {
                let welcome = self.hub.welcome(&arrival);
                if hello.dry_run {
                    let (node, kid) = (arrival.node(), &arrival.admitted.kid);
                    info!(%peer, %transport, %node, kid, "dry run: the relay would be let in");
                } else {
                    let _only_once = self.arrival.set(arrival);
                }
                Ok(welcome)
            }
            Err(refusal) => {
                self.hub.figures.refusal(refusal.code);
                if let Some(unlogged) = self.hub.refusals.pass(peer.ip()) {
                    let node: String = hello.node.chars().take(64).collect();
                    let Refusal {
                        code,
                        cause,
                        kid,
                        skew,
                        ..
                    } = &refusal;
                    warn!(%peer, %transport, node, kid, %code, cause, skew, dry_run = hello.dry_run, unlogged, "relay refused");
                }
                let retry_after = refusal.retry_after.as_millis();
                let retry_after_ms = u32::try_from(retry_after).unwrap_or(u32::MAX);
                Err(Refused {
                    code: refusal.code.number(),
                    retry_after_ms,
                })
            }
        }
    }
}

impl Hub {
    /// Finds out who it is, and lets it in unless it asked only whether it would be.
    async fn examine(
        &self,
        hello: &Hello,
        binding: &[u8; BINDING_LEN],
        peer: SocketAddr,
    ) -> Result<Arrival, Refusal> {
        let arrival = self.identify(hello, binding, peer)?;
        let decided = if hello.dry_run {
            self.would_let_in(&arrival)
        } else {
            self.let_in(&arrival).await
        };
        match decided {
            Ok(()) => Ok(arrival),
            Err((code, cause)) => Err(Refusal {
                kid: Some(arrival.admitted.kid),
                ..Refusal::new(code, &cause, COME_BACK)
            }),
        }
    }

    fn identify(
        &self,
        hello: &Hello,
        binding: &[u8; BINDING_LEN],
        peer: SocketAddr,
    ) -> Result<Arrival, Refusal> {
        if self.is_draining() {
            return Err(Refusal::new(
                Code::Draining,
                "the gateway drains",
                COME_BACK,
            ));
        }
        self.check_penalty(peer)?;
        let admitted = self.admission.check(hello, binding, SystemTime::now());
        let admitted = admitted.map_err(|error| self.not_admitted(error, peer))?;
        let key = self.keys.live(&admitted.kid, OffsetDateTime::now_utc());
        let key = key.map_err(|error| {
            Refusal::new(Code::Unauthorised, &error.to_string(), Duration::ZERO)
        })?;
        Ok(Arrival {
            tunnel: if hello.dry_run { 0 } else { self.number() },
            admitted,
            key,
        })
    }

    /// Gives it its name, on disk before it hears so: a crash must not free a name that a node was told is its own.
    async fn let_in(&self, arrival: &Arrival) -> Result<(), (Code, String)> {
        // First whether it may join: a name is neither bound for, nor taken over by, a relay that stays out.
        self.may_join(&arrival.who())
            .map_err(|error| (error.code(), error.to_string()))?;
        self.claim(arrival)
            .map_err(|error| (error.code(), with_cure(error)))?;
        if !self.names.is_saved(&arrival.node()) {
            let not_saved = |cause| (Code::Internal, format!("its name is not saved: {cause}"));
            self.names.saved().await.map_err(not_saved)?;
        }
        Ok(())
    }

    /// Whether it would be let in at its next start, which puts its older tunnels out.
    fn would_let_in(&self, arrival: &Arrival) -> Result<(), (Code, String)> {
        let node = arrival.node();
        self.names
            .would_claim(&node, &arrival.binding(), || self.is_dead(&node))
            .map_err(|error| (error.code(), with_cure(error)))?;
        self.registry()
            .may_take_over(&arrival.who())
            .map_err(|error| (error.code(), error.to_string()))
    }

    /// A source that failed often waits, unless relays live there: one that is set up wrongly must not
    /// keep out the others behind the same address.
    fn check_penalty(&self, peer: SocketAddr) -> Result<(), Refusal> {
        let Some(left) = self.penalties.is_punished(peer.ip()) else {
            return Ok(());
        };
        let here = |address: SocketAddr| address.ip().to_canonical() == peer.ip().to_canonical();
        if self
            .registry()
            .tunnels()
            .any(|member| here(member.tunnel.remote()))
        {
            return Ok(());
        }
        Err(Refusal::new(
            Code::Unauthorised,
            "its source failed too often",
            left,
        ))
    }

    fn not_admitted(&self, error: NotAdmitted, peer: SocketAddr) -> Refusal {
        // A gateway that can take no more tokens is not its fault.
        let faulty = error.code.blame() == sallyport_wire::Blame::Asker;
        if faulty && error.code != Code::Limit {
            self.penalties.punish(peer.ip());
        }
        Refusal {
            kid: error.kid,
            skew: error.skew,
            ..Refusal::new(error.code, &error.cause, Duration::ZERO)
        }
    }

    fn may_join(&self, who: &Who) -> Result<(), NotJoined> {
        let registry = self.registry();
        match self.names.is_anothers(&who.node, who.key) {
            true => registry.may_take_over(who),
            false => registry.may_join(who),
        }
    }

    fn claim(&self, arrival: &Arrival) -> Result<(), ClaimError> {
        let (node, kid) = (arrival.node(), &arrival.admitted.kid);
        let is_dead = || self.is_dead(&node);
        match self.names.claim(&node, arrival.binding(), is_dead)? {
            Claim::Known => {}
            Claim::Bound => info!(%node, kid, "node name bound"),
            Claim::Rekeyed => {
                warn!(%node, kid, "node_rekeyed");
                self.expel(&node, Code::NameTaken);
            }
        }
        Ok(())
    }

    fn is_dead(&self, node: &ClusterNode) -> bool {
        let misses = self.config().tunnels.probe_misses;
        self.registry().is_dead(node, misses)
    }

    fn welcome(&self, arrival: &Arrival) -> Welcome {
        let config = self.config();
        Welcome {
            version: arrival.admitted.version,
            gateway: config.url.to_string(),
            tunnel: arrival.tunnel,
            features: arrival.admitted.features.clone(),
            max_streams: u32::try_from(config.tunnels.streams).unwrap_or(u32::MAX),
            tunnels: 0,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            identity: None,
        }
    }
}

/// What is wrong with a claim, and what helps.
fn with_cure(error: ClaimError) -> String {
    let cure = match error {
        ClaimError::Taken => "`sallyport-gateway relays forget` releases it",
        ClaimError::Full => "raise tunnels.names",
        ClaimError::Share => "raise tunnels.names_per_key",
    };
    format!("{error}; {cure}")
}

impl Refusal {
    fn new(code: Code, cause: &str, retry_after: Duration) -> Self {
        Self {
            code,
            cause: cause.to_owned(),
            kid: None,
            skew: None,
            retry_after,
        }
    }
}
