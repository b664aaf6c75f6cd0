//! Who is connected and what can be reached through whom: plain data and rules, no I/O and no clock.
//!
//! Three rules make it safe to lose and regain relays at any moment. A newer process of a node takes
//! the place of the older one at once. A session has one home as long as that home is alive. And a
//! tunnel is removed by its own number only, so a late clean-up cannot touch its successor.

mod lost;
mod member;
mod route;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sallyport_wire::message::Advertise;
use sallyport_wire::{Code, NodeName, PoolName, Scope, SessionId};
use tokio::time::Instant;

use lost::{Lost, LostHomes};
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
    /// Lost homes remembered.
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

/// Tunnels, and the sessions that they lead to.
#[derive(Debug)]
pub struct Registry<T> {
    bounds: Bounds,
    nodes: HashMap<NodeName, Vec<Arc<Member<T>>>>,
    tunnels: HashMap<u64, Joined<T>>,
    /// How many tunnels came with a key of gateway.json.
    by_key: HashMap<String, usize>,
    routes: HashMap<SessionId, Arc<Route<T>>>,
    pools: HashMap<(String, PoolName), Pool>,
    lost: LostHomes,
}

/// A tunnel and what it offers: session, and whether it is at home there.
#[derive(Debug)]
struct Joined<T> {
    member: Arc<Member<T>>,
    offers: HashMap<SessionId, (Arc<Offered>, Place)>,
}

/// The sessions of a pool, and whose turn it is.
#[derive(Debug, Default)]
struct Pool {
    sessions: BTreeSet<SessionId>,
    turn: AtomicU64,
}

/// Where a session is, seen from the node that offers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Home,
    Via,
}

impl Place {
    /// Whoever offers a way to a session gets its traffic whenever its home is away, so a key must say so.
    const fn allowed_by(self, scope: &Scope) -> Result<(), Code> {
        match self {
            Self::Via if !scope.via => Err(Code::OutOfScope),
            Self::Home | Self::Via => Ok(()),
        }
    }
}

impl<T> Registry<T> {
    /// An empty one.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            nodes: HashMap::new(),
            tunnels: HashMap::new(),
            by_key: HashMap::new(),
            routes: HashMap::new(),
            pools: HashMap::new(),
            lost: LostHomes::new(bounds.lost_for, bounds.lost),
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
    pub fn is_dead(&self, node: &NodeName, misses: u32) -> bool {
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
        self.may_join(&member.who)?;
        let mut out = Vec::new();
        for older in self.members(&member.who.node).to_vec() {
            if older.who.generation >= member.who.generation {
                continue;
            }
            if older.who.generation == member.who.successor_of {
                older.replace();
                continue;
            }
            self.leave(older.id, now);
            out.push(older);
        }
        self.nodes
            .entry(member.who.node.clone())
            .or_default()
            .push(Arc::clone(member));
        let joined = Joined {
            member: Arc::clone(member),
            offers: HashMap::new(),
        };
        self.tunnels.insert(member.id, joined);
        *self.by_key.entry(member.who.kid.clone()).or_default() += 1;
        Ok(out)
    }

