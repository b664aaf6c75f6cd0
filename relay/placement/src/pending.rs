//! Placements that are on their way to a server and that it does not show yet. They count from the moment of the decision,
//! so that the next decision knows of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sallyport_wire::NodeName;
use tokio::sync::watch;
use tokio::time::Instant;

/// A placement that nobody ends counts for so long.
pub const ENDS_AFTER: Duration = Duration::from_secs(60);

/// One that was started counts until its server says something new, and for so long at most.
pub const SHOWN_WITHIN: Duration = Duration::from_secs(6);

/// What another relay told counts for so long, unless it is told again.
pub const TOLD_FOR: Duration = Duration::from_secs(6);

/// Most placements of this relay that are counted.
pub const MOST: usize = 10_000;

/// Most other relays whose placements are counted.
pub const MOST_RELAYS: usize = 1_024;

/// How many placements are on their way to each server.
pub type Counts = BTreeMap<NodeName, u64>;

/// The placements on their way. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Pending(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Tells of every change of this relay's own.
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    own: HashMap<u64, Placed>,
    /// Of `own`.
    counts: Counts,
    told: BTreeMap<NodeName, Told>,
}

#[derive(Debug)]
struct Placed {
    server: NodeName,
    ends: Instant,
    started: Option<Instant>,
}

/// What another relay said.
#[derive(Debug)]
struct Told {
    counts: Counts,
    ends: Instant,
}

/// One placement. It ends when this is dropped.
#[derive(Debug)]
pub struct Claim {
    pending: Pending,
    id: Option<u64>,
}

impl Pending {
    /// All that is on its way, where `heard` says when a server was heard of last.
    #[must_use]
    pub fn counts(&self, heard: impl Fn(&NodeName) -> Option<Instant>) -> Counts {
        let now = Instant::now();
        let mut state = self.state();
        if state.end(now, heard) {
            self.0.changes.send_replace(());
        }
        let mut counts = state.counts.clone();
        for (server, count) in state.told.values().flat_map(|told| &told.counts) {
            let sum = counts.entry(server.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
        counts
    }

    /// One more for `server`, if there are as many as the decision was made upon.
    #[must_use]
    pub fn claim(&self, server: &NodeName, decided_upon: u64) -> Option<Claim> {
        let mut state = self.state();
        if state.count(server) != decided_upon {
            return None;
        }
        Some(self.add(&mut state, server))
    }

    /// One more for `server`, however many there are.
    #[must_use]
    pub fn insist(&self, server: &NodeName) -> Claim {
        self.add(&mut self.state(), server)
    }

    /// Another relay says what it has on its way.
    pub fn told(&self, relay: NodeName, counts: Counts) {
        let mut state = self.state();
        let is_full = state.told.len() >= MOST_RELAYS && !state.told.contains_key(&relay);
        if counts.is_empty() {
            state.told.remove(&relay);
        } else if !is_full {
            let ends = Instant::now() + TOLD_FOR;
            state.told.insert(relay, Told { counts, ends });
        }
    }

    /// Those of this relay.
    #[must_use]
    pub fn own(&self) -> Counts {
        self.state().counts.clone()
    }

    /// Tells of every change of those of this relay.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    /// Beyond [`MOST`] one is not counted.
    fn add(&self, state: &mut State, server: &NodeName) -> Claim {
        let id = (state.own.len() < MOST).then(|| state.begin(server));
        self.0.changes.send_replace(());
        Claim {
            pending: self.clone(),
            id,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn begin(&mut self, server: &NodeName) -> u64 {
        self.last = self.last.wrapping_add(1);
        let placed = Placed {
            server: server.clone(),
            ends: Instant::now() + ENDS_AFTER,
            started: None,
        };
        self.own.insert(self.last, placed);
        let count = self.counts.entry(server.clone()).or_default();
        *count = count.saturating_add(1);
        self.last
    }

    /// Takes out what has ended by itself; true if something of our own has.
    fn end(&mut self, now: Instant, heard: impl Fn(&NodeName) -> Option<Instant>) -> bool {
        self.told.retain(|_, told| now < told.ends);
        let ended = self.own.iter().filter(|(_, placed)| {
            let is_shown = placed
                .started
                .zip(heard(&placed.server))
                .is_some_and(|(started, heard)| heard > started);
            now >= placed.ends || is_shown
        });
        let ended: Vec<_> = ended.map(|(id, _)| *id).collect();
        for id in &ended {
            self.remove(*id);
        }
        !ended.is_empty()
    }

    fn remove(&mut self, id: u64) {
        let Some(placed) = self.own.remove(&id) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&placed.server) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&placed.server);
            }
        }
    }

