//! The folder with the metrics of this node: `NAME.js` is a function, any other file that may be run a program.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sallyport_ops::files::{FileError, check_unchangeable};
use sallyport_ops::{Bounds, Watch};
use sallyport_scripts::metrics::{MOST_METRICS, Metric};
use sallyport_scripts::{Executable, Script};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::Defined;
use crate::config::MetricsConfig;

/// How often the folder is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Most files of the folder that are looked at.
const MOST_FILES: usize = 256;

/// Most bytes of a function's text.
const MOST_TEXT: u64 = 64 << 10;

/// Most bytes that a program may write: its value as JSON, which may be laid out for people.
const MOST_OUTPUT: u64 = 64 << 10;

/// Most bytes of a name.
const MOST_NAME: usize = 64;

/// Follows the folder for ever.
pub(super) async fn follow(config: MetricsConfig, define: watch::Sender<Arc<Defined>>) {
    let folder = config.folder.clone();
    let watching = spawn_blocking(move || Watch::new(vec![folder], LOOK_EVERY));
    let Ok(mut watch) = watching.await else {
        return; // only where the runtime ends
    };
    loop {
        let here = config.clone();
        let Ok(found) = spawn_blocking(move || look(&here)).await else {
            return;
        };
        let news = define.send_if_modified(|now| {
            let news = **now != found;
            if news {
                *now = Arc::new(found);
            }
            news
        });
        if news {
            tell(&define.borrow());
        }
        watch.changed().await;
    }
}

fn tell(defined: &Defined) {
    info!(
        metrics = defined.metrics.len(),
        "the folder of metrics was read"
    );
    for (name, fault) in &defined.faults {
        warn!(%name, %fault, "this is no metric");
    }
}

/// What the folder defines; nothing, where it is not there. It waits for the disk.
#[must_use]
pub fn look(config: &MetricsConfig) -> Defined {
    let mut defined = Defined::default();
    let files = match files(&config.folder) {
        Ok(files) => files,
        Err(fault) => {
            let name = config.folder.display().to_string();
            defined.faults.push((name, fault));
            return defined;
        }
    };
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for path in files {
        let file = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        match metric(&path, config) {
            Ok(metric) => {
                if let Some(other) = names.get(metric.name()) {
                    let fault = format!("{other} has this name already: rename one of them");
                    defined.faults.push((file, fault));
                } else if defined.metrics.len() >= MOST_METRICS {
                    let fault = format!("a node has at most {MOST_METRICS} metrics");
                    defined.faults.push((file, fault));
                } else {
                    names.insert(metric.name().to_owned(), file);
                    defined.metrics.push(metric);
                }
            }
            Err(fault) => defined.faults.push((file, fault)),
        }
    }
    defined
}

/// The files that are there, in the order of their names. Hidden ones and an editor's copies are not meant.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    match check_unchangeable(folder) {
        Err(FileError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        checked => checked.map_err(|fault| fault.to_string())?,
    };
    let entries = fs::read_dir(folder).map_err(|cause| cause.to_string())?;
    let meant = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        !name.starts_with(b".") && !name.ends_with(b"~")
    };
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(meant)
        .take(MOST_FILES)
        .collect();
    files.sort();
    Ok(files)
}

fn metric(path: &Path, config: &MetricsConfig) -> Result<Metric, String> {
    let found = unchangeable(path)?;
    if !found.is_file() {
        return Err("not a file".to_owned());
    }
    let name = name(path)?;
    if path.extension().is_some_and(|extension| extension == "js") {
        let text = text(path).map_err(|cause| cause.to_string())?;
        return Ok(Metric::Function(Script::new(name, text)));
    }
    executable(name, path, config)
}

/// What is there, if nobody but its owner and root can change it.
pub(super) fn unchangeable(path: &Path) -> Result<fs::Metadata, String> {
    check_unchangeable(path).map_err(|fault| fault.to_string())
}

/// A program that may be run.
pub(super) fn executable(
    name: String,
    path: &Path,
    config: &MetricsConfig,
) -> Result<Metric, String> {
    let found = unchangeable(path)?;
    if !found.is_file() {
        return Err("not a file".to_owned());
    }
    if found.permissions().mode() & 0o111 == 0 {
        return Err(
            "neither a function (NAME.js) nor a program that may be run: `chmod +x` makes it one"
                .to_owned(),
        );
    }
    Ok(Metric::Executable(Executable {
        name,
        program: path.to_owned(),
        arguments: Vec::new(),
        bounds: Bounds {
            time: config.program,
            output: MOST_OUTPUT,
        },
    }))
}

fn name(path: &Path) -> Result<String, String> {
    let name = path.file_stem().and_then(|stem| stem.to_str());
    let may_stand = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let fits = |name: &&str| (1..=MOST_NAME).contains(&name.len()) && name.chars().all(may_stand);
    let wrong = || format!("a metric's name has 1 to {MOST_NAME} letters, digits, _ and -");
    name.filter(fits).map(str::to_owned).ok_or_else(wrong)
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = fs::File::open(path)?
        .take(MOST_TEXT + 1)
        .read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read <= MOST_TEXT) {
        return Ok(text);
    }
    Err(io::Error::other(format!(
        "a function has at most {MOST_TEXT} bytes"
    )))
}

#[cfg(test)]
mod tests;
