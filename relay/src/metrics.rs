//! The metrics of this node: what administrators' functions and programs make of it, on each update. They are defined in the
//! configuration of the cluster, and in a folder of the node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use sallyport_cluster::global::Applied;
use sallyport_ops::{Admin, Bounds, Guard, Programs, Table, Tasks};
use sallyport_scripts::metrics::{MOST_METRICS, Metric, Metrics, Reading, values};
use sallyport_scripts::{Commands, Folders, Host, Limits, Settings};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info_span, warn};

use crate::config::MetricsConfig;

mod cluster;
mod folder;

pub use folder::look as look_at_folder;

/// `GET`: the metrics as they are. The other `/metrics` is what a monitoring system asks for.
pub const METRICS: &str = "/node-metrics";

/// Functions that run at the same time. One that waits for a program holds its place.
const FUNCTIONS: usize = 2;

/// Programs that functions may have running, those included that cannot be killed.
const PROGRAMS: usize = 8;

/// A function that does not stop when it is interrupted is killed so much later.
const KILLED_AFTER: Duration = Duration::from_millis(200);

/// Nobody waits for a metric, so it gives way to what moves users' bytes.
const NICENESS: i32 = 5;

/// A function waits so long for the others to give way.
const WAIT: Duration = Duration::from_secs(30);

/// What is to be evaluated, wherever that is written down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defined {
    /// The metrics, with different names.
    pub metrics: Vec<Metric>,
    /// What was to be a metric and cannot be: its name or its file's, and why.
    pub faults: Vec<(String, String)>,
}

impl Defined {
    fn has_programs(&self) -> bool {
        let is_program = |metric: &Metric| matches!(metric, Metric::Executable(_));
        !self.faults.is_empty() || self.metrics.iter().any(is_program)
    }
}

/// Where a metric is defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// In the configuration of the cluster.
    Cluster,
    /// In the folder of this node.
    Folder,
}

impl Origin {
    const fn word(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Folder => "folder",
        }
    }
}

/// Everything that is to be evaluated, from wherever.
#[derive(Debug, Default)]
struct All {
    metrics: Vec<Metric>,
    /// Names of those that the cluster defines.
    of_cluster: BTreeSet<String>,
    faults: Vec<(Origin, String, String)>,
}

impl All {
    /// The cluster's metrics, and those of the folder whose names it does not have: a name means the same on every node,
    /// since scripts compare nodes by it.
    fn of(cluster: &Defined, folder: &Defined) -> Self {
        let mut all = Self {
            metrics: cluster.metrics.clone(),
            of_cluster: names(cluster),
            faults: faults(Origin::Cluster, cluster).collect(),
        };
        all.faults.extend(faults(Origin::Folder, folder));
        for metric in &folder.metrics {
            let fault = if all.of_cluster.contains(metric.name()) {
                "the configuration of the cluster has a metric of this name, which is the same on every node: rename the file".to_owned()
            } else if all.metrics.len() >= MOST_METRICS {
                format!("a node has at most {MOST_METRICS} metrics, those of the cluster first")
            } else {
                all.metrics.push(metric.clone());
                continue;
            };
            let fault = (Origin::Folder, metric.name().to_owned(), fault);
            all.faults.push(fault);
        }
        all
    }

    fn origin(&self, name: &str) -> Origin {
        if self.of_cluster.contains(name) {
            Origin::Cluster
        } else {
            Origin::Folder
        }
    }
}

/// The cluster has a name also where its metric cannot be run.
fn names(cluster: &Defined) -> BTreeSet<String> {
    let good = cluster
        .metrics
        .iter()
        .map(|metric| metric.name().to_owned());
    let faulty = cluster.faults.iter().map(|(name, _)| name.clone());
    good.chain(faulty).collect()
}

fn faults(
    origin: Origin,
    defined: &Defined,
) -> impl Iterator<Item = (Origin, String, String)> + use<'_> {
    let faults = defined.faults.iter();
    faults.map(move |(name, fault)| (origin, name.clone(), fault.clone()))
}

/// What is known of the metrics. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    now: Arc<watch::Sender<Arc<Seen>>>,
}

#[derive(Debug, Default)]
struct Seen {
    readings: Vec<(Origin, Reading)>,
    faults: Vec<(Origin, String, String)>,
}

/// A metric as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Shown {
    /// Its name, or that of a file that is none.
    pub name: String,
    /// `function` or `executable`.
    pub kind: Option<String>,
    /// Where it is defined: `cluster` for its configuration, `folder` for the files of this node.
    pub from: String,
    /// Its last value.
    pub value: Option<Value>,
    /// When that was computed (RFC 3339).
    pub when: Option<String>,
    /// Milliseconds that it took last.
    pub took_ms: Option<u64>,
    /// The value is older than the last update.
    pub stale: bool,
    /// Why it has no new value.
    pub error: Option<String>,
    /// Since when it has none (RFC 3339).
    pub failing_since: Option<String>,
}

impl Gauges {
    /// The last values, by name.
    pub fn values(&self) -> impl Iterator<Item = (String, Value)> + use<> {
        let seen = self.seen();
        let readings = seen.readings.iter().map(|(_, reading)| reading.clone());
        values(&readings.collect::<Vec<_>>()).into_iter()
    }

    /// Everything that is known.
    #[must_use]
    pub fn show(&self) -> Vec<Shown> {
        let seen = self.seen();
        let fault = |(origin, name, error): &(Origin, String, String)| Shown {
            name: name.clone(),
            from: origin.word().to_owned(),
            stale: true,
            error: Some(error.clone()),
            ..Shown::default()
        };
        let readings = seen.readings.iter().map(shown);
        readings.chain(seen.faults.iter().map(fault)).collect()
    }

