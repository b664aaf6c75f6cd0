//! What the administrator can ask of a running gateway.

use std::sync::Arc;

use http::Method;
use sallyport_ops::{Admin, AdminError, AdminRequest};
use sallyport_wire::{ClusterNode, Code};
use serde::Serialize;
use serde_json::{Value, json};
use tracing::warn;

use crate::hub::Hub;
use crate::status;

/// Everything as JSON.
pub const STATUS: &str = "/status";
/// Every node whose name is bound.
pub const RELAYS: &str = "/relays";
/// Releases a node's name: `{"node": "…", "cluster": "…"}`, the default cluster's without `cluster`.
pub const FORGET: &str = "/relays/forget";

/// Takes the keys as their file has them now.
pub const KEYS: &str = "/keys";

/// The admin server of a gateway: what `admin` has, and this.
pub fn admin(hub: &Arc<Hub>, admin: Admin) -> Arc<Admin> {
    let (for_status, for_relays, for_forget) = (Arc::clone(hub), Arc::clone(hub), Arc::clone(hub));
    let for_keys = Arc::clone(hub);
    let admin = admin
        .route(Method::GET, STATUS, move |_request| {
            let answer = as_json(&status::status(&for_status));
            Box::pin(async move { answer })
        })
        .route(Method::GET, RELAYS, move |_request| {
            let answer = as_json(&status::relays(&for_relays));
            Box::pin(async move { answer })
        })
        .route(Method::POST, FORGET, move |request| {
            let hub = Arc::clone(&for_forget);
            Box::pin(async move { forget(&hub, &request).await })
        })
        .route(Method::POST, KEYS, move |_request| {
            let hub = Arc::clone(&for_keys);
            Box::pin(async move {
                let taken = hub.look_for_keys().await;
                taken.map_err(|cause| failure(&cause)).map(|()| json!({}))
            })
        });
    Arc::new(admin)
}

fn as_json(value: &impl Serialize) -> Result<Value, AdminError> {
    serde_json::to_value(value).map_err(|error| failure(&error))
}

fn failure(cause: &impl ToString) -> AdminError {
    AdminError::new(http::StatusCode::INTERNAL_SERVER_ERROR, cause.to_string())
}

/// Releases a name. Tunnels of the node end: whoever comes next under the name may bring another key.
async fn forget(hub: &Hub, request: &AdminRequest) -> Result<Value, AdminError> {
    let node = named(request)?;
    if !hub.names.forget(&node) {
        return Err(unknown(hub, &node));
    }
    let tunnels = hub.registry().members(&node).len();
    hub.expel(&node, Code::Superseded);
    hub.change(|registry| registry.release_homes(&node));
    hub.heard_of(&node);
    warn!(%node, tunnels, "node name released by the administrator");
    hub.names.saved().await.map_err(|cause| {
        let text =
            format!("the name is free until the gateway ends, but that is not saved: {cause}");
        AdminError::new(http::StatusCode::INTERNAL_SERVER_ERROR, text)
    })?;
    Ok(json!({ "node": node.name, "cluster": node.cluster, "tunnels": tunnels }))
}

/// The node that a request names.
fn named(request: &AdminRequest) -> Result<ClusterNode, AdminError> {
    let text = |field| {
        let value = request.body.as_ref().and_then(|body| body.get(field));
        value.and_then(Value::as_str)
    };
    let bad = |error| AdminError::bad_request(format!("{error}"));
    let name = text("node").ok_or_else(|| AdminError::bad_request("which node?"))?;
    Ok(ClusterNode {
        cluster: text("cluster").unwrap_or_default().parse().map_err(bad)?,
        name: name.parse().map_err(bad)?,
    })
}

/// Says where the name is known, if not where it was looked for.
fn unknown(hub: &Hub, node: &ClusterNode) -> AdminError {
    let alike = hub
        .names
        .all()
        .into_keys()
        .filter(|known| known.name == node.name);
    let known: Vec<_> = alike.map(|known| known.to_string()).collect();
    let elsewhere = match known.as_slice() {
        [] => String::new(),
        known => format!("; `--cluster` says which is meant of {}", known.join(", ")),
    };
    AdminError::not_found(format!("no node of the name `{node}` is known{elsewhere}"))
}
