//! Whether the nodes that meet share one store. A relay that lacks the right `broker.json` works, and knows nothing of what
//! the others agree on; so both ends of each tunnel tell which store they have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sallyport_cluster::StoreId;
use sallyport_ops::paced::Paced;
use sallyport_wire::NodeName;
use sallyport_wire::message::Store;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// What a node told counts for so long after its last tunnel.
const KEPT_FOR: Duration = Duration::from_secs(10 * 60);

/// Nodes that are named.
const SHOWN: usize = 5;

const NO_BROKER: &str =
    "make a broker with `sallyport-relay cluster init`, and copy its broker.json to each node";

/// The stores of this node and of those that it meets.
#[derive(Debug)]
pub(super) struct Stores {
    own: watch::Sender<Option<Store>>,
    others: Mutex<Others>,
    lines: Paced,
}

#[derive(Debug, Default)]
struct Others {
    /// What each node told last.
    told: BTreeMap<NodeName, Told>,
    /// The stores that the log has told of.
    logged: BTreeSet<String>,
}

#[derive(Debug)]
struct Told {
    store: Store,
    /// When it told so, or had a tunnel last.
    seen: Instant,
}

/// Another store than this node's.
#[derive(Debug)]
struct Other {
    store: Store,
    nodes: Vec<NodeName>,
}

impl Default for Stores {
    fn default() -> Self {
        Self {
            own: watch::Sender::default(),
            others: Mutex::default(),
            lines: Paced::new(10),
        }
    }
}

impl Stores {
    /// This node has this store from now on.
    pub(super) fn has(&self, store: Store) {
        self.own.send_replace(Some(store));
        self.log();
    }

    /// The store of this node, and every change of it.
    pub(super) fn own(&self) -> watch::Receiver<Option<Store>> {
        self.own.subscribe()
    }

    /// What another node told.
    pub(super) fn hear(&self, node: &NodeName, store: Store) {
        if !StoreId::is_id(&store.id) {
            return debug!(%node, "what the node tells of its store is no id");
        }
        let seen = Instant::now();
        self.lock().told.insert(node.clone(), Told { store, seen });
        self.log();
    }

    /// Forgets nodes that have had no tunnel for long; `linked` have one now.
    pub(super) fn settle(&self, linked: &BTreeSet<NodeName>, now: Instant) {
        let mut others = self.lock();
        let before = others.told.len();
        others.told.retain(|node, told| {
            if linked.contains(node) {
                told.seen = now;
            }
            now.duration_since(told.seen) < KEPT_FOR
        });
        let forgot = others.told.len() != before;
        drop(others);
        if forgot {
            self.log();
        }
    }

    /// This node's store, and the others with who has them and what to do.
    pub(super) fn show(&self) -> Value {
        let own = self.own.borrow().clone();
        let Some(own) = own else {
            return json!({ "others": [] });
        };
        let others = others(&own, &self.lock().told);
        let others: Vec<_> = others.iter().map(|other| other.show(&own)).collect();
        json!({ "id": own.id, "made": own.made_ms, "others": others })
    }

    /// A line for each store that was not told of before, and one for each that nobody has any more.
    fn log(&self) {
        let own = self.own.borrow().clone();
        let Some(own) = own else {
            return;
        };
        let mut state = self.lock();
        let others = others(&own, &state.told);
        let now: BTreeSet<_> = others.iter().map(|other| other.store.id.clone()).collect();
        for other in others {
            if state.logged.contains(&other.store.id) {
                continue;
            }
            let (nodes, cure) = (shortened(&other.nodes), other.cure(&own));
            match self.lines.pass() {
                Some(_) if other.is_shared(&own) => {
                    warn!(nodes, cure, "nodes of this cluster have another store");
                }
                Some(_) => info!(
                    nodes,
                    cure, "nodes of this cluster have stores of their own"
                ),
                None => {}
            }
        }
        for store in state.logged.difference(&now) {
            if self.lines.pass().is_some() {
                info!(store, "no node that is met has this other store any more");
            }
        }
        state.logged = now;
    }

