//! `[[peer]]` tables: other nodes of the cluster that this one dials.

use std::collections::HashMap;

use sallyport_link::PeerAddress;
use sallyport_wire::NodeName;
use toml::Spanned;

use super::faults::Faults;
use super::raw::RawPeer;

/// Most `[[peer]]` tables.
pub const MAX_PEERS: usize = 1_000;

/// Characters of a node's id.
const ID_LEN: usize = 32;

/// Another node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its name.
    pub node: NodeName,
    /// Its port for other nodes.
    pub address: PeerAddress,
    /// Where else that port may be found, in the order in which it is tried.
    pub others: Vec<PeerAddress>,
    /// The id of its node key, as its `status --json` shows it; none lets any key of a node of that name do.
    pub id: Option<String>,
    /// Whether a tunnel is held for ever, instead of while streams need it.
    pub keep: bool,
}

/// Checks all tables of a file of the node `own`.
pub(super) fn check(
    raw: Vec<Spanned<RawPeer>>,
    own: Option<&NodeName>,
    faults: &mut Faults<'_>,
) -> Vec<PeerConfig> {
    if let Some(first) = raw.get(MAX_PEERS) {
        let text = format!(
            "{} peers are too many: a relay dials at most {MAX_PEERS}",
            raw.len()
        );
        faults.at(&first.span(), text);
        return Vec::new();
    }
    let mut seen = HashMap::new();
    let mut peers = Vec::new();
    for raw in raw {
        let raw = raw.into_inner();
        let span = raw.node.span();
        let node: Option<NodeName> = faults.parsed(&raw.node);
        let address: Option<PeerAddress> = faults.parsed(&raw.address);
        let id = raw.id.map(|id| node_id(id, faults));
        let (Some(node), Some(address)) = (node, address) else {
            continue;
        };
        if Some(&node) == own {
            faults.at(&span, format!("`{node}` is this node itself"));
        }
        if let Some(line) = seen.insert(node.clone(), faults.line(span.start)) {
            faults.at(&span, format!("peer `{node}` is also in line {line}"));
        }
        peers.push(PeerConfig {
            node,
            address,
            others: Vec::new(),
            id,
            keep: raw.keep.unwrap_or(true),
        });
    }
    peers
}

fn node_id(id: Spanned<String>, faults: &mut Faults<'_>) -> String {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if id.get_ref().len() != ID_LEN || !id.get_ref().bytes().all(is_hex) {
        let text = format!(
            "an id has {ID_LEN} hex digits: `sallyport-relay status --json` of that node shows it"
        );
        faults.at(&id.span(), text);
    }
    id.into_inner()
}