    /// Removes one tunnel and what was reached through it. False if it was not there any more.
    pub fn leave(&mut self, tunnel: u64, now: Instant) -> bool {
        let Some(gone) = self.tunnels.remove(&tunnel) else {
            return false;
        };
        let Who { node, kid, .. } = &gone.member.who;
        match self.by_key.get_mut(kid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.by_key.remove(kid)),
        }
        if let Some(members) = self.nodes.get_mut(node) {
            members.retain(|member| member.id != tunnel);
            if members.is_empty() {
                self.nodes.remove(node);
            }
        }
        for (session, (offered, place)) in &gone.offers {
            self.rewrite(session, &gone.member, None);
            if self.is_lost(session, *place, now) {
                let who = &gone.member.who;
                let home = offered.home.as_ref().unwrap_or(&who.node);
                let lost = Lost {
                    node: who.node.clone(),
                    home: home.clone(),
                    cluster: who.cluster.clone(),
                    since: now,
                };
                self.lost.insert(session.clone(), lost);
            }
        }
        true
    }

    /// Gives up a node's right to the homes that it lost, for any node to claim.
    pub fn release_homes(&mut self, node: &NodeName) {
        self.lost.remove_node(node);
    }

    /// Replaces what a tunnel offers. Returns what was not taken; `None` if the tunnel is gone.
    pub fn advertise(
        &mut self,
        tunnel: u64,
        advertise: &Advertise,
        now: Instant,
    ) -> Option<Vec<NotTaken>> {
        let member = Arc::clone(&self.tunnels.get(&tunnel)?.member);
        let grant = member.grant();
        let mut refused = Vec::new();
        let mut taken: HashMap<SessionId, (Arc<Offered>, Place)> = HashMap::new();
        let home = advertise.home.iter().map(|offer| (offer, Place::Home));
        let via = advertise.via.iter().map(|offer| (offer, Place::Via));
        for (offer, place) in home.chain(via) {
            let room = taken.len() < self.bounds.offers_per_tunnel;
            let checked = Offered::check(offer, &grant.scope)
                .and_then(|offered| place.allowed_by(&grant.scope).map(|()| offered))
                .and_then(|offered| self.may_offer(&member, offered, place, now))
                .and_then(|offered| room.then_some(offered).ok_or(Code::Limit));
            match checked {
                Ok(offered) => {
                    let id = offered.id.clone();
                    taken
                        .entry(id)
                        .or_insert_with(|| (Arc::new(offered), place));
                }
                Err(code) => refused.push(NotTaken {
                    id: offer.id.clone(),
                    code,
                }),
            }
        }
        self.replace_offers(&member, taken);
        Some(refused)
    }

    /// The ways to a session.
    pub fn route(&self, session: &SessionId) -> Option<Arc<Route<T>>> {
        self.routes.get(session).cloned()
    }

    /// The ways to every session of a pool, and a number that counts up from call to call.
    pub fn pool(&self, cluster: &str, pool: &PoolName) -> Option<(Vec<Arc<Route<T>>>, u64)> {
        let pool = self.pools.get(&(cluster.to_owned(), pool.clone()))?;
        let routes = pool
            .sessions
            .iter()
            .filter_map(|session| self.route(session))
            .collect();
        Some((routes, pool.turn.fetch_add(1, Ordering::Relaxed)))
    }

    /// Whether a pool has a session.
    pub fn has_pool(&self, cluster: &str, pool: &PoolName) -> bool {
        self.pools.contains_key(&(cluster.to_owned(), pool.clone()))
    }

    /// The node that was the session's home until a short while ago.
    pub fn lost_home(&self, session: &SessionId, now: Instant) -> Option<&NodeName> {
        self.lost.get(session, now).map(|lost| &lost.home)
    }

    /// Tunnels of a node.
    pub fn members(&self, node: &NodeName) -> &[Arc<Member<T>>] {
        self.nodes.get(node).map_or(&[], Vec::as_slice)
    }

    /// Every node with a tunnel.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeName> {
        self.nodes.keys()
    }

    /// Every tunnel.
    pub fn tunnels(&self) -> impl Iterator<Item = &Arc<Member<T>>> {
        self.tunnels.values().map(|joined| &joined.member)
    }

    /// What a tunnel offers.
    pub fn offers(&self, tunnel: u64) -> impl Iterator<Item = &Offered> {
        let offers = self.tunnels.get(&tunnel).map(|joined| &joined.offers);
        offers
            .into_iter()
            .flat_map(|offers| offers.values().map(|(offered, _)| &**offered))
    }

    /// Every session that can be reached, or could if its health check passed.
    pub fn sessions(&self) -> impl Iterator<Item = (&SessionId, &Arc<Route<T>>)> {
        self.routes.iter()
    }

    /// Tunnels, sessions with a way, lost homes.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.tunnels.len(), self.routes.len(), self.lost.len())
    }

    fn count_of(&self, kid: &str) -> usize {
        self.by_key.get(kid).copied().unwrap_or_default()
    }

    /// Whether the loss of a way of this kind is to be remembered: of a home if it was the last tunnel there, of a hop if it
    /// was the last way and nothing better is known.
    fn is_lost(&self, session: &SessionId, place: Place, now: Instant) -> bool {
        let route = self.routes.get(session);
        match place {
            Place::Home => route.is_none_or(|route| route.home.is_empty()),
            Place::Via => {
                let known = self.lost.get(session, now).is_some_and(Lost::is_home);
                route.is_none() && !known
            }
        }
    }

    /// A session has one home and one cluster as long as anything of it is alive or missed.
    fn may_offer(
        &self,
        member: &Member<T>,
        offered: Offered,
        place: Place,
        now: Instant,
    ) -> Result<Offered, Code> {
        let route = self.routes.get(&offered.id);
        let foreign = |path: &Path<T>| path.member.who.node != member.who.node;
        if place == Place::Home && route.is_some_and(|route| route.home.iter().any(foreign)) {
            return Err(Code::HomeTaken);
        }
        let cluster = route.map(|route| route.cluster.as_str());
        let lost = self.lost.get(&offered.id, now);
        let home = match (place, &offered.home) {
            (Place::Home, None) => &member.who.node,
            (Place::Via, Some(home)) if *home != member.who.node => home,
            (Place::Home, Some(_)) | (Place::Via, _) => return Err(Code::Protocol),
        };
        let is_held = |lost: &Lost| {
            let in_grace = now.duration_since(lost.since) < self.bounds.home_grace;
            lost.is_home() && lost.home != *home && in_grace
        };
        if lost.is_some_and(is_held) {
            return Err(Code::HomeTaken);
        }
        // Two nodes that name their sessions alike must not get each other's clients.
        let elsewhere = |path: &Path<T>| match &path.offer.home {
            Some(told) => told != home,
            None => path.member.who.node != *home,
        };
        if place == Place::Via && route.is_some_and(|route| route.paths().any(elsewhere)) {
            return Err(Code::HomeTaken);
        }
        let cluster = cluster.or_else(|| lost.map(|lost| lost.cluster.as_str()));
        if cluster.is_some_and(|cluster| cluster != member.who.cluster) {
            return Err(Code::HomeTaken);
        }
        Ok(offered)
    }

    fn replace_offers(
        &mut self,
        member: &Arc<Member<T>>,
        taken: HashMap<SessionId, (Arc<Offered>, Place)>,
    ) {
        let Some(joined) = self.tunnels.get_mut(&member.id) else {
            return;
        };
        let before = std::mem::replace(&mut joined.offers, taken.clone());
        for session in before.keys().filter(|session| !taken.contains_key(session)) {
            self.rewrite(session, member, None);
        }
        for (session, (offered, place)) in taken {
            if before
                .get(&session)
                .is_some_and(|(old, at)| *old == offered && *at == place)
            {
                continue;
            }
            self.rewrite(&session, member, Some((offered, place)));
            if place == Place::Home {
                self.drop_foreign_hops(&session, &member.who.node);
                self.lost.remove(&session);
            }
        }
    }

    /// A home speaks for itself: what others told of the session being on another node is void.
    fn drop_foreign_hops(&mut self, session: &SessionId, home: &NodeName) {
        let foreign = |path: &&Path<T>| path.offer.home.as_ref() != Some(home);
        let route = self.routes.get(session);
        let hops = route.into_iter().flat_map(|route| &route.via);
        let foreign: Vec<_> = hops
            .filter(foreign)
            .map(|path| Arc::clone(&path.member))
            .collect();
        for hop in foreign {
            if let Some(joined) = self.tunnels.get_mut(&hop.id) {
                joined.offers.remove(session);
            }
            self.rewrite(session, &hop, None);
        }
    }

    /// Writes a session's route anew with what this tunnel offers of it.
    fn rewrite(
        &mut self,
        session: &SessionId,
        member: &Arc<Member<T>>,
        offer: Option<(Arc<Offered>, Place)>,
    ) {
        let (home, via) = match offer {
            None => (None, None),
            Some((offer, place)) => {
                let path = Some(Path {
                    member: Arc::clone(member),
                    offer,
                });
                if place == Place::Home {
                    (path, None)
                } else {
                    (None, path)
                }
            }
        };
        let before = self.routes.get(session).cloned();
        let route = before.as_deref().map_or_else(
            || Route::new(member.who.cluster.clone()).with(member.id, home.clone(), via.clone()),
            |route| route.with(member.id, home.clone(), via.clone()),
        );
        self.rewrite_pools(session, before.as_deref(), &route);
        if route.is_empty() {
            self.routes.remove(session);
        } else {
            self.routes.insert(session.clone(), Arc::new(route));
        }
    }

    fn rewrite_pools(&mut self, session: &SessionId, before: Option<&Route<T>>, now: &Route<T>) {
        let pools = |route: &Route<T>| -> HashSet<(String, PoolName)> {
            let pools = route.paths().filter_map(|path| path.offer.pool.clone());
            pools.map(|pool| (route.cluster.clone(), pool)).collect()
        };
        let old = before.map(pools).unwrap_or_default();
        let new = pools(now);
        for pool in old.difference(&new) {
            if let Some(left) = self.pools.get_mut(pool) {
                left.sessions.remove(session);
                if left.sessions.is_empty() {
                    self.pools.remove(pool);
                }
            }
        }
        for pool in new.difference(&old) {
            self.pools
                .entry(pool.clone())
                .or_default()
                .sessions
                .insert(session.clone());
        }
    }
}
