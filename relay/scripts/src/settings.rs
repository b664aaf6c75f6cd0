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
    /// It is interrupted after so much of a processor's time, and half-way between this and `kill` if it was given less;
    /// default 50 ms. Waiting for `run` does not count.
    pub interrupt: Duration,
    /// One that cannot be interrupted is killed with its process after this long; default 200 ms, so that it is gone after
    /// 250 ms, whatever it did.
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
    /// By how much the other work of the machine goes before this, as the kernel counts it; default 0, because somebody
    /// waits for a choice, on a node that may be busy.
    pub niceness: i32,
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
            kill: Duration::from_millis(200),
            memory: 48 << 20,
            stack: 256 << 10,
            output: 1 << 20,
            calls: 1_000,
            niceness: 0,
        }
    }
}

impl Limits {
    pub(crate) fn setup(&self) -> Setup {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        // half-way to the kill, which says less about what happened
        let latest = self.interrupt.saturating_add(self.kill) / 2;
        Setup {
            memory: self.memory,
            stack: self.stack,
            interrupt: milliseconds(self.interrupt),
            latest: milliseconds(latest),
            output: self.output,
            niceness: self.niceness,
        }
    }
}
