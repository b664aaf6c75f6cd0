//! Direct URLs: where a client that was let in opens a session at the session's own node, once.

use std::sync::Arc;
use std::time::SystemTime;

use http::{Method, StatusCode};
use sallyport_link::ClusterKeys;
use sallyport_ops::{Admin, AdminError, AdminRequest};
use sallyport_wire::message::Protocol;
use sallyport_wire::{NodeName, SessionId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use crate::access;
use crate::direct::{entrance, probe, tickets};
use crate::directory::NodeFront;
use crate::outfit::Outfit;

/// `POST` of a [`Wanted`]: answers with a [`DirectUrl`].
pub const DIRECT_URL: &str = "/direct-url";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// The session, of this node or of another one.
    pub session: SessionId,
}

/// A way to a session at its own node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectUrl {
    /// The session.
    pub session: SessionId,
    /// Its node.
    pub node: NodeName,
    /// Opens the session, once; it has a ticket in it.
    pub url: String,
    /// Tells pages of the gateways whether the node is reached, by CORS.
    pub probe: String,
    /// Seconds that `url` is good for.
    pub seconds: u64,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
enum NoUrl {
    #[error("no node is known to have a session `{0}`, or it is down")]
    Unknown(SessionId),
    #[error("session `{0}` is not reached over HTTP")]
    Protocol(SessionId),
    #[error(
        "node {0} lets no clients in at its own port: set `url`, `cert` and `key` in [direct] there"
    )]
    Shut(NodeName),
    #[error(transparent)]
    Ticket(#[from] tickets::NoTicket),
}

/// Adds `POST /direct-url`.
#[must_use]
pub fn route(admin: Admin, outfit: &Arc<Outfit>, keys: watch::Receiver<Arc<ClusterKeys>>) -> Admin {
    let outfit = Arc::clone(outfit);
    admin.route(Method::POST, DIRECT_URL, move |request| {
        let made = asked(&request, &outfit, &keys.borrow());
        Box::pin(async move { made })
    })
}

fn asked(request: &AdminRequest, outfit: &Outfit, keys: &ClusterKeys) -> Result<Value, AdminError> {
    let body = request.body.clone().unwrap_or_default();
    let wanted: Wanted =
        serde_json::from_value(body).map_err(|error| AdminError::bad_request(error.to_string()))?;
    match make(&wanted.session, outfit, keys) {
        Ok(made) => {
            info!(session = %made.session, node = %made.node, "a direct URL was made by command");
            Ok(json!(made))
        }
        Err(error @ NoUrl::Ticket(_)) => {
            Err(AdminError::new(StatusCode::CONFLICT, error.to_string()))
        }
        Err(error) => Err(AdminError::not_found(error.to_string())),
    }
}

fn make(session: &SessionId, outfit: &Outfit, keys: &ClusterKeys) -> Result<DirectUrl, NoUrl> {
    let front = find(session, outfit)?;
    let process = (&front.node, front.generation);
    let ticket = tickets::make(keys, process, session, SystemTime::now())?;
    Ok(DirectUrl {
        url: format!("{}{}", front.url, entrance(session, &ticket)),
        probe: format!("{}{}", front.url, probe()),
        session: session.clone(),
        node: front.node,
        seconds: tickets::GOOD_FOR.as_secs(),
    })
}

/// The front of the session's node.
fn find(session: &SessionId, outfit: &Outfit) -> Result<NodeFront, NoUrl> {
    let own = outfit.streams.sessions();
    if let Ok(here) = own.locate(session) {
        if !access::is_reached_by_http(&here.config) {
            return Err(NoUrl::Protocol(session.clone()));
        }
        let node = outfit.person.node.clone();
        let url = own.direct_url().cloned();
        return Ok(NodeFront {
            url: url.ok_or_else(|| NoUrl::Shut(node.clone()))?,
            generation: outfit.person.generation,
            node,
        });
    }
    let (directory, now) = (outfit.streams.hop().directory(), Instant::now());
    let offer = directory.offer(session, now);
    let offer = offer.ok_or_else(|| NoUrl::Unknown(session.clone()))?;
    let spoken = matches!(
        offer.protocol(),
        Protocol::Http | Protocol::H2c | Protocol::Vnc
    );
    if !spoken || offer.blind {
        return Err(NoUrl::Protocol(session.clone()));
    }
    let node = directory.locate(session, now);
    let node = node.ok_or_else(|| NoUrl::Unknown(session.clone()))?;
    directory.front(session, now).ok_or(NoUrl::Shut(node))
}

/// What a person reads.
#[must_use]
pub fn text(made: &Value) -> String {
    let text = |field: &str| made[field].as_str().unwrap_or_default();
    format!(
        "{}\nopens session {} on node {}, once and within {} s\n",
        text("url"),
        text("session"),
        text("node"),
        made["seconds"]
    )
}
