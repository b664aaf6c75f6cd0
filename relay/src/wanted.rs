//! What the gateway files say of one gateway.

use std::sync::Arc;

use sallyport_link::{GatewayAddress, GatewayFile, Key};
use sallyport_wire::NodeName;
use time::OffsetDateTime;

use crate::rotation::Keys;

/// One gateway and the keys that it may be shown: what a keeper works with.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where it is and how its certificate is known.
    pub address: GatewayAddress,
    /// A file with this gateway alone and every key that goes with it, oldest first.
    pub file: Arc<GatewayFile>,
}

impl Wanted {
    /// The keys that `node` may be known by.
    #[must_use]
    pub const fn keys_of<'k>(&'k self, node: &'k NodeName) -> OfNode<'k> {
        OfNode { wanted: self, node }
    }

    /// The key that goes with a turn: the newest first, the others after it was refused.
    #[must_use]
    pub fn key(&self, node: &NodeName, turn: usize) -> Option<&Key> {
        let now = OffsetDateTime::now_utc();
        let count = self.file.signing_keys(node, now).count();
        self.file
            .signing_keys(node, now)
            .nth(turn.checked_rem(count)?)
    }

    /// Whether a keeper would do the same with both.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let keys = |wanted: &Self| wanted.file.keys.len();
        let pairs = || self.file.keys.iter().zip(&other.file.keys);
        self.address == other.address
            && keys(self) == keys(other)
            && pairs().all(|(a, b)| a.kid == b.kid && a.scope == b.scope && a.expires == b.expires)
            && pairs().all(|(a, b)| a.same_material(b))
    }
}

/// The keys of a gateway that one node may be known by.
#[derive(Debug, Clone, Copy)]
pub struct OfNode<'k> {
    wanted: &'k Wanted,
    node: &'k NodeName,
}

impl Keys for OfNode<'_> {
    fn key(&self, turn: usize) -> Option<&Key> {
        self.wanted.key(self.node, turn)
    }
}
