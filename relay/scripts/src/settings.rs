//! How many workers there are, and what a call may use.

use std::path::PathBuf;
use std::time::Duration;

use crate::protocol::Setup;

/// How a worker is started and what it may use.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A program that calls [`crate::worker::serve`]; default this one.
    pub program: PathBuf,
    /// The arguments with which it does; default `script-worker`.
    pub arguments: Vec<String>,
    /// Calls that run at the same time, 1 or more; default 4. One worker more is kept ready.
    pub workers: usize,
    /// Calls that wait for a turn; default 256. Further ones are refused.
    pub waiting: usize,
    /// How long a call waits for its turn; default 2 s.
    pub wait: Duration,
    /// What a call may use.
    pub limits: Limits,
}

/// What one function may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// It is interrupted after this long; default 50 ms. Waiting for `run` does not count.
    pub interrupt: Duration,
    /// One that cannot be interrupted is killed with its process after this long; default 250 ms.
    pub kill: Duration,
    /// Bytes of a worker's JavaScript heap, the servers that it keeps included; default 48 MiB. A thousand servers of
    /// 1.5 KiB each, kept and copied for a call while old ones are still held, take 22 MiB of it. The kernel holds the
    /// process to 16 MiB more.
    pub memory: u64,
    /// Bytes of the JavaScript stack; default 256 KiB.
    pub stack: u64,
    /// Bytes of a returned value as JSON; default 1 MiB.
    pub output: u64,
    /// Calls after which a worker is replaced; default 1,000.
    pub calls: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // still this program when its file has been replaced
            program: "/proc/self/exe".into(),
            arguments: vec!["script-worker".to_owned()],
            workers: 4,
            waiting: 256,
            wait: Duration::from_secs(2),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            interrupt: Duration::from_millis(50),
            kill: Duration::from_millis(250),
            memory: 48 << 20,
            stack: 256 << 10,
            output: 1 << 20,
            calls: 1_000,
        }
    }
}

impl Limits {
    pub(crate) fn setup(&self) -> Setup {
        Setup {
            memory: self.memory,
            stack: self.stack,
            interrupt: u64::try_from(self.interrupt.as_millis()).unwrap_or(u64::MAX),
            output: self.output,
        }
    }
}
