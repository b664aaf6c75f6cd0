//! Which sessions other nodes of the cluster have. Whoever learns it writes it here: the peer tunnels do.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sallyport_link::GatewayUrl;
use sallyport_wire::message::{Advertise, Offer, Protocol, Sticky};
use sallyport_wire::{NodeName, PoolName, SessionId};
use tokio::sync::watch;
use tokio::time::Instant;

/// Most nodes whose sessions are known, lost ones included.
const MAX_NODES: usize = 8_192;

/// Most sessions of one node.
pub const MAX_OFFERS: usize = 2_048;

/// A node that is lost keeps its sessions' names for so long; then another node that has one of them may serve it.
const HELD_FOR: Duration = Duration::from_secs(60);

/// The sessions of a lost node are told to be down for so long; then nobody knows them any more.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3_600);

/// What is known of other nodes.
#[derive(Debug, Default)]
pub struct Directory {
    nodes: Mutex<BTreeMap<NodeName, Known>>,
    changes: watch::Sender<u64>,
}

/// Where clients come in at a node itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFront {
    /// The node.
    pub node: NodeName,
    /// Its process, which takes no tickets that were made for another one.
    pub generation: u64,
    /// Its port for clients.
    pub url: GatewayUrl,
}

#[derive(Debug)]
struct Known {
    offers: BTreeMap<SessionId, Offer>,
    /// Where clients reach them at the node itself.
    direct_url: Option<GatewayUrl>,
    /// The process that said so.
    generation: u64,
    /// Since when it cannot be reached.
    lost: Option<Instant>,
    /// When it became known: of two that claim a session, the first has it.
    since: Instant,
}

impl Known {
    /// Of two that claim a session, the lower has it.
    fn rank(&self, now: Instant) -> (bool, Instant) {
        (!self.holds(now), self.since)
    }

    /// Whether what it offered still keeps others from it.
    fn holds(&self, now: Instant) -> bool {
        self.lost
            .is_none_or(|lost| now.duration_since(lost) < HELD_FOR)
    }
}

impl Directory {
    /// What a node says that it has, in place of what it said before. What is no session of its own is left out.
    pub fn learn(&self, node: &NodeName, said: Advertise, now: Instant) {
        let direct_url = said.direct_url.parse().ok();
        let offers: BTreeMap<SessionId, Offer> = said
            .home
            .into_iter()
            .take(MAX_OFFERS)
            .filter_map(|offer| checked(offer, node))
            .collect();
        let mut nodes = self.lock();
        make_room(&mut nodes, node);
        let before = nodes.get(node);
        let since = before.map_or(now, |known| known.since);
        let news = before.is_none_or(|known| known.lost.is_some() || known.offers != offers);
        let known = Known {
            offers,
            direct_url,
            generation: said.generation,
            lost: None,
            since,
        };
        nodes.insert(node.clone(), known);
        drop(nodes);
        self.tell(news);
    }

    /// A node cannot be reached any more: its sessions stay known, and are down.
    pub fn lost(&self, node: &NodeName, now: Instant) {
        let news = self.lock().get_mut(node).is_some_and(|known| {
            let news = known.lost.is_none();
            known.lost = known.lost.or(Some(now));
            news
        });
        self.tell(news);
    }

    /// Lets time pass: names that are held for a lost node become free, and what was lost long ago is forgotten. To be
    /// called now and then.
    pub fn settle(&self, now: Instant, since: Instant) {
        let mut nodes = self.lock();
        let before = nodes.len();
        nodes.retain(|_, known| {
            known
                .lost
                .is_none_or(|lost| now.duration_since(lost) < KNOWN_FOR)
        });
        let freed = nodes
            .values()
            .any(|known| known.holds(since) != known.holds(now));
        let news = nodes.len() != before || freed;
        drop(nodes);
        self.tell(news);
    }

