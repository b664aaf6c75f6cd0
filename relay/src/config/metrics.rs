//! The `[metrics]` table: where the metrics of this node lie, and what they may use.

use std::path::PathBuf;
use std::time::Duration;

use sallyport_ops::{Bounds, Programs};
use sallyport_scripts::Commands;
use serde::Deserialize;
use toml::Spanned;

use super::faults::Faults;
use super::limits::Time;

/// Folder of the metrics, beside `relay.toml`.
const FOLDER: &str = "metrics";

/// Stands at the end of an allowed command for any further arguments.
const ANY_MORE: &str = "*";

/// Where the metrics are and what they may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// The folder. It need not exist.
    pub folder: PathBuf,
    /// Commands that functions may run, as [`Commands`] has them.
    pub run: Vec<Vec<String>>,
    /// Time between two updates, more than zero.
    pub every: Duration,
    /// Time of a function, what it waits for left out.
    pub function: Duration,
    /// Time of a program: one that a function runs, or a metric that is one.
    pub program: Duration,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            folder: PathBuf::from(FOLDER),
            run: Vec::new(),
            every: Duration::from_secs(2),
            function: Duration::from_millis(100),
            program: Duration::from_secs(5),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMetrics {
    directory: Option<PathBuf>,
    run: Vec<Spanned<RawCommand>>,
    every: Option<Spanned<Time>>,
    function: Option<Spanned<Time>>,
    program: Option<Spanned<Time>>,
}

/// A program with any arguments, or one with exactly these.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a program, or a list of a program and its arguments"
)]
enum RawCommand {
    Program(String),
    Command(Vec<String>),
}

impl RawCommand {
    fn words(self) -> Vec<String> {
        match self {
            Self::Program(program) => vec![program, ANY_MORE.to_owned()],
            Self::Command(words) => words,
        }
    }
}

impl RawMetrics {
    pub(super) fn check(self, faults: &mut Faults<'_>) -> MetricsConfig {
        let default = MetricsConfig::default();
        let folder = self.directory.unwrap_or(default.folder);
        let run = self.run.into_iter().map(|command| allowed(command, faults));
        let run = run.collect();
        let mut time = |key, given: Option<Spanned<Time>>, default, range: [u64; 2]| {
            let given = given.map(|time| Spanned::new(time.span(), time.get_ref().0));
            let [low, high] = range.map(Duration::from_millis);
            faults.in_range(key, given, default, low..=high)
        };
        MetricsConfig {
            run,
            every: time("every", self.every, default.every, [500, 3_600_000]),
            function: time("function", self.function, default.function, [10, 10_000]),
            program: time("program", self.program, default.program, [100, 60_000]),
            folder: faults.beside(&folder),
        }
    }
}

fn allowed(command: Spanned<RawCommand>, faults: &mut Faults<'_>) -> Vec<String> {
    let span = command.span();
    let words = command.into_inner().words();
    let tried = Commands::new(vec![words.clone()], Programs::new(1), Bounds::default());
    if let Err(fault) = tried {
        faults.at(&span, fault.to_string());
    }
    words
}
