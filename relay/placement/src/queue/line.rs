//! The queue as it is followed: every change of the store becomes one of what is shown.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use sallyport_cluster::{Change, ClusterError, Entry, Key, Watch};
use sallyport_ops::paced::Paced;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, error};

use super::Queue;
use super::ticket::{Ticket, in_turn};

/// Between two tries to watch the store.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is followed at most.
const MOST: usize = 16_384;

/// Something in the queue, and when its turn comes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Placed {
    /// What waits.
    #[serde(flatten)]
    pub ticket: Ticket,
    /// Its place among those that wait, from 1; none while it is held or started.
    pub position: Option<usize>,
}

/// All of it: those that wait in turn, then those that do not.
pub type Waiting = Vec<Placed>;

/// What is followed.
#[derive(Debug)]
pub(super) struct Line {
    shown: watch::Sender<Arc<Waiting>>,
    /// Raised when what was judged is to be judged again.
    again: watch::Sender<()>,
    refusals: Paced,
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            shown: watch::Sender::default(),
            again: watch::Sender::new(()),
            refusals: Paced::new(1),
        }
    }

    pub(super) fn changes(&self) -> watch::Receiver<Arc<Waiting>> {
        self.shown.subscribe()
    }

    pub(super) fn judge_again(&self) {
        self.again.send_replace(());
    }
}

/// Follows the store for as long as it is polled.
pub(super) async fn follow(queue: Queue) {
    let mut again = queue.0.line.again.subscribe();
    loop {
        let following = async {
            let watch = queue.0.values.store.watch(&queue.0.all).await?;
            follow_watch(&queue, watch).await
        };
        tokio::select! {
            ended = following => if let Err(cause) = ended {
                debug!(%cause, "the queue cannot be watched now");
                sleep(AGAIN_AFTER).await;
            },
            _rotated = again.changed() => {}
        }
    }
}

async fn follow_watch(queue: &Queue, mut watch: Watch) -> Result<(), ClusterError> {
    let mut known = BTreeMap::new();
    loop {
        learn(queue, &mut known, watch.next().await?);
        let placed = placed(known.values().cloned());
        queue.0.line.shown.send_if_modified(|shown| {
            let news = **shown != placed;
            if news {
                *shown = Arc::new(placed);
            }
            news
        });
    }
}

fn learn(queue: &Queue, known: &mut BTreeMap<Key, Ticket>, change: Change) {
    match change {
        Change::Snapshot(entries) => {
            known.clear();
            for entry in entries.into_iter().take(MOST) {
                put(queue, known, &entry);
            }
        }
        Change::Put(entry) => put(queue, known, &entry),
        Change::Deleted(key) => drop(known.remove(&key)),
    }
}

fn put(queue: &Queue, known: &mut BTreeMap<Key, Ticket>, entry: &Entry) {
    match queue.0.values.open(entry) {
        Ok(ticket) if ticket.id == entry.key.last_word() => {
            if known.len() < MOST || known.contains_key(&entry.key) {
                known.insert(entry.key.clone(), ticket);
            }
        }
        // what somebody else put there does not take the place of what we know
        Ok(_) => {}
        Err(cause) => {
            if let Some(held_back) = queue.0.line.refusals.pass() {
                error!(key = %entry.key, %cause, held_back, "what the store says of the queue is not believed");
            }
        }
    }
}

pub(super) fn placed(tickets: impl Iterator<Item = Ticket>) -> Waiting {
    let tickets: Vec<_> = tickets.collect();
    let turns = in_turn(tickets.iter()).into_iter();
    let turns: HashMap<_, _> = turns
        .zip(1_usize..)
        .map(|(ticket, position)| (ticket.id.clone(), position))
        .collect();
    let mut placed: Vec<_> = tickets
        .into_iter()
        .map(|ticket| Placed {
            position: turns.get(&ticket.id).copied(),
            ticket,
        })
        .collect();
    placed.sort_by_key(|placed| (placed.position.unwrap_or(usize::MAX), placed.ticket.since));
    placed
}
