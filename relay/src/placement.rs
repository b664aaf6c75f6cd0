//! Placement on this node: who it chooses from, how it is set up, and what an administrator asks of it.

use std::sync::Arc;

use http::{Method, StatusCode};
use sallyport_ops::{Admin, AdminError, AdminRequest, Bounds, Guard, Programs, Tasks};
use sallyport_placement::engine::{Engine, PROGRAMS};
use sallyport_placement::placement::Parts;
use sallyport_placement::reservations::Reservations;
use sallyport_placement::trace::Trace;
use sallyport_placement::{Placement, PlacementError, Request};
use sallyport_scripts::Folders;
use serde_json::{Value, json};

use crate::config::PlacementConfig;
use crate::reservations::keep_clear;
use crate::servers::Servers;

/// `POST`: the last placements, the newest first; of an `id`, all of that one. Whoever may not give orders is not shown what
/// users asked for.
pub const TRACES: &str = "/placements";

/// `POST` of a request: what would be chosen now.
pub const DRY_RUN: &str = "/placements/dry-run";

/// `POST` of an id: the placement once more.
pub const REPLAY: &str = "/placements/replay";

/// Most placements that are listed.
const MOST_LISTED: usize = 200;

/// The placement of this node, which chooses among the `servers` that it knows of.
#[must_use]
pub fn open(
    servers: &Servers,
    config: &PlacementConfig,
    folders: Folders,
    tasks: &Tasks,
) -> Placement {
    let describer = &servers.describer;
    let parts = Parts {
        node: describer.outfit.person.node.clone(),
        roster: Arc::new(servers.clone()),
        config: describer.global.changes(),
        pending: describer.pending.clone(),
        occupied: describer.reservations.occupied(),
        engine: engine(folders, tasks),
    };
    Placement::new(parts, config.settings())
}

/// What runs scripts here, and programs that lie in `folders`.
#[must_use]
pub fn engine(folders: Folders, tasks: &Tasks) -> Engine {
    let programs = Programs::guarded(PROGRAMS, Guard::ourselves());
    let settings = sallyport_scripts::Settings::default();
    Engine::new(
        settings,
        (programs, folders),
        Bounds::default(),
        tasks.clone(),
    )
}

/// Adds the routes.
#[must_use]
pub fn routes(admin: Admin, placement: &Placement, reservations: &Reservations) -> Admin {
    let reservations = reservations.clone();
    let (at_traces, at_dry_run, at_replay) =
        (placement.clone(), placement.clone(), placement.clone());
    admin
        .route(Method::POST, TRACES, move |request| {
            let shown = traces(&at_traces, &request);
            Box::pin(async move { shown })
        })
        .route(Method::POST, DRY_RUN, move |request| {
            let (placement, reservations) = (at_dry_run.clone(), reservations.clone());
            Box::pin(async move { dry_run(&placement, &reservations, request).await })
        })
        .route(Method::POST, REPLAY, move |request| {
            let placement = at_replay.clone();
            Box::pin(async move { replay(&placement, request).await })
        })
}

fn traces(placement: &Placement, request: &AdminRequest) -> Result<Value, AdminError> {
    let body = request.body.as_ref();
    match body.and_then(|body| body["id"].as_str()) {
        Some(id) => {
            let found = placement.traces().find(id).ok_or_else(|| not_kept(id));
            Ok(json!(*found?))
        }
        None => {
            let newest = placement.traces().newest(MOST_LISTED);
            Ok(newest.iter().map(|trace| in_short(trace)).collect())
        }
    }
}

async fn dry_run(
    placement: &Placement,
    reservations: &Reservations,
    request: AdminRequest,
) -> Result<Value, AdminError> {
    let request = serde_json::from_value::<Request>(request.body.unwrap_or_default());
    let mut request = request.map_err(|error| AdminError::bad_request(error.to_string()))?;
    keep_clear(reservations, &mut request);
    let trace = Box::pin(placement.dry_run(request)).await;
    let trace = trace.map_err(|error| refusal(&error))?;
    Ok(json!(*trace))
}

async fn replay(placement: &Placement, request: AdminRequest) -> Result<Value, AdminError> {
    let body = request.body.unwrap_or_default();
    let id = body["id"].as_str().unwrap_or_default();
    let replay = Box::pin(placement.replay(id)).await;
    replay
        .map(|replay| json!(replay))
        .ok_or_else(|| not_kept(id))
}

/// A placement without its servers, scripts and steps.
fn in_short(trace: &Trace) -> Value {
    let last = trace.attempts.last();
    json!({
        "id": trace.id,
        "time": trace.time,
        "action": trace.request.action,
        "user": trace.request.login(),
        "dryRun": trace.dry_run,
        "epoch": trace.epoch,
        "attempts": trace.attempts.len(),
        "servers": last.map(|attempt| attempt.servers.len()),
        "dropped": last.map(|attempt| attempt.dropped.len()),
        "verdict": last.map(|attempt| &attempt.verdict),
        "failed": last.and_then(|attempt| attempt.failed.as_ref()),
        "tookUs": trace.attempts.iter().map(|attempt| attempt.took_us).sum::<u64>(),
    })
}

fn not_kept(id: &str) -> AdminError {
    let id = id.escape_debug();
    AdminError::not_found(format!(
        "no placement `{id}` is kept: `sallyport-relay scripts trace` lists those that are"
    ))
}

fn refusal(error: &PlacementError) -> AdminError {
    let status = match error {
        PlacementError::TooLarge { .. } => StatusCode::BAD_REQUEST,
        PlacementError::NotObserving => StatusCode::CONFLICT,
        PlacementError::Threw { .. }
        | PlacementError::Script { .. }
        | PlacementError::Unknown { .. }
        | PlacementError::Disabled { .. }
        | PlacementError::Exhausted(_)
        | PlacementError::NoServer { .. }
        | PlacementError::Failed { .. }
        | PlacementError::Busy(_)
        | PlacementError::Waited(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    AdminError::new(status, error.to_string())
}
