//! Pools whose clients the login chain distributes: who is asked where a client goes, and where it went before.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use sallyport_ops::source::Source;
use sallyport_placement::{Action, Placed, Placement, PlacementError, Request};
use sallyport_wire::{NodeName, PoolName, SessionId};
use serde_json::{Value, json};
use tokio::time::Instant;

/// A client comes back to its node for so long after it was there last, as at a gateway.
const KEPT_FOR: Duration = Duration::from_secs(3_600);

/// Most clients whose nodes are kept; beyond that any other is forgotten.
const MOST_KEPT: usize = 65_536;

/// The members of a pool that may take clients, by node.
pub type Members = BTreeMap<NodeName, SessionId>;

/// Chooses nodes for the clients of pools.
#[derive(Debug, Default)]
pub struct Balance {
    placement: OnceLock<Placement>,
    kept: Mutex<HashMap<(PoolName, Source), (NodeName, Instant)>>,
}

/// A client that is to be sent somewhere.
#[derive(Debug)]
pub struct Guest<'g> {
    /// The pool that it comes to.
    pub pool: &'g PoolName,
    /// Its address.
    pub address: IpAddr,
    /// Where it may go.
    pub members: &'g Members,
}

impl Balance {
    /// Asks this placement from now on.
    pub fn by(&self, placement: Placement) {
        // it is set once, when the relay is put together
        drop(self.placement.set(placement));
    }

    /// The node to which a client went before, if that may take it now.
    #[must_use]
    pub fn kept(&self, guest: &Guest<'_>) -> Option<NodeName> {
        let key = (guest.pool.clone(), Source::of(guest.address));
        let (node, since) = self.nodes().get(&key).cloned()?;
        let holds = since.elapsed() < KEPT_FOR && guest.members.contains_key(&node);
        let placement = self.placement.get().filter(|_| holds)?;
        placement.may_choose(&request(guest), &node).then_some(node)
    }

    /// A client went to this node.
    pub fn keep(&self, guest: &Guest<'_>, node: NodeName) {
        let key = (guest.pool.clone(), Source::of(guest.address));
        let mut nodes = self.nodes();
        if nodes.len() >= MOST_KEPT && !nodes.contains_key(&key) {
            let any = nodes.keys().next().cloned();
            any.and_then(|any| nodes.remove(&any));
        }
        nodes.insert(key, (node, Instant::now()));
    }

    /// The node that the login chain chooses for a client.
    ///
    /// # Errors
    /// [`PlacementError`].
    pub async fn place(&self, guest: &Guest<'_>) -> Result<Placed, PlacementError> {
        let placement = self.placement.get();
        let placement = placement.ok_or(PlacementError::NotObserving)?;
        Box::pin(placement.place(request(guest))).await
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<(PoolName, Source), (NodeName, Instant)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody knows yet who comes, only from where.
fn request(guest: &Guest<'_>) -> Request {
    let fields = |value: Value| value.as_object().cloned().unwrap_or_default();
    let members = guest.members.keys().map(ToString::to_string);
    Request {
        user: fields(json!({ "login": "", "serverId": "", "sessions": [], "name": "" })),
        data: fields(json!({ "client": guest.address, "pool": guest.pool })),
        among: Some(members.collect()),
        ..Request::new(Action::Login)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_so_many_clients_are_kept() {
        let (balance, members) = (Balance::default(), Members::new());
        let pool: PoolName = "ssh".parse().expect("a name");
        let keep = |number: u32| {
            let guest = Guest {
                pool: &pool,
                address: IpAddr::V4(number.into()),
                members: &members,
            };
            balance.keep(&guest, "n1".parse().expect("a name"));
        };
        let most = u32::try_from(MOST_KEPT).expect("small");
        (0..=most).for_each(keep);
        assert_eq!(balance.nodes().len(), MOST_KEPT);
        keep(most);
        assert_eq!(balance.nodes().len(), MOST_KEPT);
    }
}
