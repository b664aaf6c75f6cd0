//! Log lines: one line an event, on standard error, whatever strangers put into its fields.
//!
//! Levels are a contract: *error* means that we cannot go on, *warn* wakes a person, *info* tells of links that come and
//! go, *debug* of streams and names, *trace* of chunks. Ids live in spans, and spans are never below info.

use std::any::Any;
use std::io::{self, IsTerminal as _};
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, error};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::duration::duration;
use lines::Lines;
use recent::Recent;
use sink::Sink;

pub use category::{Category, NoCategory};
pub use lines::for_people;
pub use recent::{NotRead, Reader};

mod recent;
mod category;
mod lines;
mod fields;
mod sink;

/// The level where none is given.
const DEFAULT_LEVEL: &str = "info";
/// What libraries may say unless the level list names them.
const LIBRARIES: LevelFilter = LevelFilter::WARN;
const SECOND: Duration = Duration::from_secs(1);
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// What the targets of our own lines begin with.
const OURS: &str = "sallyport";

/// The `[log]` table of a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Text for people, JSON for machines, or by whether standard error is a terminal.
    pub format: LogFormat,
    /// The least important line that is written; none leaves it to `LOGLEVEL`, else `info`.
    pub level: Option<LogLevel>,
    /// Lines that are kept for `logs`, at most 1,000,000; 0 keeps none.
    #[serde(deserialize_with = "at_most::<_, 1_000_000>")]
    pub keep_lines: usize,
    /// Bytes of these lines together, at most 1 GiB.
    #[serde(deserialize_with = "at_most::<_, 1_073_741_824>")]
    pub keep_bytes: usize,
    /// How many may read them at once, at most 32: each holds one connection to the admin socket.
    #[serde(deserialize_with = "at_most::<_, 32>")]
    pub readers: usize,
    /// How long details of a category are logged where no time is given.
    #[serde(deserialize_with = "up_to_a_week")]
    pub debug_for: Duration,
    /// How long they are logged at most: 1 s to a week.
    #[serde(deserialize_with = "up_to_a_week")]
    pub debug_most: Duration,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            level: None,
            keep_lines: 4096,
            keep_bytes: 2 << 20,
            readers: 8,
            debug_for: Duration::from_secs(30 * 60),
            debug_most: Duration::from_secs(24 * 60 * 60),
        }
    }
}

fn at_most<'de, D: Deserializer<'de>, const MOST: usize>(given: D) -> Result<usize, D::Error> {
    let number = usize::deserialize(given)?;
    if number > MOST {
        return Err(D::Error::custom(format!("this is at most {MOST}")));
    }
    Ok(number)
}

fn up_to_a_week<'de, D: Deserializer<'de>>(given: D) -> Result<Duration, D::Error> {
    let time = duration(given)?;
    if (SECOND..=WEEK).contains(&time) {
        return Ok(time);
    }
    Err(D::Error::custom("this is 1 s to a week"))
}

/// How much is kept for readers, and how many of these there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keep {
    lines: usize,
    bytes: usize,
    readers: usize,
}

/// The least important line that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// We cannot go on.
    Error,
    /// Someone should look now.
    Warn,
    /// What happens to tunnels and gateways.
    Info,
    /// What happens to single streams.
    Debug,
    /// What happens to single chunks.
    Trace,
}

impl LogLevel {
    const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people: time, level, message, fields, spans.
    Text,
    /// One JSON object a line.
    Json,
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
}

impl LogFormat {
    fn is_json(self) -> bool {
        match self {
            Self::Text => false,
            Self::Json => true,
            Self::Auto => !io::stderr().is_terminal(),
        }
    }
}

/// Why logging cannot start or change.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is none.
    #[error(
        "`{0}` is no log level: write error, warn, info, debug or trace, or a list like `info,hyper=debug`"
    )]
    Level(String),
    /// Something else logs already.
    #[error("logging was started before")]
    Twice,
    /// The thread that writes did not start.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(#[from] io::Error),
}

/// Keeps logging alive; what waits to be written is written when it is dropped.
#[derive(Debug)]
#[must_use = "what waits to be written is written when this is dropped"]
pub struct Telemetry {
    logging: Logging,
    sink: Sink,
}

/// A handle to what is logged: to read it, and to have more of it. Clones are the same.
#[derive(Debug, Clone)]
pub struct Logging {
    levels: Arc<Levels>,
    recent: Recent,
}

/// Starts logging to standard error, panics included.
///
/// The level holds for our own lines (targets that begin with `sallyport`; libraries may warn). Without one `LOGLEVEL`
/// from the environment holds, which may also be a list of `target=level`, else `info`.
///
/// # Errors
/// When `LOGLEVEL` is no level, or logging was started before.
pub fn init(log: Log) -> Result<Telemetry, TelemetryError> {
    let from_environment = std::env::var("LOGLEVEL")
        .ok()
        .filter(|level| !level.is_empty());
    let level = log
        .level
        .map(LogLevel::word)
        .or(from_environment.as_deref())
        .unwrap_or(DEFAULT_LEVEL);
    let logging = Logging::new(level, log)?;
    let json = log.format.is_json();
    let note = if json {
        lines::lost_as_json
    } else {
        lines::lost_as_text
    };
    let sink = Sink::start(io::stderr(), note)?;
    let to = sink.clone();
    let lines = Lines::new(json, logging.clone(), move |line| to.put(line));
    let subscriber = tracing_subscriber::registry().with(lines);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Twice)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(Telemetry { logging, sink })
}