    fn count(&self, server: &NodeName) -> u64 {
        let told = self.told.values().map(|told| &told.counts);
        let all = told.chain([&self.counts]);
        all.filter_map(|counts| counts.get(server))
            .fold(0, |sum, count| sum.saturating_add(*count))
    }
}

impl Claim {
    /// It is there: it counts until its server says something new.
    pub fn started(mut self) {
        let Some(id) = self.id.take() else {
            return;
        };
        let now = Instant::now();
        if let Some(placed) = self.pending.state().own.get_mut(&id) {
            placed.started = Some(now);
            placed.ends = placed.ends.min(now + SHOWN_WITHIN);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.pending.state().remove(id);
            self.pending.0.changes.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    fn node(name: &str) -> NodeName {
        name.parse().expect("a name")
    }

    fn count(pending: &Pending) -> u64 {
        let counts = pending.counts(|_| None);
        counts.get(&node("a")).copied().unwrap_or_default()
    }

    fn claim(pending: &Pending) -> Claim {
        pending.claim(&node("a"), count(pending)).expect("as seen")
    }

    #[tokio::test(start_paused = true)]
    async fn a_placement_counts_until_it_ends_or_nobody_ends_it() {
        let pending = Pending::default();
        let (one, two) = (claim(&pending), claim(&pending));
        assert_eq!(count(&pending), 2);
        assert_eq!(pending.own().get(&node("a")), Some(&2));
        drop(one);
        assert_eq!(count(&pending), 1);
        sleep(ENDS_AFTER).await;
        assert_eq!(count(&pending), 0);
        assert!(pending.own().is_empty());
        drop(two);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_started_counts_until_its_server_shows_it() {
        let pending = Pending::default();
        let before = Instant::now();
        claim(&pending).started();
        claim(&pending).started();
        let seen = |heard| pending.counts(move |_| Some(heard)).len();
        assert_eq!(seen(before), 1);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(seen(Instant::now()), 0, "it said something new");

        claim(&pending).started();
        sleep(SHOWN_WITHIN).await;
        assert_eq!(count(&pending), 0, "it says nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_decision_upon_what_is_not_so_any_more_is_no_claim() {
        let pending = Pending::default();
        let _first = claim(&pending);
        assert!(pending.claim(&node("a"), 0).is_none());
        let _second = pending.insist(&node("a"));
        assert_eq!(count(&pending), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_other_relays_say_counts_until_they_say_it_no_more() {
        let pending = Pending::default();
        let counts = |count| Counts::from([(node("a"), count)]);
        pending.told(node("r1"), counts(3));
        pending.told(node("r2"), counts(1));
        assert_eq!(count(&pending), 4);
        pending.told(node("r2"), Counts::new());
        sleep(TOLD_FOR / 2).await;
        pending.told(node("r1"), counts(2));
        sleep(TOLD_FOR / 2).await;
        assert_eq!(count(&pending), 2);
        sleep(TOLD_FOR / 2).await;
        assert_eq!(count(&pending), 0);
        assert!(pending.own().is_empty(), "others' are not told on");
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_only_so_many() {
        let pending = Pending::default();
        let claims: Vec<_> = (0..=MOST).map(|_| pending.insist(&node("a"))).collect();
        assert_eq!(count(&pending), MOST as u64);
        drop(claims);
        for number in 0..=MOST_RELAYS {
            pending.told(node(&format!("r{number}")), Counts::from([(node("a"), 1)]));
        }
        assert_eq!(count(&pending), MOST_RELAYS as u64);
    }
}