    /// The names of those that have no new value.
    #[must_use]
    pub fn failing(&self) -> Vec<String> {
        let failing = |metric: &Shown| metric.error.is_some();
        let failing = self.show().into_iter().filter(failing);
        failing.map(|metric| metric.name).collect()
    }

    /// Evaluates the metrics of the cluster's `epochs` and of the folder for as long as `tasks` run, each time with the
    /// `input` of that moment.
    pub fn follow(
        &self,
        (config, folders): (&MetricsConfig, &Folders),
        epochs: watch::Receiver<Option<Applied>>,
        input: impl Fn() -> Value + Send + 'static,
        tasks: &Tasks,
    ) {
        let (define, folder) = watch::channel(Arc::default());
        let looking = folder::follow(config.clone(), define);
        tasks.spawn(info_span!("metrics_folder"), looking);
        let (define, cluster) = watch::channel(Arc::default());
        let looking = cluster::follow((config.clone(), folders.clone()), epochs, define);
        tasks.spawn(info_span!("metrics_cluster"), looking);
        let sources = Definitions { cluster, folder };
        let updating = self
            .clone()
            .update(config.clone(), sources, input, tasks.clone());
        tasks.spawn(info_span!("metrics"), updating);
    }

    async fn update(
        self,
        config: MetricsConfig,
        mut sources: Definitions,
        input: impl Fn() -> Value + Send + 'static,
        tasks: Tasks,
    ) {
        let metrics = match evaluator(&config, tasks) {
            Ok(metrics) => metrics,
            Err(cause) => {
                // the configuration was checked with the same eyes
                warn!(%cause, "no metrics");
                return;
            }
        };
        let mut ticks = interval(config.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _now = ticks.tick() => {}
                Ok(()) = sources.cluster.changed() => {}
                Ok(()) = sources.folder.changed() => {}
            }
            let wanted = sources.all();
            if let Err(cause) = metrics.set(wanted.metrics.clone()) {
                warn!(%cause, "the metrics stay as they were");
            }
            let readings = if wanted.metrics.is_empty() {
                Vec::new()
            } else {
                metrics.update(&input()).await
            };
            self.note(readings, wanted);
        }
    }

    fn note(&self, readings: Vec<Reading>, of: All) {
        let readings = readings.into_iter();
        let readings = readings.map(|reading| (of.origin(&reading.name), reading));
        let readings = readings.collect();
        let faults = of.faults;
        self.now.send_replace(Arc::new(Seen { readings, faults }));
    }

    fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.now.borrow())
    }
}

/// From where metrics come.
struct Definitions {
    cluster: watch::Receiver<Arc<Defined>>,
    folder: watch::Receiver<Arc<Defined>>,
}

impl Definitions {
    /// All of them as they are now.
    fn all(&mut self) -> All {
        let cluster = self.cluster.borrow_and_update();
        let folder = self.folder.borrow_and_update();
        All::of(&cluster, &folder)
    }
}

fn evaluator(
    config: &MetricsConfig,
    tasks: Tasks,
) -> Result<Metrics, sallyport_scripts::commands::NotAllowable> {
    let guard = Guard::ourselves();
    let programs = Programs::guarded(PROGRAMS, guard.clone());
    let bounds = Bounds {
        time: config.program,
        ..Bounds::default()
    };
    let commands = Commands::new(config.run.clone(), programs, bounds)?;
    let settings = Settings {
        workers: FUNCTIONS,
        wait: WAIT,
        limits: Limits {
            interrupt: config.function,
            kill: config.function.saturating_add(KILLED_AFTER),
            niceness: NICENESS,
            ..Limits::default()
        },
        ..Settings::default()
    };
    Ok(Metrics::new(
        settings,
        Arc::new(Host::new(commands)),
        guard,
        tasks,
    ))
}

fn shown((origin, reading): &(Origin, Reading)) -> Shown {
    let (error, since) = match &reading.failing {
        Some((error, since)) => (Some(error.to_string()), Some(*since)),
        None => (None, None),
    };
    let (value, when) = reading.value.clone().unzip();
    Shown {
        name: reading.name.clone(),
        kind: Some(reading.kind.to_owned()),
        from: origin.word().to_owned(),
        value,
        when: when.and_then(written),
        took_ms: reading
            .took
            .map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
        stale: reading.stale,
        error,
        failing_since: since.and_then(written),
    }
}

fn written(time: SystemTime) -> Option<String> {
    let time = OffsetDateTime::from(time).replace_nanosecond(0).ok()?;
    time.format(&Rfc3339).ok()
}

/// Adds `GET /node-metrics`.
#[must_use]
pub fn route(admin: Admin, gauges: Gauges) -> Admin {
    admin.route(Method::GET, METRICS, move |_request| {
        let shown = json!(gauges.show());
        Box::pin(async move { Ok(shown) })
    })
}

/// The metrics as a person reads them.
#[must_use]
pub fn text(metrics: &Value) -> String {
    let mut table = Table::new(&["metric", "kind", "from", "value", "when", "took", "error"]);
    let metrics: Vec<Shown> = serde_json::from_value(metrics.clone()).unwrap_or_default();
    for metric in metrics {
        table.row([
            metric.name,
            metric.kind.unwrap_or_default(),
            metric.from,
            metric
                .value
                .map(|value| value.to_string())
                .unwrap_or_default(),
            metric.when.unwrap_or_default(),
            metric
                .took_ms
                .map(|took| format!("{took} ms"))
                .unwrap_or_default(),
            metric.error.unwrap_or_default(),
        ]);
    }
    table.to_string()
}