impl Logging {
    pub(crate) fn new(level: &str, log: Log) -> Result<Self, TelemetryError> {
        let keep = Keep {
            lines: log.keep_lines,
            bytes: log.keep_bytes,
            readers: log.readers,
        };
        Ok(Self {
            levels: Arc::new(Levels::parse(level)?),
            recent: Recent::new(keep),
        })
    }

    /// Reads the lines that are kept, of one category or of all, and goes on with those to come if asked to follow.
    ///
    /// # Errors
    /// [`NotRead`].
    pub fn read(
        &self,
        category: Option<&'static Category>,
        follow: bool,
    ) -> Result<Reader, NotRead> {
        self.recent.read(category, follow)
    }

    /// Whether lines of `target` are logged at debug only because of their category.
    #[cfg(test)]
    pub(crate) fn debugs(&self, target: &str) -> bool {
        self.levels.is_debugged(target, Level::DEBUG)
    }

    /// Has these categories log at debug whatever the level is, and no others.
    pub fn debug(&self, categories: Vec<&'static Category>) {
        self.levels.debugged.store(Arc::new(categories));
        tracing_core::callsite::rebuild_interest_cache();
    }
}

impl Telemetry {
    /// A handle to what is logged.
    #[must_use]
    pub fn logging(&self) -> Logging {
        self.logging.clone()
    }

    /// Changes the level while running, to one level or a list of `target=level`.
    ///
    /// # Errors
    /// When `level` is none; the old one then stays.
    pub fn set_level(&self, level: &str) -> Result<(), TelemetryError> {
        self.logging.levels.targets.store(Arc::new(targets(level)?));
        tracing_core::callsite::rebuild_interest_cache();
        Ok(())
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.sink.flush();
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic_text(panic.payload());
    let location = panic.location().map(tracing::field::display);
    error!(target: "sallyport::panic", panic = message, location, "panic");
}

/// The text of a panic, as far as it has one.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Which events are logged; changes while running. Asked once for each place in the code that logs, and again after a
/// change: who logs reads what became of it, and waits for nobody.
#[derive(Debug)]
struct Levels {
    targets: ArcSwap<Targets>,
    debugged: ArcSwap<Vec<&'static Category>>,
}

impl Levels {
    fn parse(level: &str) -> Result<Self, TelemetryError> {
        Ok(Self {
            targets: ArcSwap::from_pointee(targets(level)?),
            debugged: ArcSwap::default(),
        })
    }

    fn logs(&self, callsite: &Metadata<'_>) -> bool {
        // a warning needs the ids in its spans even where the level hides info
        let for_context = callsite.is_span() && *callsite.level() <= LevelFilter::INFO;
        let (target, level) = (callsite.target(), callsite.level());
        for_context
            || self.is_debugged(target, *level)
            || self.targets.load().would_enable(target, level)
    }

    fn is_debugged(&self, target: &str, level: Level) -> bool {
        let debugged = self.debugged.load();
        level <= Level::DEBUG && debugged.iter().any(|category| category.covers(target))
    }

    fn highest(&self) -> LevelFilter {
        let targets = self.targets.load();
        let highest = targets.iter().map(|(_, level)| level).max();
        let debugged = (!self.debugged.load().is_empty()).then_some(LevelFilter::DEBUG);
        highest
            .max(targets.default_level())
            .max(debugged)
            .unwrap_or(LevelFilter::INFO)
            .max(LevelFilter::INFO)
    }
}

fn targets(level: &str) -> Result<Targets, TelemetryError> {
    if let Ok(ours) = level.trim().parse::<LevelFilter>() {
        return Ok(Targets::new()
            .with_target(OURS, ours)
            .with_default(ours.min(LIBRARIES)));
    }
    // a word that is no level would otherwise be taken for a target that logs everything
    let each = level.split(',').map(str::trim);
    let is_sound = |part: &str| match part.split_once('=') {
        Some((_target, level)) => level.parse::<LevelFilter>().is_ok(),
        None => part.parse::<LevelFilter>().is_ok(),
    };
    if !each.clone().all(is_sound) {
        return Err(TelemetryError::Level(level.escape_debug().to_string()));
    }
    let list = each.collect::<Vec<_>>().join(",");
    list.parse()
        .map_err(|_| TelemetryError::Level(level.escape_debug().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(level: &str, target: &str, at: Level) -> bool {
        targets(level).unwrap().would_enable(target, &at)
    }

    #[test]
    fn one_level_is_ours_and_keeps_libraries_quiet() {
        assert!(logs("debug", "sallyport_link::tunnel", Level::DEBUG));
        assert!(!logs("debug", "hyper::proto", Level::DEBUG));
        assert!(logs("debug", "hyper::proto", Level::WARN));
        assert!(!logs("error", "hyper::proto", Level::WARN));
        assert!(!logs("info", "sallyport_link", Level::DEBUG));
    }

    #[test]
    fn a_list_names_targets() {
        assert!(logs("info, hyper=debug", "hyper::proto", Level::DEBUG));
        assert!(logs("info,hyper=debug", "sallyport_link", Level::INFO));
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for level in ["verbose", "info,hyper=loud", "inf", "info;debug"] {
            let error = targets(level).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{level}` is no log level")),
                "{error}"
            );
        }
    }
}
