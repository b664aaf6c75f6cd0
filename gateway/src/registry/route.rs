//! What is known of one session: an immutable value, replaced as a whole when anything about it changes.

use std::sync::Arc;
use std::time::Duration;

use sallyport_wire::message::{Offer, Protocol, Sticky};
use sallyport_wire::{Code, NodeName, PoolName, Scope, SessionId};

use super::load::Load;
use super::member::Member;

/// Most that an offer's weight can be.
const MAX_WEIGHT: u32 = 1_000;

/// An [`Offer`] that was checked against the names' rules and the key's scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// Session id.
    pub id: SessionId,
    /// What the session speaks.
    pub protocol: Protocol,
    /// The node where it is at home, as a hop says; none where its home itself offers it.
    pub home: Option<NodeName>,
    /// Pool that it belongs to.
    pub pool: Option<PoolName>,
    /// Whether path mode keeps `/s/<id>`.
    pub keep_prefix: bool,
    /// Whether its health check fails just now.
    pub down: bool,
    /// Share of new streams among the members of a pool; 0 takes none.
    pub weight: u32,
    /// What keeps a client with one member of the pool.
    pub sticky: Sticky,
    /// Whether the relay lets clients without identity in.
    pub anonymous: bool,
    /// Whether TLS for it must be passed through unopened.
    pub blind: bool,
    /// Time to the first byte of an answer; none for the gateway's default.
    pub answer_within: Option<Duration>,
}

impl Offered {
    /// Checks an offer.
    ///
    /// # Errors
    /// [`Code::Protocol`] for a malformed one, [`Code::OutOfScope`] for what the key may not serve.
    pub fn check(offer: &Offer, scope: &Scope) -> Result<Self, Code> {
        let id: SessionId = offer.id.parse().map_err(|_name| Code::Protocol)?;
        let protocol = Protocol::try_from(offer.protocol).map_err(|_number| Code::Protocol)?;
        let sticky = Sticky::try_from(offer.sticky).map_err(|_number| Code::Protocol)?;
        let home = match offer.node.as_str() {
            "" => None,
            text => Some(text.parse::<NodeName>().map_err(|_name| Code::Protocol)?),
        };
        let pool = match offer.pool.as_str() {
            "" => None,
            text => Some(text.parse::<PoolName>().map_err(|_name| Code::Protocol)?),
        };
        let pool_allowed = pool
            .as_ref()
            .is_none_or(|pool| scope.sessions.matches(pool.as_str()));
        if !scope.sessions.matches(id.as_str()) || !pool_allowed {
            return Err(Code::OutOfScope);
        }
        Ok(Self {
            id,
            protocol,
            home,
            pool,
            keep_prefix: offer.keep_prefix,
            down: offer.down,
            weight: offer.weight.min(MAX_WEIGHT),
            sticky,
            anonymous: offer.anonymous,
            blind: offer.blind,
            answer_within: match offer.answer_within {
                0 => None,
                seconds => Some(Duration::from_secs(seconds.into())),
            },
        })
    }
}

/// A way to a session: a tunnel whose relay offered it.
#[derive(Debug)]
pub struct Path<T> {
    /// The tunnel.
    pub member: Arc<Member<T>>,
    /// What its relay offered.
    pub offer: Arc<Offered>,
    /// What the session carries over all ways to it.
    pub load: Load,
}

impl<T> Clone for Path<T> {
    fn clone(&self) -> Self {
        Self {
            member: Arc::clone(&self.member),
            offer: Arc::clone(&self.offer),
            load: self.load.clone(),
        }
    }
}

/// The ways to one session.
#[derive(Debug)]
pub struct Route<T> {
    /// Tunnels of the node where it is at home.
    pub home: Vec<Path<T>>,
    /// Tunnels of nodes that hop to it, all to the same home.
    pub via: Vec<Path<T>>,
}

impl<T> Default for Route<T> {
    /// No way yet.
    fn default() -> Self {
        Self {
            home: Vec::new(),
            via: Vec::new(),
        }
    }
}

impl<T> Route<T> {
    /// Home first, then the hops.
    pub fn paths(&self) -> impl Iterator<Item = &Path<T>> {
        self.home.iter().chain(&self.via)
    }

    /// What the session says of itself: the newest process at its home, else the first hop.
    pub fn offer(&self) -> Option<&Arc<Offered>> {
        let newest = self
            .home
            .iter()
            .max_by_key(|path| path.member.who.generation);
        newest.or_else(|| self.via.first()).map(|path| &path.offer)
    }

    /// What the session carries, the same for all ways; none where there is no way.
    pub(super) fn load(&self) -> Option<&Load> {
        self.paths().next().map(|path| &path.load)
    }

    /// Whether no way is left.
    pub const fn is_empty(&self) -> bool {
        self.home.is_empty() && self.via.is_empty()
    }

    /// This route without a tunnel, and with what that tunnel offers now.
    pub(super) fn with(&self, tunnel: u64, home: Option<Path<T>>, via: Option<Path<T>>) -> Self {
        let others = |paths: &[Path<T>], new: Option<Path<T>>| {
            let kept = paths
                .iter()
                .filter(|path| path.member.id != tunnel)
                .cloned();
            kept.chain(new).collect()
        };
        Self {
            home: others(&self.home, home),
            via: others(&self.via, via),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(protocol: i32, sticky: i32) -> Result<Sticky, Code> {
        let offer = Offer {
            id: "web".to_owned(),
            protocol,
            sticky,
            ..Offer::default()
        };
        Offered::check(&offer, &Scope::default()).map(|offered| offered.sticky)
    }

    #[test]
    fn what_is_not_known_is_not_taken() {
        assert_eq!(checked(0, 0), Ok(Sticky::Unset));
        assert_eq!(checked(5, 3), Ok(Sticky::Cookie));
        for (protocol, sticky) in [(6, 0), (-1, 0), (0, 4), (0, -1)] {
            assert_eq!(checked(protocol, sticky), Err(Code::Protocol));
        }
    }
}
