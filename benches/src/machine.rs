//! The shape of the machine, without which figures mean nothing.

use std::fs;

use serde::Serialize;

/// What this machine is, and how busy it was before.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Name of its processor.
    pub processor: String,
    /// How many the benchmark may use.
    pub processors: usize,
    /// Memory in MiB.
    pub memory: u64,
    /// Kernel.
    pub kernel: String,
    /// Processes that wanted a processor in the last minute, when the benchmark began.
    pub load: String,
}

impl Machine {
    /// Looks at this one.
    #[must_use]
    pub fn look() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let memory = value(&text("/proc/meminfo"), "MemTotal")
            .split_whitespace()
            .next()
            .and_then(|kib| kib.parse::<u64>().ok());
        Self {
            processor: value(&text("/proc/cpuinfo"), "model name"),
            processors: std::thread::available_parallelism().map_or(0, Into::into),
            memory: memory.unwrap_or_default() / 1024,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: first_word(&text("/proc/loadavg")),
        }
    }
}

/// Value of the first `key : value` line.
fn value(text: &str, key: &str) -> String {
    let line = text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == key).then(|| value.trim().to_owned())
    });
    line.unwrap_or_else(|| "unknown".to_owned())
}

fn first_word(text: &str) -> String {
    text.split_whitespace()
        .next()
        .unwrap_or("unknown")
        .to_owned()
}
