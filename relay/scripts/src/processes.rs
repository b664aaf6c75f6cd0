//! The process table of this machine, for metrics that count processes.

use std::sync::Arc;
use std::time::Duration;

use procfs::process::{Process, all_processes};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// One reading serves all metrics of an update.
const FRESH: Duration = Duration::from_secs(1);

/// Most processes that are listed.
const MOST: usize = 20_000;

/// Most characters of a command line.
const COMMAND: usize = 200;

/// The kernel holds up who reads about a process whose memory hangs on a dead file server.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads the table at most once a second, and never twice at a time.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    last: Arc<Mutex<Option<(Instant, String)>>>,
}

/// A process, in the words of scripts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    pid: i32,
    ppid: i32,
    uid: u32,
    name: String,
    command: String,
    /// A letter, as `ps` shows it.
    state: char,
    /// User and system time.
    cpu_seconds: u64,
    /// Bytes.
    rss: u64,
    threads: i64,
}

impl Processes {
    /// The table as JSON.
    pub(crate) async fn json(&self) -> Result<String, String> {
        timeout(PATIENCE, self.read())
            .await
            .unwrap_or_else(|_late| Err("the process table cannot be read in time".to_owned()))
    }

    async fn read(&self) -> Result<String, String> {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some((read, json)) = &*last
            && read.elapsed() < FRESH
        {
            return Ok(json.clone());
        }
        let reading = tokio::task::spawn_blocking(move || {
            let json = table()?;
            *last = Some((Instant::now(), json.clone()));
            Ok(json)
        });
        reading.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

fn table() -> Result<String, String> {
    let processes = all_processes().map_err(|error| error.to_string())?;
    // one that ends while it is read is left out
    let entries: Vec<Entry> = processes
        .take(MOST)
        .filter_map(|process| entry(&process.ok()?))
        .collect();
    serde_json::to_string(&entries).map_err(|error| error.to_string())
}

fn entry(process: &Process) -> Option<Entry> {
    let stat = process.stat().ok()?;
    let command = process.cmdline().ok()?.join(" ");
    let ticks = stat.utime.saturating_add(stat.stime);
    Some(Entry {
        pid: stat.pid,
        ppid: stat.ppid,
        uid: process.uid().ok()?,
        name: stat.comm,
        command: command.chars().take(COMMAND).collect(),
        state: stat.state,
        cpu_seconds: ticks.checked_div(procfs::ticks_per_second())?,
        rss: stat.rss.saturating_mul(procfs::page_size()),
        threads: stat.num_threads,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[tokio::test]
    async fn this_process_is_in_the_table() {
        let json = Processes::default().json().await.unwrap();
        let table: Vec<Value> = serde_json::from_str(&json).unwrap();
        let me = table
            .iter()
            .find(|entry| entry["pid"] == std::process::id());
        let me = me.expect("listed");
        assert!(me["rss"].as_u64().unwrap() > 100_000, "{me}");
        assert!(me["threads"].as_i64().unwrap() >= 1, "{me}");
        let command = std::env::args().next().unwrap();
        let shown = me["command"].as_str().unwrap();
        assert!(shown.starts_with(command.get(..20).unwrap()), "{me}");
    }
}
