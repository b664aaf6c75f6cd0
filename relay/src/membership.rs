//! The nodes of the cluster: each tells over the bus what it is, and those that want to hear what the others are.
//!
//! Nothing here decides anything about a stream. What comes over the bus is signed with the cluster's keys, since whoever
//! runs a broker is no node.

mod observer;
mod speaker;
mod tenure;
mod hearing;

use std::time::Duration;

use sallyport_cluster::{Key, NotAKey, Prefix};
use sallyport_node::Server;
use sallyport_placement::pending::Counts;
use serde::{Deserialize, Serialize};

pub use observer::{Observer, Survey};
pub use speaker::{Describe, Speaker};
pub use tenure::Tenure;

/// By how much less than [`SPEAK_EVERY`](sallyport_node::members::SPEAK_EVERY) a node waits at most.
const SPREAD: Duration = Duration::from_millis(200);

/// Between two tries to listen.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A message is believed for this long, besides what clocks may differ.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// What a node is to the others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Here {
    /// The node itself.
    pub server: Server,
    /// How its sessions are reached from other nodes.
    #[serde(default)]
    pub reach: Reach,
    /// What it has placed and is on its way, by server.
    #[serde(default, skip_serializing_if = "Counts::is_empty")]
    pub placing: Counts,
}

/// How the sessions of a node are reached over the LAN.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Its port for other nodes, as `HOST:PORT`, in the order to be tried; none if it has no such port.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// What it has: the [`Advertise`](sallyport_wire::message::Advertise) that gateways get, in base64url.
    #[serde(default)]
    pub offers: String,
}

/// What a node says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Said {
    /// What it is.
    Here(Box<Here>),
    /// That its process ends.
    Gone {
        /// Which process.
        generation: u64,
    },
}

/// Below it each node has a topic of its name and the id of its node key: what two machines say under one name is told
/// apart.
fn nodes() -> Result<Prefix, NotAKey> {
    "nodes".parse()
}

/// Whose a topic below `nodes` is: the node's name, and the id of its node key.
fn speaker_of<'t>(nodes: &Prefix, topic: &'t Key) -> Option<(&'t str, &'t str)> {
    let words = topic.as_str().strip_prefix(nodes.words()?.as_str())?;
    let (node, id) = words.strip_prefix('/')?.split_once('/')?;
    (!id.contains('/')).then_some((node, id))
}
