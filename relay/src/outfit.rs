//! What every keeper of this relay has at hand, and who the relay is.

use std::sync::Arc;

use sallyport_link::{Choice, Dialer, NodeIdentity};
use sallyport_wire::NodeName;
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::config::Limits;
use crate::streams::Streams;

/// Who a relay is to its gateways.
#[derive(Debug)]
pub struct Person {
    /// Name of the node.
    pub node: NodeName,
    /// Its site; empty for none.
    pub site: String,
    /// The number of this process among those of the node.
    pub generation: u64,
    /// What it can do beyond the version of the protocol.
    pub features: Vec<String>,
    /// The node's key.
    pub identity: NodeIdentity,
}

/// What all keepers share.
#[derive(Debug)]
pub struct Outfit {
    /// Who says hello.
    pub person: Person,
    /// Brings tunnels up.
    pub dialer: Dialer,
    /// What makes this process wait otherwise than the others, between its tries.
    pub seed: u64,
    /// Transports to try.
    pub choice: Choice,
    /// Tunnels to a gateway that asks for no number.
    pub tunnels: usize,
    /// Every bound.
    pub limits: Limits,
    /// Carries what comes out of the tunnels.
    pub streams: Arc<Streams>,
    /// What status shows.
    pub board: Board,
    /// Cancelled when the relay takes nothing new.
    pub leaving: CancellationToken,
}
