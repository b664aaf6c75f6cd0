//! Homes that were lost lately, shared out fairly among the nodes that lost them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use sallyport_wire::{NodeName, SessionId};
use tokio::time::Instant;

/// Where a session was at home.
#[derive(Debug)]
pub(super) struct Lost {
    /// The node that offered it, which may have been a hop.
    pub(super) node: NodeName,
    /// The node where it was at home.
    pub(super) home: NodeName,
    pub(super) since: Instant,
}

impl Lost {
    /// Whether its home itself was lost, rather than a way there that another node told of.
    pub(super) fn is_home(&self) -> bool {
        self.node == self.home
    }
}

/// Lost homes. Each is forgotten when it is too old; when there are too many, the oldest of the node that lost the
/// most goes first, so that no node can have those of others forgotten.
#[derive(Debug)]
pub(super) struct LostHomes {
    homes: HashMap<SessionId, (u64, Lost)>,
    /// All of them, oldest first.
    order: BTreeMap<u64, SessionId>,
    /// Those of each node, oldest first.
    by_node: HashMap<NodeName, BTreeSet<u64>>,
    /// How many each node has.
    sizes: BTreeSet<(usize, NodeName)>,
    last: u64,
    keep: Duration,
    most: usize,
}

impl LostHomes {
    /// Remembers at most `most` of them for `keep` each.
    pub(super) fn new(keep: Duration, most: usize) -> Self {
        Self {
            homes: HashMap::new(),
            order: BTreeMap::new(),
            by_node: HashMap::new(),
            sizes: BTreeSet::new(),
            last: 0,
            keep,
            most,
        }
    }

    /// Remembers that a session lost its home, in place of an earlier loss.
    pub(super) fn insert(&mut self, session: SessionId, lost: Lost) {
        let now = lost.since;
        self.remove(&session);
        self.last = self.last.wrapping_add(1);
        self.order.insert(self.last, session.clone());
        self.change(&lost.node, |numbers, last| numbers.insert(last));
        self.homes.insert(session, (self.last, lost));
        while let Some(oldest) = self.order.values().next().cloned() {
            let too_many = self.homes.len() > self.most;
            if !too_many && self.get(&oldest, now).is_some() {
                return;
            }
            let of_the_largest = too_many.then(|| self.oldest_of_the_largest()).flatten();
            self.remove(&of_the_largest.unwrap_or(oldest));
        }
    }

    /// Where a session was at home.
    pub(super) fn get(&self, session: &SessionId, now: Instant) -> Option<&Lost> {
        let (_, lost) = self.homes.get(session)?;
        (now.duration_since(lost.since) < self.keep).then_some(lost)
    }

    /// Forgets one.
    pub(super) fn remove(&mut self, session: &SessionId) {
        if let Some((number, lost)) = self.homes.remove(session) {
            self.order.remove(&number);
            self.change(&lost.node, |numbers, _| numbers.remove(&number));
        }
    }

    /// Forgets those of a node.
    pub(super) fn remove_node(&mut self, node: &NodeName) {
        let numbers = self.by_node.remove(node).unwrap_or_default();
        self.sizes.remove(&(numbers.len(), node.clone()));
        for number in numbers {
            if let Some(session) = self.order.remove(&number) {
                self.homes.remove(&session);
            }
        }
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.homes.len()
    }

    fn change(&mut self, node: &NodeName, change: impl FnOnce(&mut BTreeSet<u64>, u64) -> bool) {
        let mut numbers = self.by_node.remove(node).unwrap_or_default();
        self.sizes.remove(&(numbers.len(), node.clone()));
        change(&mut numbers, self.last);
        if !numbers.is_empty() {
            self.sizes.insert((numbers.len(), node.clone()));
            self.by_node.insert(node.clone(), numbers);
        }
    }

    fn oldest_of_the_largest(&self) -> Option<SessionId> {
        let (_, node) = self.sizes.last()?;
        let number = self.by_node.get(node)?.first()?;
        self.order.get(number).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn session(id: &str) -> SessionId {
        id.parse().expect("a session id")
    }

    fn name(node: &str) -> NodeName {
        node.parse().expect("a node name")
    }

    fn lose(lost: &mut LostHomes, node: &str, id: &str, since: Instant) {
        let loss = Lost {
            node: name(node),
            home: name(node),
            since,
        };
        lost.insert(session(id), loss);
    }

    fn is_whole(lost: &LostHomes) -> bool {
        let of_nodes: usize = lost.by_node.values().map(BTreeSet::len).sum();
        let sizes: usize = lost.sizes.iter().map(|(size, _)| size).sum();
        [of_nodes, sizes, lost.order.len()] == [lost.len(); 3]
    }

    #[test]
    fn a_lost_home_is_remembered_for_its_time_only() {
        let mut lost = LostHomes::new(MINUTE, 8);
        let start = Instant::now();
        lose(&mut lost, "n1", "desk", start);

        let early = start + Duration::from_secs(59);
        assert!(lost.get(&session("desk"), early).is_some());
        assert!(lost.get(&session("desk"), start + MINUTE).is_none());
        lose(&mut lost, "n1", "other", start + MINUTE);
        assert!(lost.len() == 1 && is_whole(&lost));
    }

    #[test]
    fn whoever_loses_many_homes_has_its_own_forgotten_not_those_of_others() {
        let mut lost = LostHomes::new(MINUTE, 10);
        let now = Instant::now();
        lose(&mut lost, "small", "desk", now);
        for number in 0..1_000 {
            lose(&mut lost, "large", &format!("s{number}"), now);
        }
        // Neither does a crowd of names under one hand, as long as each has as many as the small one.
        for number in 0..4 {
            lose(&mut lost, &format!("n{number}"), &format!("t{number}"), now);
        }

        assert!(lost.get(&session("desk"), now).is_some());
        assert!(lost.get(&session("s0"), now).is_none());
        assert!(lost.get(&session("s999"), now).is_some());
        assert!(lost.len() == 10 && is_whole(&lost));
    }

    #[test]
    fn the_same_homes_again_and_again_take_no_place_twice() {
        let mut lost = LostHomes::new(MINUTE, 10);
        let now = Instant::now();
        lose(&mut lost, "small", "desk", now);
        for number in 0..1_000 {
            lose(&mut lost, "large", &format!("s{}", number % 9), now);
        }

        assert!(lost.get(&session("desk"), now).is_some());
        assert!(lost.len() == 10 && is_whole(&lost));
    }

    #[test]
    fn what_is_found_again_or_given_up_is_forgotten() {
        let mut lost = LostHomes::new(MINUTE, 10);
        let now = Instant::now();
        for (node, id) in [("n1", "a"), ("n1", "b"), ("n2", "c")] {
            lose(&mut lost, node, id, now);
        }
        lost.remove(&session("a"));
        assert!(lost.len() == 2 && is_whole(&lost));
        lost.remove_node(&name("n1"));

        assert!(lost.get(&session("b"), now).is_none());
        assert!(lost.get(&session("c"), now).is_some());
        assert!(lost.len() == 1 && is_whole(&lost));
    }
}