    /// Whether anything is known of a node.
    #[must_use]
    pub fn knows(&self, node: &NodeName) -> bool {
        self.lock().contains_key(node)
    }

    /// The node that has a session, if it can be reached or may soon.
    #[must_use]
    pub fn locate(&self, session: &SessionId, now: Instant) -> Option<NodeName> {
        let nodes = self.lock();
        home(&nodes, session, now).map(|(node, _)| node.clone())
    }

    /// What the node that has a session said of it last.
    #[must_use]
    pub fn offer(&self, session: &SessionId, now: Instant) -> Option<Offer> {
        let nodes = self.lock();
        let (_, known) = home(&nodes, session, now)?;
        known.offers.get(session).cloned()
    }

    /// The member of a pool that each node has which can be reached; of several on one node, the first that is up.
    #[must_use]
    pub fn members(&self, pool: &PoolName) -> Vec<(NodeName, Offer)> {
        let nodes = self.lock();
        let reached = nodes.iter().filter(|(_, known)| known.lost.is_none());
        let member = |(node, known): (&NodeName, &Known)| {
            let mut members = known.offers.values();
            let member = members.find(|offer| offer.pool == pool.as_str() && !offer.down)?;
            Some((node.clone(), member.clone()))
        };
        reached.filter_map(member).collect()
    }

    /// Where clients reach a session at its own node; none while the session is down.
    #[must_use]
    pub fn front(&self, session: &SessionId, now: Instant) -> Option<NodeFront> {
        let nodes = self.lock();
        let (node, known) = home(&nodes, session, now)?;
        let is_up = known.lost.is_none() && !known.offers.get(session)?.down;
        let url = known.direct_url.clone().filter(|_| is_up)?;
        Some(NodeFront {
            node: node.clone(),
            generation: known.generation,
            url,
        })
    }

    /// Every session of another node, each once and with its node's name; down where the node is lost.
    #[must_use]
    pub fn offers(&self, now: Instant) -> Vec<Offer> {
        let nodes = self.lock();
        let mut homes: BTreeMap<&SessionId, (&Known, &Offer)> = BTreeMap::new();
        for known in nodes.values() {
            for (session, offer) in &known.offers {
                let other = homes.get(session);
                if other.is_none_or(|(other, _)| known.rank(now) < other.rank(now)) {
                    homes.insert(session, (known, offer));
                }
            }
        }
        let offer = |(known, offer): (&Known, &Offer)| Offer {
            down: offer.down || known.lost.is_some(),
            ..offer.clone()
        };
        homes.into_values().map(offer).collect()
    }

