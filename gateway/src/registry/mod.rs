//! Who is connected and what can be reached through whom: plain data and rules, no I/O and no clock.
//!
//! Three rules make it safe to lose and regain relays at any moment. A newer process of a node takes
//! the place of the older one at once. A session has one home as long as that home is alive. And a
//! tunnel is removed by its own number only, so a late clean-up cannot touch its successor. Names mean
//! something within one cluster only; what all clusters share is room for tunnels.

mod cluster;
mod load;
mod lost;
mod member;
mod route;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sallyport_wire::message::Advertise;
use sallyport_wire::{ClusterName, ClusterNode, Code, NodeName, SessionId};
use tokio::time::Instant;

pub use cluster::Cluster;
pub use load::{Carrying, Load};
pub use member::{Grant, Line, Member, Who};
pub use route::{Offered, Path, Route};

/// How much a registry holds.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Tunnels of all nodes together.
    pub tunnels: usize,
    /// Of these, tunnels that came with one key of gateway.json.
    pub tunnels_per_key: usize,
    /// Tunnels of one generation of one node.
    pub tunnels_per_node: usize,
    /// Sessions that one tunnel may offer.
    pub offers_per_tunnel: usize,
    /// Lost homes of one cluster remembered.
    pub lost: usize,
    /// How long each is remembered.
    pub lost_for: Duration,
    /// How long the node that lost a home has the sole right to it.
    pub home_grace: Duration,
}

/// Why a tunnel was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotJoined {
    /// A newer process of the node is connected.
    #[error("a newer process of this node is connected")]
    Superseded,
    /// The node is connected with another node key.
    #[error("the node is connected with another node key")]
    NameTaken,
    /// The node, or all nodes together, have as many tunnels as they may.
    #[error("as many tunnels are connected as may be (tunnels.per_node, tunnels.most)")]
    Full,
    /// As many tunnels came with its key of gateway.json as may be.
    #[error("as many tunnels are connected with one key as may be (tunnels.per_key)")]
    Share,
}

impl NotJoined {
    /// The code that the relay hears.
    pub const fn code(self) -> Code {
        match self {
            Self::Superseded => Code::Superseded,
            Self::NameTaken => Code::NameTaken,
            Self::Full | Self::Share => Code::Limit,
        }
    }
}

/// An offer that was not taken, as the relay named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotTaken {
    /// Session id, as offered.
    pub id: String,
    /// Why.
    pub code: Code,
}

/// How much there is of a cluster, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Nodes with a tunnel.
    pub nodes: usize,
    /// Tunnels.
    pub tunnels: usize,
    /// Sessions with a way.
    pub sessions: usize,
    /// Lost homes.
    pub lost: usize,
}

/// Tunnels, and the sessions that they lead to.
#[derive(Debug)]
pub struct Registry<T> {
    bounds: Bounds,
    /// Those that had a tunnel: as many as the keys of gateway.json name.
    clusters: HashMap<ClusterName, Cluster<T>>,
    /// The cluster of each tunnel.
    tunnels: HashMap<u64, ClusterName>,
    /// How many tunnels came with a key of gateway.json.
    by_key: HashMap<String, usize>,
}

