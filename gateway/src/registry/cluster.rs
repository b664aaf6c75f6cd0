//! What one cluster has: its nodes, the sessions that can be reached through them, and the homes that it lost. Nothing in
//! here knows of another cluster, so a key of one can neither take, shadow nor see a name of another.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sallyport_wire::message::Advertise;
use sallyport_wire::{Code, NodeName, PoolName, Scope, SessionId};
use tokio::time::Instant;

use super::lost::{Lost, LostHomes};
use super::{Bounds, Counts, Member, NotTaken, Offered, Path, Route};

/// One cluster: plain data and rules.
#[derive(Debug)]
pub struct Cluster<T> {
    bounds: Bounds,
    nodes: HashMap<NodeName, Vec<Arc<Member<T>>>>,
    tunnels: HashMap<u64, Joined<T>>,
    routes: HashMap<SessionId, Arc<Route<T>>>,
    pools: HashMap<PoolName, Pool>,
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

impl<T> Cluster<T> {
    /// One without nodes.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            nodes: HashMap::new(),
            tunnels: HashMap::new(),
            routes: HashMap::new(),
            pools: HashMap::new(),
            lost: LostHomes::new(bounds.lost_for, bounds.lost),
        }
    }

    /// Takes a tunnel.
    pub(super) fn join(&mut self, member: &Arc<Member<T>>) {
        let joined = Joined {
            member: Arc::clone(member),
            offers: HashMap::new(),
        };
        self.tunnels.insert(member.id, joined);
        let name = member.who.node.name.clone();
        let members = self.nodes.entry(name).or_default();
        members.push(Arc::clone(member));
    }

    /// Removes one tunnel and what was reached through it. Returns it, unless it was not there any more.
    pub(super) fn leave(&mut self, tunnel: u64, now: Instant) -> Option<Arc<Member<T>>> {
        let gone = self.tunnels.remove(&tunnel)?;
        let node = &gone.member.who.node.name;
        if let Some(members) = self.nodes.get_mut(node) {
            members.retain(|member| member.id != tunnel);
            if members.is_empty() {
                self.nodes.remove(node);
            }
        }
        for (session, (offered, place)) in &gone.offers {
            self.rewrite(session, &gone.member, None);
            if self.is_lost(session, *place, now) {
                let lost = Lost {
                    node: node.clone(),
                    home: offered.home.as_ref().unwrap_or(node).clone(),
                    since: now,
                };
                self.lost.insert(session.clone(), lost);
            }
        }
        Some(gone.member)
    }

    /// Gives up a node's right to the homes that it lost, for any node of the cluster to claim.
    pub(super) fn release_homes(&mut self, node: &NodeName) {
        self.lost.remove_node(node);
    }

    /// Replaces what a tunnel offers. Returns what was not taken; `None` if the tunnel is gone.
    pub(super) fn advertise(
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

    /// The ways to every session of a pool.
    pub fn pool(&self, pool: &PoolName) -> Option<Vec<Arc<Route<T>>>> {
        let sessions = self.pools.get(pool)?.sessions.iter();
        let routes = sessions.filter_map(|session| self.route(session));
        Some(routes.collect())
    }

    /// As [`Self::pool`] for a stream that is to go there now, with whose turn it is: a number that counts up from stream
    /// to stream. Whoever only looks takes no turn, or every other member would never get one.
    pub fn pool_in_turn(&self, pool: &PoolName) -> Option<(Vec<Arc<Route<T>>>, u64)> {
        let routes = self.pool(pool)?;
        let turn = self.pools.get(pool)?.turn.fetch_add(1, Ordering::Relaxed);
        Some((routes, turn))
    }

    /// Whether a pool has a session.
    pub fn has_pool(&self, pool: &PoolName) -> bool {
        self.pools.contains_key(pool)
    }

    /// The node that was the session's home until a short while ago.
    pub fn lost_home(&self, session: &SessionId, now: Instant) -> Option<&NodeName> {
        self.lost.get(session, now).map(|lost| &lost.home)
    }

    /// Tunnels of a node.
    pub fn members(&self, node: &NodeName) -> &[Arc<Member<T>>] {
        self.nodes.get(node).map_or(&[], Vec::as_slice)
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

    /// How much there is of it.
    pub fn counts(&self) -> Counts {
        Counts {
            nodes: self.nodes.len(),
            tunnels: self.tunnels.len(),
            sessions: self.routes.len(),
            lost: self.lost.len(),
        }
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

    /// A session has one home as long as anything of it is alive or missed.
    fn may_offer(
        &self,
        member: &Member<T>,
        offered: Offered,
        place: Place,
        now: Instant,
    ) -> Result<Offered, Code> {
        let node = &member.who.node.name;
        let route = self.routes.get(&offered.id);
        let foreign = |path: &Path<T>| path.member.who.node.name != *node;
        if place == Place::Home && route.is_some_and(|route| route.home.iter().any(foreign)) {
            return Err(Code::HomeTaken);
        }
        let lost = self.lost.get(&offered.id, now);
        let home = match (place, &offered.home) {
            (Place::Home, None) => node,
            (Place::Via, Some(home)) if home != node => home,
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
            None => path.member.who.node.name != *home,
        };
        if place == Place::Via && route.is_some_and(|route| route.paths().any(elsewhere)) {
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
                self.drop_foreign_hops(&session, &member.who.node.name);
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
                let load = self.routes.get(session).and_then(|route| route.load());
                let path = Some(Path {
                    member: Arc::clone(member),
                    offer,
                    load: load.cloned().unwrap_or_default(),
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
            || Route::default().with(member.id, home.clone(), via.clone()),
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
        let pools = |route: &Route<T>| -> HashSet<PoolName> {
            let pools = route.paths().filter_map(|path| path.offer.pool.clone());
            pools.collect()
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