    /// Tells of every change of what is offered.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn tell(&self, news: bool) {
        if news {
            self.changes
                .send_modify(|revision| *revision = revision.wrapping_add(1));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, Known>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node that has come takes the place of the one that was lost first, or else that was known last.
fn make_room(nodes: &mut BTreeMap<NodeName, Known>, new: &NodeName) {
    if nodes.len() < MAX_NODES || nodes.contains_key(new) {
        return;
    }
    let lost = nodes
        .iter()
        .filter_map(|(node, known)| Some((known.lost?, node)));
    let goes = lost.min().map(|(_, node)| node.clone());
    let latest = || nodes.iter().max_by_key(|(_, known)| known.since);
    let goes = goes.or_else(|| latest().map(|(node, _)| node.clone()));
    goes.and_then(|node| nodes.remove(&node));
}

/// Of the nodes that claim a session, those that hold their names before those that do not, and the one that is known
/// longest.
fn home<'n>(
    nodes: &'n BTreeMap<NodeName, Known>,
    session: &SessionId,
    now: Instant,
) -> Option<(&'n NodeName, &'n Known)> {
    nodes
        .iter()
        .filter(|(_, known)| known.offers.contains_key(session))
        .min_by_key(|(_, known)| known.rank(now))
}

/// An offer of `node`, under that name.
fn checked(offer: Offer, node: &NodeName) -> Option<(SessionId, Offer)> {
    let id: SessionId = offer.id.parse().ok()?;
    let pool_is_one = offer.pool.is_empty() || offer.pool.parse::<PoolName>().is_ok();
    let known =
        Protocol::try_from(offer.protocol).is_ok() && Sticky::try_from(offer.sticky).is_ok();
    let node = node.to_string();
    (pool_is_one && known).then_some((id, Offer { node, ..offer }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        name.parse().expect("a node name")
    }

    fn offer(id: &str) -> Offer {
        Offer {
            id: id.to_owned(),
            weight: 100,
            ..Offer::default()
        }
    }

    fn said(home: Vec<Offer>) -> Advertise {
        Advertise {
            home,
            ..Advertise::default()
        }
    }

    fn home_of(directory: &Directory, id: &str, now: Instant) -> Option<String> {
        let home = directory.locate(&id.parse().expect("an id"), now);
        home.map(|node| node.to_string())
    }

    fn told(directory: &Directory, now: Instant) -> Vec<(String, String, bool)> {
        let offers = directory.offers(now);
        let shown = offers.into_iter().map(|o| (o.id, o.node, o.down));
        shown.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_node_keeps_its_sessions_and_they_are_down() {
        let (directory, now) = (Directory::default(), Instant::now());
        let mut changes = directory.changes();
        directory.learn(&node("n2"), said(vec![offer("desk")]), now);
        assert!(changes.has_changed().expect("open"));
        changes.mark_unchanged();
        directory.learn(&node("n2"), said(vec![offer("desk")]), now);
        assert!(!changes.has_changed().expect("open"), "the same again");

        directory.lost(&node("n2"), now);

        assert!(changes.has_changed().expect("open"));
        let down = ("desk".to_owned(), "n2".to_owned(), true);
        assert_eq!(told(&directory, now), [down]);
        assert_eq!(home_of(&directory, "desk", now).as_deref(), Some("n2"));
        let late = now + KNOWN_FOR;
        directory.settle(late, now);
        assert_eq!(home_of(&directory, "desk", late), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_two_nodes_claim_stays_with_the_first_until_it_was_lost_for_a_while() {
        let (directory, now) = (Directory::default(), Instant::now());
        let second = Duration::from_secs(1);
        directory.learn(&node("n9"), said(vec![offer("desk")]), now);
        directory.learn(&node("n2"), said(vec![offer("desk")]), now + second);
        directory.lost(&node("n9"), now + second);

        let held = now + HELD_FOR;
        assert_eq!(home_of(&directory, "desk", held).as_deref(), Some("n9"));
        let mut changes = directory.changes();
        changes.mark_unchanged();
        let free = held + second;
        directory.settle(free, held);
        assert!(changes.has_changed().expect("open"), "gateways are told");
        let up = ("desk".to_owned(), "n2".to_owned(), false);
        assert_eq!(told(&directory, free), [up]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_node_says_is_checked_and_bounded() {
        let (directory, now) = (Directory::default(), Instant::now());
        let posing = Offer {
            node: "n1".to_owned(),
            ..offer("ok")
        };
        let bad_pool = Offer {
            pool: "No Pool".to_owned(),
            ..offer("pooled")
        };
        let unknown = Offer {
            protocol: 99,
            ..offer("odd")
        };
        let odd_pool = Offer {
            sticky: 99,
            ..offer("odd-pool")
        };
        directory.learn(
            &node("n2"),
            said(vec![offer("../x"), bad_pool, unknown, odd_pool, posing]),
            now,
        );
        let one = ("ok".to_owned(), "n2".to_owned(), false);
        assert_eq!(told(&directory, now), [one]);

        let many = (0..=MAX_OFFERS).map(|n| offer(&format!("s{n}"))).collect();
        directory.learn(&node("n2"), said(many), now);
        assert_eq!(directory.offers(now).len(), MAX_OFFERS);
    }
}
