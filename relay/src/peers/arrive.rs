//! Another node at the door: it proves who it is as it would to a gateway, and is shown the same of this node.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use sallyport_link::admission::Admitted;
use sallyport_link::{Gatekeeper, Transport, Tunnel, peer};
use sallyport_wire::message::{Hello, Refused, Welcome};
use sallyport_wire::{BINDING_LEN, Code};
use time::OffsetDateTime;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{info, warn};

use super::Peers;
use super::own::NotOwn;

/// Most tunnels of one process of one node.
const MOST_OF_A_NODE: usize = 8;

/// When a node may come back that was refused for want of room, or because this one leaves.
const COME_BACK: Duration = Duration::from_secs(5);

/// One node at the door.
#[derive(Debug)]
pub(crate) struct Visitor {
    peers: Arc<Peers>,
    came: OnceLock<Came>,
}

/// A node that was let in.
#[derive(Debug)]
pub(super) struct Came {
    /// What it proved.
    pub(super) admitted: Admitted,
    /// The key by which this node proved itself.
    pub(super) kid: String,
    /// Its place among the peer tunnels; none if it takes that of an older process of its node.
    pub(super) place: Place,
}

/// Why a node is refused: what it hears, and what the log says.
struct Refusal {
    code: Code,
    cause: String,
    retry_after: Duration,
}

/// See [`Came::place`].
type Place = Option<OwnedSemaphorePermit>;

impl Visitor {
    /// Somebody whose hello has not been read yet.
    pub(crate) const fn new(peers: Arc<Peers>) -> Self {
        Self {
            peers,
            came: OnceLock::new(),
        }
    }

    /// What is known of it once it was let in.
    pub(super) fn into_came(self) -> Option<Came> {
        self.came.into_inner()
    }
}

impl Gatekeeper for Visitor {
    async fn admit(
        &self,
        hello: &Hello,
        binding: &[u8; BINDING_LEN],
        from: SocketAddr,
        _transport: Transport,
    ) -> Result<Welcome, Refused> {
        match self.peers.examine(hello, binding).await {
            Ok((came, welcome)) => {
                let node = &came.admitted.node;
                if hello.dry_run {
                    info!(%from, %node, "dry run: the node would be let in");
                } else {
                    let _only_once = self.came.set(came);
                }
                Ok(welcome)
            }
            Err(refusal) => {
                if let Some(unlogged) = self.peers.refusals.pass(from.ip()) {
                    let node: String = hello.node.chars().take(64).collect();
                    let Refusal { code, cause, .. } = &refusal;
                    warn!(%from, node, %code, cause, unlogged, "node refused");
                }
                let retry_after = refusal.retry_after.as_millis();
                Err(Refused {
                    code: refusal.code.number(),
                    retry_after_ms: u32::try_from(retry_after).unwrap_or(u32::MAX),
                })
            }
        }
    }
}

impl Peers {
    async fn examine(
        &self,
        hello: &Hello,
        binding: &[u8; BINDING_LEN],
    ) -> Result<(Came, Welcome), Refusal> {
        if self.outfit.leaving.is_cancelled() {
            return Err(Refusal::new(Code::Draining, "this node leaves", COME_BACK));
        }
        let admitted = self
            .credentials()
            .admission()
            .check(hello, binding, SystemTime::now());
        // Sources are not punished: each node is one, its users could shut it out, and keys cannot be guessed.
        let admitted =
            admitted.map_err(|error| Refusal::new(error.code, &error.cause, Duration::ZERO))?;
        let place = self.let_in(&admitted, hello.dry_run).await?;
        // The key that both sides have: a newer one may not have been copied there yet.
        let key = self
            .credentials()
            .ring()
            .live(&admitted.kid, OffsetDateTime::now_utc());
        let key =
            key.map_err(|error| Refusal::new(Code::Unauthorised, &error.to_string(), COME_BACK))?;
        let person = &self.outfit.person;
        let to = (&admitted.node, binding);
        let proven = peer::identify(&person.node, &person.identity, &key, to, SystemTime::now());
        let identity =
            proven.map_err(|error| Refusal::new(Code::Internal, &error.to_string(), COME_BACK))?;
        let welcome = Welcome {
            version: admitted.version,
            tunnel: if hello.dry_run { 0 } else { self.number() },
            features: admitted.features.clone(),
            max_streams: self.outfit.limits.streams_per_tunnel,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            identity: Some(identity),
            ..Welcome::default()
        };
        let kid = key.kid.clone();
        let came = Came {
            admitted,
            kid,
            place,
        };
        Ok((came, welcome))
    }

    /// Gives it its name, if there is room. A newer process of a node puts the older one's tunnels out.
    async fn let_in(&self, new: &Admitted, dry_run: bool) -> Result<Place, Refusal> {
        let refused = |(code, cause): NotOwn| Refusal::new(code, &cause, Duration::ZERO);
        let (older, place) = self.may_come(new)?;
        if dry_run {
            self.would_claim(new).map_err(refused)?;
            return Ok(None);
        }
        self.claim(new).map_err(refused)?;
        self.save_name(&new.node).await.map_err(refused)?;
        for tunnel in older {
            tunnel.close(Code::Superseded);
        }
        Ok(place)
    }

    /// Its place, if there is one, and the tunnels of an older process of the node, which it may have those of.
    fn may_come(&self, new: &Admitted) -> Result<(Vec<Tunnel>, Place), Refusal> {
        if new.node == self.outfit.person.node {
            let cause = "that is the name of this node";
            return Err(Refusal::new(Code::NameTaken, cause, Duration::ZERO));
        }
        let answered = self.board.answered();
        let own: Vec<_> = answered
            .iter()
            .filter(|(who, _)| who.node == new.node)
            .collect();
        if own.iter().any(|(who, _)| who.generation > new.generation) {
            let cause = "a newer process of the node is connected";
            return Err(Refusal::new(Code::Superseded, cause, Duration::ZERO));
        }
        let (same, older): (Vec<_>, Vec<_>) = own
            .into_iter()
            .partition(|(who, _)| who.generation == new.generation);
        // Taken before it has come up, lest two come for the last one.
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        if same.len() >= MOST_OF_A_NODE || (place.is_none() && older.is_empty()) {
            let cause = "as many peer tunnels as there may be (limits.peer_tunnels)";
            return Err(Refusal::new(Code::Limit, cause, COME_BACK));
        }
        let older = older.into_iter().map(|(_, tunnel)| tunnel.clone());
        Ok((older.collect(), place))
    }
}

impl Refusal {
    fn new(code: Code, cause: &str, retry_after: Duration) -> Self {
        Self {
            code,
            cause: cause.to_owned(),
            retry_after,
        }
    }
}