impl<T> Registry<T> {
    /// An empty one.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            clusters: HashMap::new(),
            tunnels: HashMap::new(),
            by_key: HashMap::new(),
        }
    }

    /// Whether a tunnel of this relay would be taken.
    ///
    /// # Errors
    /// [`NotJoined`] if not.
    pub fn may_join(&self, who: &Who) -> Result<(), NotJoined> {
        let members = self.members(&who.node);
        if members.iter().any(|member| member.who.key != who.key) {
            return Err(NotJoined::NameTaken);
        }
        let newest = members.iter().map(|member| member.who.generation).max();
        if newest.is_some_and(|newest| newest > who.generation) {
            return Err(NotJoined::Superseded);
        }
        let same = |member: &&Arc<Member<T>>| member.who.generation == who.generation;
        let full = members.iter().filter(same).count() >= self.bounds.tunnels_per_node;
        if full || self.tunnels.len() >= self.bounds.tunnels {
            return Err(NotJoined::Full);
        }
        if self.count_of(&who.kid) >= self.bounds.tunnels_per_key {
            return Err(NotJoined::Share);
        }
        Ok(())
    }

    /// Whether a tunnel of this relay would be taken in place of all those of its node.
    ///
    /// # Errors
    /// [`NotJoined::Full`] or [`NotJoined::Share`] if not.
    pub fn may_take_over(&self, who: &Who) -> Result<(), NotJoined> {
        let members = self.members(&who.node);
        let others = self.tunnels.len().saturating_sub(members.len());
        if others >= self.bounds.tunnels {
            return Err(NotJoined::Full);
        }
        let same_key = |member: &&Arc<Member<T>>| member.who.kid == who.kid;
        let own = members.iter().filter(same_key).count();
        if self.count_of(&who.kid).saturating_sub(own) >= self.bounds.tunnels_per_key {
            return Err(NotJoined::Share);
        }
        Ok(())
    }

    /// Whether every tunnel of a node has missed so many probes in a row, or there is none.
    pub fn is_dead(&self, node: &ClusterNode, misses: u32) -> bool {
        self.members(node)
            .iter()
            .all(|member| member.missed() >= misses)
    }

    /// Takes a tunnel. Returns the tunnels of older processes of the same node that it puts out; those
    /// of the process that it says it succeeds stay until they end, for what runs on them.
    ///
    /// # Errors
    /// As [`Registry::may_join`].
    pub fn join(
        &mut self,
        member: &Arc<Member<T>>,
        now: Instant,
    ) -> Result<Vec<Arc<Member<T>>>, NotJoined> {
        let who = &member.who;
        self.may_join(who)?;
        let mut out = Vec::new();
        for older in self.members(&who.node).to_vec() {
            if older.who.generation >= who.generation {
                continue;
            }
            if older.who.generation == who.successor_of {
                older.replace();
                continue;
            }
            self.leave(older.id, now);
            out.push(older);
        }
        let bounds = self.bounds;
        self.clusters
            .entry(who.node.cluster.clone())
            .or_insert_with(|| Cluster::new(bounds))
            .join(member);
        self.tunnels.insert(member.id, who.node.cluster.clone());
        *self.by_key.entry(who.kid.clone()).or_default() += 1;
        Ok(out)
    }

    /// Removes one tunnel and what was reached through it. False if it was not there any more.
    pub fn leave(&mut self, tunnel: u64, now: Instant) -> bool {
        let name = self.tunnels.remove(&tunnel);
        let cluster = name.and_then(|name| self.clusters.get_mut(&name));
        let Some(gone) = cluster.and_then(|cluster| cluster.leave(tunnel, now)) else {
            return false;
        };
        let kid = &gone.who.kid;
        match self.by_key.get_mut(kid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.by_key.remove(kid)),
        }
        true
    }

    /// Gives up a node's right to the homes that it lost, for any node of its cluster to claim.
    pub fn release_homes(&mut self, node: &ClusterNode) {
        if let Some(cluster) = self.clusters.get_mut(&node.cluster) {
            cluster.release_homes(&node.name);
        }
    }

    /// Replaces what a tunnel offers. Returns what was not taken; `None` if the tunnel is gone.
    pub fn advertise(
        &mut self,
        tunnel: u64,
        advertise: &Advertise,
        now: Instant,
    ) -> Option<Vec<NotTaken>> {
        let cluster = self.clusters.get_mut(self.tunnels.get(&tunnel)?)?;
        cluster.advertise(tunnel, advertise, now)
    }

    /// What is known of a cluster; none if it never had a tunnel.
    pub fn cluster(&self, name: &ClusterName) -> Option<&Cluster<T>> {
        self.clusters.get(name)
    }

    /// Every cluster that had a tunnel.
    pub fn clusters(&self) -> impl Iterator<Item = (&ClusterName, &Cluster<T>)> {
        self.clusters.iter()
    }

    /// The ways to a session of a cluster.
    pub fn route(&self, cluster: &ClusterName, session: &SessionId) -> Option<Arc<Route<T>>> {
        self.cluster(cluster)?.route(session)
    }

    /// The node that was the home of a cluster's session until a short while ago.
    pub fn lost_home(
        &self,
        cluster: &ClusterName,
        session: &SessionId,
        now: Instant,
    ) -> Option<&NodeName> {
        self.cluster(cluster)?.lost_home(session, now)
    }

    /// Tunnels of a node.
    pub fn members(&self, node: &ClusterNode) -> &[Arc<Member<T>>] {
        let cluster = self.cluster(&node.cluster);
        cluster.map_or(&[], |cluster| cluster.members(&node.name))
    }

    /// Every tunnel.
    pub fn tunnels(&self) -> impl Iterator<Item = &Arc<Member<T>>> {
        self.clusters.values().flat_map(Cluster::tunnels)
    }

    /// How much there is of all clusters together.
    pub fn counts(&self) -> Counts {
        let mut all = Counts::default();
        for counts in self.clusters.values().map(Cluster::counts) {
            all.nodes += counts.nodes;
            all.tunnels += counts.tunnels;
            all.sessions += counts.sessions;
            all.lost += counts.lost;
        }
        all
    }

    fn count_of(&self, kid: &str) -> usize {
        self.by_key.get(kid).copied().unwrap_or_default()
    }
}
