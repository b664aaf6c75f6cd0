//! Log lines: one line an event, on standard error, whatever strangers put into its fields.
//!
//! Levels are a contract: *error* means that we cannot go on, *warn* wakes a person, *info* tells of links that come and
//! go, *debug* of streams and names, *trace* of chunks. Ids live in spans, and spans are never below info.

use std::any::Any;
use std::io::{self, IsTerminal as _};
use std::panic::PanicHookInfo;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::Deserialize;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, error};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;

use lines::Lines;
use sink::Sink;

mod lines;
mod fields;
mod sink;

/// The level where none is given.
const DEFAULT_LEVEL: &str = "info";
/// What libraries may say unless the level list names them.
const LIBRARIES: LevelFilter = LevelFilter::WARN;
/// What the targets of our own lines begin with.
const OURS: &str = "sallyport";

/// The `[log]` table of a configuration file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Text for people, JSON for machines, or by whether standard error is a terminal.
    pub format: LogFormat,
    /// The least important line that is written; none leaves it to `LOGLEVEL`, else `info`.
    pub level: Option<LogLevel>,
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
    levels: Arc<Levels>,
    sink: Sink,
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
    let levels = Arc::new(Levels::parse(level)?);
    let json = log.format.is_json();
    let note = if json {
        lines::lost_as_json
    } else {
        lines::lost_as_text
    };
    let sink = Sink::start(io::stderr(), note)?;
    let to = sink.clone();
    let lines = Lines::new(json, Arc::clone(&levels), move |line| to.put(line));
    let subscriber = tracing_subscriber::registry().with(lines);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Twice)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(Telemetry { levels, sink })
}

impl Telemetry {
    /// Changes the level while running, to one level or a list of `target=level`.
    ///
    /// # Errors
    /// When `level` is none; the old one then stays.
    pub fn set_level(&self, level: &str) -> Result<(), TelemetryError> {
        self.levels.targets.store(Arc::new(targets(level)?));
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

/// Which events are logged; changes while running.
#[derive(Debug)]
struct Levels {
    targets: ArcSwap<Targets>,
}

impl Levels {
    fn parse(level: &str) -> Result<Self, TelemetryError> {
        Ok(Self {
            targets: ArcSwap::from_pointee(targets(level)?),
        })
    }

    fn logs(&self, callsite: &Metadata<'_>) -> bool {
        // a warning needs the ids in its spans even where the level hides info
        let for_context = callsite.is_span() && *callsite.level() <= LevelFilter::INFO;
        for_context
            || self
                .targets
                .load()
                .would_enable(callsite.target(), callsite.level())
    }

    fn highest(&self) -> LevelFilter {
        let targets = self.targets.load();
        let highest = targets.iter().map(|(_, level)| level).max();
        highest
            .max(targets.default_level())
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

    fn logs(level: &str, target: &str, at: tracing::Level) -> bool {
        targets(level).unwrap().would_enable(target, &at)
    }

    #[test]
    fn one_level_is_ours_and_keeps_libraries_quiet() {
        use tracing::Level;
        assert!(logs("debug", "sallyport_link::tunnel", Level::DEBUG));
        assert!(!logs("debug", "hyper::proto", Level::DEBUG));
        assert!(logs("debug", "hyper::proto", Level::WARN));
        assert!(!logs("error", "hyper::proto", Level::WARN));
        assert!(!logs("info", "sallyport_link", Level::DEBUG));
    }

    #[test]
    fn a_list_names_targets() {
        use tracing::Level;
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
