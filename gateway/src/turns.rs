//! When a node may change the registry again. While it is changed nothing is routed, so a node waits in proportion to
//! the time that its own changes took, however many tunnels it has.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sallyport_wire::ClusterNode;
use tokio::time::Instant;

use crate::recent::Recent;

/// A change is followed by so many times as long without one.
const TIMES: u32 = 20;

/// The shortest and the longest wait.
const LEAST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);

/// Nodes remembered; each is for as long as the longest wait.
const MOST: usize = 65_536;

/// Nodes that changed the registry a moment ago, and when each may again.
#[derive(Debug)]
pub struct Turns(Mutex<Recent<ClusterNode, Instant>>);

impl Default for Turns {
    fn default() -> Self {
        Self(Mutex::new(Recent::new(LONGEST, MOST)))
    }
}

impl Turns {
    /// From when on it is this node's turn.
    pub fn next(&self, node: &ClusterNode, now: Instant) -> Instant {
        self.lock().get(node, now).copied().unwrap_or(now)
    }

    /// Takes this node's turn. False if another tunnel of it was faster, or it is too early.
    pub fn take(&self, node: &ClusterNode, now: Instant) -> bool {
        let mut turns = self.lock();
        let is_early = turns.get(node, now).is_some_and(|next| *next > now);
        if !is_early {
            turns.insert(node.clone(), now + LEAST, now);
        }
        !is_early
    }

    /// A change by this node, which ended now, took so long.
    pub fn took(&self, node: &ClusterNode, time: Duration, now: Instant) {
        let wait = time.saturating_mul(TIMES).clamp(LEAST, LONGEST);
        self.lock().insert(node.clone(), now + wait, now);
    }

    fn lock(&self) -> MutexGuard<'_, Recent<ClusterNode, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_waits_in_proportion_and_no_other_does() {
        let turns = Turns::default();
        let now = Instant::now();
        let [busy, other, namesake] =
            ["n1", "n2", "bio/n1"].map(|name| name.parse().expect("a name"));
        assert_eq!(turns.next(&busy, now), now);

        for (took, wait) in [(0, 20), (1, 20), (8, 160), (500, 1_000)] {
            turns.took(&busy, Duration::from_millis(took), now);
            let next = turns.next(&busy, now);
            assert_eq!(next - now, Duration::from_millis(wait), "{took}");
        }
        assert_eq!(turns.next(&namesake, now), now, "of another cluster");
        assert!(turns.take(&other, now), "its first");
        assert!(!turns.take(&other, now), "of one of its tunnels only");
        let later = now + LONGEST;
        assert_eq!(turns.next(&busy, later), later);
    }
}
