//! Which other nodes there are, and where: those of the configuration, and those that the cluster tells of.

use std::collections::BTreeMap;
use std::sync::Arc;

use sallyport_wire::NodeName;
use tokio::sync::watch;

use super::Found;
use crate::config::PeerConfig;

/// Most addresses of one node beside the first that are tried.
const MAX_OTHERS: usize = 3;

/// Most nodes that the cluster may tell of.
const MAX_FOUND: usize = 4_096;

/// By name.
pub(super) type Nodes = BTreeMap<NodeName, Arc<PeerConfig>>;

/// The nodes of one moment, and their changes.
#[derive(Debug)]
pub(super) struct Known {
    named: Nodes,
    now: watch::Sender<Nodes>,
}

impl Known {
    /// Those that the configuration names.
    pub(super) fn new(named: Vec<PeerConfig>) -> Self {
        let named: Nodes = named
            .into_iter()
            .map(|peer| (peer.node.clone(), Arc::new(peer)))
            .collect();
        let now = watch::Sender::new(named.clone());
        Self { named, now }
    }

    /// Those beside the configured ones, in place of what was told before. Nobody hears of what is the same again.
    pub(super) fn tell(&self, found: Vec<Found>) {
        let mut nodes: Nodes = found
            .into_iter()
            .take(MAX_FOUND)
            .filter_map(|(node, addresses)| {
                let mut addresses = addresses.into_iter();
                let peer = PeerConfig {
                    node: node.clone(),
                    address: addresses.next()?,
                    others: addresses.take(MAX_OTHERS).collect(),
                    id: None, // what the cluster tells is no proof
                    keep: false,
                };
                Some((node, Arc::new(peer)))
            })
            .collect();
        nodes.extend(self.named.clone());
        self.now.send_if_modified(|now| {
            let news = *now != nodes;
            *now = nodes;
            news
        });
    }

    /// A node, if it is known.
    pub(super) fn get(&self, node: &NodeName) -> Option<Arc<PeerConfig>> {
        self.now.borrow().get(node).cloned()
    }

    /// Tells of every change.
    pub(super) fn changes(&self) -> watch::Receiver<Nodes> {
        self.now.subscribe()
    }
}
