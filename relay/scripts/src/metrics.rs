//! Named values of a node that administrators compute: functions and executables, evaluated on each update.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use sallyport_ops::{Guard, Programs, Tasks};
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing::{debug, info_span};

use crate::executable::Executable;
use crate::host::Host;
use crate::script::{Fault, Moment, Script, ScriptError};
use crate::scripts::Scripts;
use crate::settings::Settings;

/// Most metrics of a node.
pub const MOST_METRICS: usize = 64;

/// Most bytes of a value as JSON.
pub const MOST_VALUE: usize = 4 << 10;

/// Deepest nesting of a value: whoever reads the server object that it stands in has a bound of its own.
pub const MOST_DEPTH: u64 = 16;

/// Most bytes of all values as JSON, which go with every server object.
pub const MOST_VALUES: usize = 64 << 10;

/// An update waits so long for the metrics that are quick.
pub const GRACE: Duration = Duration::from_millis(300);

/// How a metric is computed. Both forms get the input of the update; a function may call `run` and `processes` too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Metric {
    /// A JavaScript function that returns a JSON value.
    Function(Script),
    /// A program that writes a JSON value.
    Executable(Executable),
}

impl Metric {
    /// Its name, which is its key in the server object's `metrics`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Function(script) => &script.name,
            Self::Executable(executable) => &executable.name,
        }
    }

    /// What it is, in a word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Function(_) => "function",
            Self::Executable(_) => "executable",
        }
    }
}

/// How many values stand within each other.
fn depth(value: &Value) -> u64 {
    let within: &mut dyn Iterator<Item = &Value> = match value {
        Value::Array(values) => &mut values.iter(),
        Value::Object(fields) => &mut fields.values(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return 0,
    };
    within.map(depth).max().unwrap_or(0).saturating_add(1)
}

/// What is known of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Its name.
    pub name: String,
    /// What it is, in a word.
    pub kind: &'static str,
    /// The last value that was computed, and when. `None` until there is one.
    pub value: Option<(Value, SystemTime)>,
    /// The value is older than the last update: the metric fails, or has not ended yet.
    pub stale: bool,
    /// How long it took last, whether it failed or not.
    pub took: Option<Duration>,
    /// What it fails with, and since when, if it does.
    pub failing: Option<(ScriptError, SystemTime)>,
}

/// A list of metrics that cannot be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetricsError {
    /// Two have the same name.
    #[error("two metrics are called `{0}`")]
    Twice(String),
    /// Too many.
    #[error("{0} metrics, at most {MOST_METRICS} are allowed")]
    TooMany(usize),
}

/// Evaluates the metrics of this node.
///
/// A metric that fails or is slow harms no other and never an update: its last value stays, marked stale, and its
/// error is shown. One that has not ended is not started again.
#[derive(Debug)]
pub struct Metrics {
    functions: Arc<Functions>,
    guard: Guard,
    tasks: Tasks,
    gauges: Arc<Mutex<Vec<Arc<Gauge>>>>,
}

/// Evaluates the functions. A node without any has no workers for them.
#[derive(Debug)]
struct Functions {
    settings: Settings,
    host: Arc<Host>,
    tasks: Tasks,
    workers: OnceLock<Scripts>,
}

#[derive(Debug)]
struct Gauge {
    metric: Metric,
    /// One place: a program that cannot be killed is not started again beside itself.
    programs: Programs,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    runs: bool,
    fresh: bool,
    value: Option<(Value, SystemTime)>,
    /// Bytes of the value as JSON.
    size: usize,
    took: Option<Duration>,
    failing: Option<(ScriptError, SystemTime)>,
}

impl Metrics {
    /// No metrics yet. Functions get workers of their own as `settings` say, because those that wait for programs hold
    /// one, and what they return is held to [`MOST_VALUE`]. Executables run behind `guard`.
    #[must_use]
    pub fn new(mut settings: Settings, host: Arc<Host>, guard: Guard, tasks: Tasks) -> Self {
        settings.limits.output = MOST_VALUE as u64;
        let functions = Functions {
            settings,
            host,
            tasks: tasks.clone(),
            workers: OnceLock::new(),
        };
        Self {
            functions: Arc::new(functions),
            guard,
            tasks,
            gauges: Arc::default(),
        }
    }

    /// From now on `metrics` are evaluated; those that are the same as before keep their last value.
    ///
    /// # Errors
    /// [`MetricsError`]; nothing has changed then.
    pub fn set(&self, metrics: Vec<Metric>) -> Result<(), MetricsError> {
        if metrics.len() > MOST_METRICS {
            return Err(MetricsError::TooMany(metrics.len()));
        }
        let mut gauges = lock(&self.gauges);
        let mut new: Vec<Arc<Gauge>> = Vec::with_capacity(metrics.len());
        for metric in metrics {
            if new.iter().any(|gauge| gauge.metric.name() == metric.name()) {
                return Err(MetricsError::Twice(metric.name().to_owned()));
            }
            let known = gauges.iter().find(|gauge| gauge.metric == metric);
            new.push(known.map_or_else(|| Arc::new(Gauge::new(metric, &self.guard)), Arc::clone));
        }
        *gauges = new;
        Ok(())
    }

