//! Which servers somebody has for himself: followed in the store, shown, and freed by command.

use std::sync::Arc;

use http::{Method, StatusCode};
use sallyport_cluster::{Cluster, NotAKey};
use sallyport_link::ClusterKeys;
use sallyport_ops::{Admin, AdminError, AdminRequest, Tasks};
use sallyport_placement::reservations::{Occupation, Refused, Reservations, Scope, Terms};
use sallyport_placement::{Action, Request};
use sallyport_wire::NodeName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::info_span;

use crate::config::Config;
use crate::credentials::signing;
use crate::global::{moment, seal};

/// `POST` of an [`Order`]. Who logs in where is not read at the loopback address.
pub const RESERVATIONS: &str = "/reservations";

/// What is asked about reservations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Order {
    /// Show every server that is not free.
    List,
    /// Free a server, whoever has it.
    Free(NodeName),
}

/// Those of the cluster, as this relay makes and follows them: of all servers, or where it does not observe the others, of
/// its own node.
///
/// # Errors
/// [`NotAKey`], which no name of a node can cause.
pub fn open(
    config: &Config,
    cluster: &Cluster,
    keys: &watch::Receiver<Arc<ClusterKeys>>,
    tasks: &Tasks,
) -> Result<Reservations, NotAKey> {
    let seal = seal(cluster.is_shared(), &keys.borrow());
    let (node, store) = (config.node.clone(), cluster.store());
    let reservations = Reservations::new(store, seal, node, terms(config), tasks.clone())?;
    reservations.follow(&if config.observe || !cluster.is_shared() {
        Scope::All
    } else {
        Scope::Only(config.node.clone())
    })?;
    let (rotated, mut keys) = (reservations.clone(), keys.clone());
    tasks.spawn(info_span!("reservations"), async move {
        while keys.changed().await.is_ok() {
            rotated.rotate(&signing(&keys.borrow_and_update()));
        }
    });
    Ok(reservations)
}

fn terms(config: &Config) -> Terms {
    let limits = &config.limits;
    Terms {
        ttl: limits.reservation_ttl,
        hold: limits.reservation_hold,
        holds: usize::try_from(limits.reservation_holds).unwrap_or(usize::MAX),
    }
}

/// Whether this node is somebody's.
#[must_use]
pub fn is_reserved(reservations: &Reservations, node: &NodeName) -> bool {
    let occupied = reservations.occupied();
    let occupied = occupied.borrow();
    matches!(occupied.get(node), Some(Occupation::Reserved { .. }))
}

/// Has a login choose among the nodes that its user may have, and none that somebody else has or is about to have.
pub fn keep_clear(reservations: &Reservations, request: &mut Request) {
    if request.action != Action::Login {
        return;
    }
    let (occupied, user) = (reservations.occupied(), request.login().to_owned());
    for (node, occupation) in occupied.borrow().iter() {
        let nodes = if occupation.closes_to(&user) {
            &mut request.reserved
        } else {
            &mut request.held
        };
        nodes.insert(node.to_string());
    }
}

/// Adds `POST /reservations`.
#[must_use]
pub fn route(admin: Admin, reservations: &Reservations) -> Admin {
    let reservations = reservations.clone();
    admin.route(Method::POST, RESERVATIONS, move |request| {
        let reservations = reservations.clone();
        Box::pin(async move { obey(&reservations, request).await })
    })
}

async fn obey(reservations: &Reservations, request: AdminRequest) -> Result<Value, AdminError> {
    let order = serde_json::from_value::<Order>(request.body.unwrap_or_default());
    match order.map_err(|error| AdminError::bad_request(error.to_string()))? {
        Order::List => list(reservations).await,
        Order::Free(node) => free(reservations, &node).await,
    }
}

async fn list(reservations: &Reservations) -> Result<Value, AdminError> {
    let occupied = reservations.list().await.map_err(|error| refusal(&error))?;
    let rows = occupied
        .iter()
        .map(|(server, occupation)| show(server, occupation));
    Ok(rows.collect())
}

fn show(server: &NodeName, occupation: &Occupation) -> Value {
    match occupation {
        Occupation::Held {
            account, source, ..
        } => json!({ "server": server, "state": "held", "user": account, "source": source }),
        Occupation::Reserved {
            holder,
            token,
            since,
            logins,
        } => json!({
            "server": server,
            "state": "reserved",
            "user": holder,
            "since": moment(*since),
            "logins": logins,
            "token": token,
        }),
        Occupation::Distrusted { cause } => {
            json!({ "server": server, "state": "distrusted", "cause": cause })
        }
    }
}

async fn free(reservations: &Reservations, node: &NodeName) -> Result<Value, AdminError> {
    let was_there = reservations
        .free(node)
        .await
        .map_err(|error| refusal(&error))?;
    if was_there {
        return Ok(json!({ "node": node }));
    }
    let text = format!("nobody has reserved node {node}: see `reservations`");
    Err(AdminError::not_found(text))
}

fn refusal(error: &Refused) -> AdminError {
    let status = match error {
        Refused::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        Refused::Reserved { .. } | Refused::Lost(_) | Refused::Busy(_) => StatusCode::CONFLICT,
        Refused::TooManyLogins(_) | Refused::Name => StatusCode::BAD_REQUEST,
        Refused::NoKey | Refused::Distrusted { .. } | Refused::Key(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    AdminError::new(status, error.to_string())
}
