//! Whose a node's name is. The cluster keys show that a node belongs to the cluster, not which of its nodes it is: so a
//! name belongs to the id that the configuration has for it, else to the node key that used it first.

use std::sync::Arc;

use http::{Method, StatusCode};
use sallyport_link::identity::fingerprint;
use sallyport_link::names::{Binding, Claim, ClaimError};
use sallyport_link::{Admitted, NodeKey};
use sallyport_ops::{Admin, AdminError, AdminRequest};
use sallyport_wire::{Code, NodeName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tracing::{info, warn};

use super::Peers;

/// `GET`: every node whose name belongs to a node key.
pub const NAMES: &str = "/peers";
/// `POST` of a [`Forget`]: releases names.
pub const FORGET: &str = "/peers/forget";

/// Names to be released: that of a node, or all that were taken by a cluster key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Forget {
    /// The node.
    pub node: Option<NodeName>,
    /// The key's id.
    pub key: Option<String>,
}

/// Why a node may not have the name that it gives: what it hears, and what the log says.
pub(super) type NotOwn = (Code, String);

impl Peers {
    /// A node comes under a name, or is found under it. The claim holds at once; it is to be saved before the node is
    /// told so: see [`Peers::save_name`].
    pub(super) fn claim(&self, node: &Admitted) -> Result<(), NotOwn> {
        if self.is_named(node)? {
            return Ok(());
        }
        let Admitted {
            node: name, kid, ..
        } = node;
        let claimed = self.names.claim(name, binding(node), || false);
        let claim = claimed.map_err(|error| not_own(error, name))?;
        if claim == Claim::Bound {
            info!(node = %name, kid, id = fingerprint(&node.node_key), "the node's name belongs to this node key from now on");
        }
        Ok(())
    }

    /// What would come of a claim.
    pub(super) fn would_claim(&self, node: &Admitted) -> Result<(), NotOwn> {
        if self.is_named(node)? {
            return Ok(());
        }
        let names = &self.names;
        let claimed = names.would_claim(&node.node, &binding(node), || false);
        claimed
            .map(drop)
            .map_err(|error| not_own(error, &node.node))
    }

    /// Whether the configuration names the node's id.
    fn is_named(&self, node: &Admitted) -> Result<bool, NotOwn> {
        let known = self.known.get(&node.node);
        let id = fingerprint(&node.node_key);
        match known.as_ref().and_then(|peer| peer.id.as_ref()) {
            None => Ok(false),
            Some(expected) if *expected == id => Ok(true),
            Some(expected) => {
                let cause = format!("its node key has id {id}, and [[peer]] says {expected}");
                Err((Code::NameTaken, cause))
            }
        }
    }

    /// Waits until it is on disk whose a name is: a crash must not free it.
    pub(super) async fn save_name(&self, node: &NodeName) -> Result<(), NotOwn> {
        if self.names.is_saved(node) {
            return Ok(());
        }
        let saved = self.names.saved().await;
        saved.map_err(|cause| (Code::Internal, format!("its name is not saved: {cause}")))
    }

    fn show_names(&self) -> Value {
        let show = |(node, owner): (NodeName, Binding)| {
            json!({
                "node": node,
                "id": fingerprint(owner.key.bytes()),
                "kid": owner.kid,
                "tunnels": self.board.of(&node).len(),
            })
        };
        let names = self.names.all();
        names.into_iter().map(show).collect()
    }

    /// Releases names. Tunnels of their nodes end: whoever comes next under such a name may bring another key.
    async fn forget(&self, request: &AdminRequest) -> Result<Value, AdminError> {
        let body = request.body.clone().unwrap_or_default();
        let wanted: Forget = serde_json::from_value(body)
            .map_err(|error| AdminError::bad_request(error.to_string()))?;
        match (wanted.node, wanted.key) {
            (Some(node), None) => {
                if !self.names.forget(&node) {
                    let text = format!("no node of the name `{node}` is known");
                    return Err(AdminError::not_found(text));
                }
                let tunnels = self.released(&node, "the administrator");
                self.saved().await?;
                Ok(json!({ "node": node, "tunnels": tunnels }))
            }
            (None, Some(kid)) => self.forget_of(&kid).await,
            (Some(_), Some(_)) | (None, None) => Err(AdminError::bad_request("a node or a key?")),
        }
    }

    /// Releases all names that were taken by a cluster key: who had stolen it may have taken any.
    async fn forget_of(&self, kid: &str) -> Result<Value, AdminError> {
        let is_live = self
            .credentials()
            .ring()
            .live(kid, OffsetDateTime::now_utc());
        if is_live.is_ok() {
            let text = format!(
                "key `{kid}` is live, so its holders would take the names again: `sallyport-relay cluster-key revoke {kid}` first"
            );
            return Err(AdminError::new(StatusCode::CONFLICT, text));
        }
        let taken = self.names.all().into_iter();
        let taken = taken.filter(|(_, owner)| owner.kid == kid);
        let (mut names, mut tunnels) = (0_usize, 0);
        for (node, _) in taken {
            if self.names.forget(&node) {
                names = names.saturating_add(1);
                tunnels += self.released(&node, "the administrator, with all of a key");
            }
        }
        if names == 0 {
            let text =
                format!("no name was taken by the key `{kid}`: `sallyport-relay peers` lists them");
            return Err(AdminError::not_found(text));
        }
        self.saved().await?;
        Ok(json!({ "key": kid, "names": names, "tunnels": tunnels }))
    }

    /// Ends the tunnels of a node whose name is free now; how many there were.
    fn released(&self, node: &NodeName, by: &str) -> usize {
        let tunnels = self.board.of(node);
        tunnels
            .iter()
            .for_each(|tunnel| tunnel.close(Code::Superseded));
        warn!(%node, by, tunnels = tunnels.len(), "node name released");
        tunnels.len()
    }

    async fn saved(&self) -> Result<(), AdminError> {
        self.names.saved().await.map_err(|cause| {
            let text = format!("it is free until the relay ends, but that is not saved: {cause}");
            AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, text)
        })
    }
}

fn binding(node: &Admitted) -> Binding {
    Binding {
        key: NodeKey::new(node.node_key),
        kid: node.kid.clone(),
        ephemeral: false,
    }
}

/// What is wrong with a claim, and what helps.
fn not_own(error: ClaimError, node: &NodeName) -> NotOwn {
    let cure = match error {
        ClaimError::Taken => format!("`sallyport-relay peers forget {node}` releases it"),
        ClaimError::Full | ClaimError::Share => "raise limits.peer_names".to_owned(),
    };
    (error.code(), format!("{error}; {cure}"))
}

/// Adds the routes.
#[must_use]
pub fn routes(admin: Admin, peers: &Arc<Peers>) -> Admin {
    let (at_names, at_forget) = (Arc::clone(peers), Arc::clone(peers));
    admin
        .route(Method::GET, NAMES, move |_request| {
            let shown = at_names.show_names();
            Box::pin(async move { Ok(shown) })
        })
        .route(Method::POST, FORGET, move |request| {
            let peers = Arc::clone(&at_forget);
            Box::pin(async move { peers.forget(&request).await })
        })
}
