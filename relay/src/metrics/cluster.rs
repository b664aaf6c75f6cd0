//! The metrics of the cluster's configuration: those that are switched on in the epoch that this node works with.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sallyport_cluster::global::{Applied, METRICS, Object};
use sallyport_scripts::metrics::Metric;
use sallyport_scripts::{Folders, Script};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use super::Defined;
use super::folder::executable;
use crate::config::MetricsConfig;

/// How often it is looked whether the programs may be run.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Follows the configuration for ever.
pub(super) async fn follow(
    (config, folders): (MetricsConfig, Folders),
    mut epochs: watch::Receiver<Option<Applied>>,
    define: watch::Sender<Arc<Defined>>,
) {
    loop {
        let applied = epochs.borrow_and_update().clone();
        let epoch = applied.as_ref().map_or(0, |applied| applied.epoch);
        let (here, programs, now) = (config.clone(), folders.clone(), applied.clone());
        let found = spawn_blocking(move || now.map(|now| look(&now, &here, &programs)));
        let Ok(found) = found.await else {
            return; // only where the runtime ends
        };
        let found = found.unwrap_or_default();
        let runs_programs = found.has_programs();
        let news = define.send_if_modified(|now| {
            let news = **now != found;
            if news {
                *now = Arc::new(found);
            }
            news
        });
        if news {
            tell(epoch, &define.borrow());
        }
        tokio::select! {
            changed = epochs.changed() => if changed.is_err() { return },
            () = sleep(LOOK_EVERY), if runs_programs => {}
        }
    }
}

fn tell(epoch: u64, defined: &Defined) {
    let metrics = defined.metrics.len();
    info!(epoch, metrics, "the cluster's metrics were taken");
    for (name, fault) in &defined.faults {
        warn!(%name, %fault, "a metric of the cluster is not run on this node");
    }
}

/// What an epoch defines. It waits for the disks that programs lie on.
fn look(applied: &Applied, config: &MetricsConfig, folders: &Folders) -> Defined {
    let mut defined = Defined::default();
    for (name, object) in applied.bundle.objects(METRICS) {
        if object.get("enabled") == Some(&Value::Bool(false)) {
            continue;
        }
        match metric(name, object, config, folders) {
            Ok(metric) => defined.metrics.push(metric),
            Err(fault) => defined.faults.push((name.to_owned(), fault)),
        }
    }
    defined
}

/// The bundle was checked, so only the node can be at fault: a program of it is looked at like one of the folder.
fn metric(
    name: &str,
    object: &Object,
    config: &MetricsConfig,
    folders: &Folders,
) -> Result<Metric, String> {
    let text = |field: &str| object.get(field).and_then(Value::as_str);
    if let Some(source) = text("source") {
        return Ok(Metric::Function(Script::new(name, source)));
    }
    let path = Path::new(text("path").ok_or("neither a function nor a program")?);
    let program = folders.find(path).map_err(|error| error.to_string())?;
    executable(name.to_owned(), &program, config)
}
