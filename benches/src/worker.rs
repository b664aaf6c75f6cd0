//! The process that measures one row, and leaves what it found in a file.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::cli::Cli;
use crate::lab::{Effort, Lab};
use crate::rows::{Entry, Row};

/// Tells this process its folder. It measures the row that the folder is named for.
pub const FOLDER: &str = "SALLYPORT_BENCH_FOLDER";

/// Name of the file in that folder.
const FOUND: &str = "found.json";

/// Measures the row that `folder` is named for.
///
/// # Panics
/// If there is no such row, or what it found cannot be written.
#[must_use]
pub fn measure(cli: &Cli, folder: &Path) -> ExitCode {
    take_all_descriptors();
    let id = folder.file_name().unwrap_or_default().to_string_lossy();
    let row = Row::of(&id).expect("the folder is named for a row");
    let entry = row.measure(&Lab::new(Effort::of(cli), folder));
    let found = serde_json::to_vec(&entry).expect("an entry is JSON");
    fs::write(folder.join(FOUND), found).expect("the folder is writable");
    ExitCode::SUCCESS
}

/// What a process that has ended left in `folder`, if it came that far.
#[must_use]
pub fn found(folder: &Path) -> Option<Entry> {
    serde_json::from_slice(&fs::read(folder.join(FOUND)).ok()?).ok()
}

/// Thousands of clients are in this process.
fn take_all_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit anyone may go");
}