    fn lock(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stores that are not `own`, by id.
fn others(own: &Store, told: &BTreeMap<NodeName, Told>) -> Vec<Other> {
    let mut others: BTreeMap<&str, Other> = BTreeMap::new();
    for (node, Told { store, .. }) in told {
        if store.id == own.id {
            continue;
        }
        let of_store = others.entry(&store.id).or_insert_with(|| Other {
            store: store.clone(),
            nodes: Vec::new(),
        });
        of_store.nodes.push(node.clone());
    }
    others.into_values().collect()
}

impl Other {
    fn is_older(&self, own: &Store) -> bool {
        (self.store.made_ms, &self.store.id) < (own.made_ms, &own.id)
    }

    /// Whether either of the two can be shared at all.
    const fn is_shared(&self, own: &Store) -> bool {
        self.store.shared || own.shared
    }

    /// What to do: of two stores that can be shared, the older one stays.
    fn cure(&self, own: &Store) -> String {
        let from_there = match (self.store.shared, own.shared) {
            (false, false) => return NO_BROKER.to_owned(),
            (theirs, ours) if theirs != ours => theirs,
            _ => self.is_older(own),
        };
        if from_there {
            let from = self.nodes.first().map(ToString::to_string);
            let from = from.unwrap_or_default();
            return format!(
                "copy broker.json, and the authority that it names, from node {from} here beside relay.toml, and start this \
                 relay again"
            );
        }
        format!(
            "copy broker.json, and the authority that it names, from here to {} beside relay.toml, and start the relay \
             there again",
            shortened(&self.nodes)
        )
    }

    fn show(&self, own: &Store) -> Value {
        json!({
            "id": self.store.id,
            "made": self.store.made_ms,
            "shared": self.store.shared,
            "older": self.is_older(own),
            "nodes": self.nodes,
            "cure": self.cure(own),
        })
    }
}

/// The first few.
fn shortened(nodes: &[NodeName]) -> String {
    let shown = nodes.iter().take(SHOWN).map(NodeName::as_str);
    let shown = shown.collect::<Vec<_>>().join(", ");
    let more = if nodes.len() > SHOWN { ", ..." } else { "" };
    format!("{shown}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(number: u64, shared: bool) -> Store {
        Store {
            id: format!("{number:032x}"),
            made_ms: number,
            shared,
        }
    }

    fn node(name: &str) -> NodeName {
        name.parse().expect("a node name")
    }

    fn cures(stores: &Stores) -> Vec<String> {
        let shown = stores.show();
        let others = shown["others"].as_array().expect("an array").iter();
        others
            .map(|other| other["cure"].as_str().expect("a text").to_owned())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_older_store_that_can_be_shared_stays() {
        for (own, other, part) in [
            (store(2, true), store(1, true), "from node n2 here"),
            (store(1, true), store(2, true), "from here to n2"),
            (store(2, true), store(1, false), "from here to n2"),
            (store(1, false), store(2, true), "from node n2 here"),
            (store(1, false), store(2, false), "cluster init"),
        ] {
            let stores = Stores::default();
            stores.hear(&node("n2"), other);
            assert!(cures(&stores).is_empty(), "this node has none yet");
            stores.has(own.clone());
            let cures = cures(&stores);
            assert!(cures.len() == 1 && cures[0].contains(part), "{cures:?}");

            stores.hear(&node("n2"), own);
            assert!(self::cures(&stores).is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_without_a_tunnel_is_forgotten_in_time_and_nonsense_is_none() {
        let stores = Stores::default();
        stores.has(store(1, true));
        stores.hear(&node("n2"), store(2, true));
        stores.hear(&node("n3"), store(2, true));
        let nonsense = Store {
            id: "x\n".to_owned(),
            ..store(3, true)
        };
        stores.hear(&node("n4"), nonsense);
        assert_eq!(stores.show()["others"][0]["nodes"], json!(["n2", "n3"]));

        let later = Instant::now() + KEPT_FOR;
        stores.settle(&BTreeSet::from([node("n3")]), later);
        assert_eq!(stores.show()["others"][0]["nodes"], json!(["n3"]));
        stores.settle(&BTreeSet::new(), later + KEPT_FOR);
        assert!(cures(&stores).is_empty());
    }
}