    /// Evaluates all metrics with `input`, waits up to [`GRACE`] for them and returns what is known then.
    pub async fn update(&self, input: &Value) -> Vec<Reading> {
        let gauges = lock(&self.gauges).clone();
        let input = Arc::new(input.clone());
        let started = gauges.iter().filter_map(|gauge| self.start(gauge, &input));
        // those that are late come with the next update
        let _late = timeout(GRACE, join_all(started)).await;
        self.readings()
    }

    /// What is known now.
    #[must_use]
    pub fn readings(&self) -> Vec<Reading> {
        lock(&self.gauges)
            .iter()
            .map(|gauge| gauge.reading())
            .collect()
    }

    /// Starts an evaluation unless one still runs. What is returned ends with it.
    fn start(&self, gauge: &Arc<Gauge>, input: &Arc<Value>) -> Option<oneshot::Receiver<()>> {
        let running = Running::begin(gauge)?;
        let (end, ended) = oneshot::channel();
        let (functions, gauges) = (Arc::clone(&self.functions), Arc::clone(&self.gauges));
        let input = Arc::clone(input);
        let span = info_span!("metric", name = running.0.metric.name());
        self.tasks.spawn(span, async move {
            let begun = Instant::now();
            let computed = match &running.0.metric {
                Metric::Function(script) => functions.call(script, &input).await,
                Metric::Executable(executable) => {
                    executable.call(&input, &running.0.programs).await
                }
            };
            running.0.note(computed, begun.elapsed(), &lock(&gauges));
            drop(running);
            drop(end);
        });
        Some(ended)
    }
}

impl Functions {
    async fn call(&self, script: &Script, input: &Value) -> Result<Value, ScriptError> {
        let start = || Scripts::start(self.settings.clone(), &self.tasks);
        let workers = self.workers.get_or_init(start);
        let called = workers.call(script, input, Moment::now(), Some(&self.host));
        called.await.map(|called| called.value)
    }
}

/// The `metrics` of a server object: every metric that has a value, by name.
#[must_use]
pub fn values(readings: &[Reading]) -> Map<String, Value> {
    let entry = |reading: &Reading| {
        let (value, _at) = reading.value.as_ref()?;
        Some((reading.name.clone(), value.clone()))
    };
    readings.iter().filter_map(entry).collect()
}

/// An evaluation under way, over when this is dropped.
struct Running(Arc<Gauge>);

impl Running {
    fn begin(gauge: &Arc<Gauge>) -> Option<Self> {
        let mut state = lock(&gauge.state);
        state.fresh = false;
        if state.runs {
            return None;
        }
        state.runs = true;
        drop(state);
        Some(Self(Arc::clone(gauge)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.0.state).runs = false;
    }
}

impl Gauge {
    fn new(metric: Metric, guard: &Guard) -> Self {
        Self {
            metric,
            programs: Programs::guarded(1, guard.clone()),
            state: Mutex::default(),
        }
    }

    /// Keeps what came of an evaluation; `all` are the metrics that share the room for values.
    fn note(&self, computed: Result<Value, ScriptError>, took: Duration, all: &[Arc<Self>]) {
        let now = SystemTime::now();
        let fitting = computed.and_then(|value| {
            let size = self.fits(&value, all);
            let size = size.map_err(|fault| fault.of(self.metric.name()))?;
            Ok((value, size))
        });
        let mut state = lock(&self.state);
        state.took = Some(took);
        match fitting {
            Ok((value, size)) => {
                state.value = Some((value, now));
                state.size = size;
                state.fresh = true;
                state.failing = None;
            }
            Err(error) => {
                debug!(%error, "a metric fails");
                let since = state.failing.take().map_or(now, |(_, since)| since);
                state.failing = Some((error, since));
            }
        }
    }

    /// The bytes of a value that fits beside those of the others.
    fn fits(&self, value: &Value, all: &[Arc<Self>]) -> Result<usize, Fault> {
        if depth(value) > MOST_DEPTH {
            let (what, limit) = ("the nesting of a metric's value", MOST_DEPTH);
            return Err(Fault::TooLarge { what, limit });
        }
        let size = value.to_string().len();
        let others = all
            .iter()
            .filter(|other| !std::ptr::eq(other.as_ref(), self));
        let taken: usize = others.map(|other| lock(&other.state).size).sum();
        let (what, limit) = if size > MOST_VALUE {
            ("the value of a metric", MOST_VALUE)
        } else if taken.saturating_add(size) > MOST_VALUES {
            ("the values of all metrics together", MOST_VALUES)
        } else {
            return Ok(size);
        };
        let limit = limit as u64;
        Err(Fault::TooLarge { what, limit })
    }

    fn reading(&self) -> Reading {
        let state = lock(&self.state);
        Reading {
            name: self.metric.name().to_owned(),
            kind: self.metric.kind(),
            took: state.took,
            value: state.value.clone(),
            stale: !state.fresh,
            failing: state.failing.clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_within_each_other_are_counted() {
        for (value, deep) in [
            (json!(1), 0),
            (json!([]), 1),
            (json!({ "a": [1, { "b": 2 }] }), 3),
        ] {
            assert_eq!(depth(&value), deep, "{value}");
        }
    }
}
