//! The threads that a process does its work on.

use std::io;
use std::thread::available_parallelism;

use serde::Deserialize;
use tokio::runtime::{Builder, Runtime};

/// Most worker threads of a process.
const MOST: usize = 256;

/// Turns of tasks after which a worker looks which sockets are ready, even if it still has other work: a turn of bulk
/// moves up to 256 KiB, and a keystroke waits for all that come before.
const LOOK_EVERY: u32 = 4;

/// Worker threads: 1 to 256. Those that wait for files are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "usize")]
pub struct Workers(usize);

/// There cannot be so many workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("workers are 1 to {MOST}")]
pub struct WorkersError;

impl Workers {
    /// For who shares a machine with others: what a tunnel and its streams tell each other needs no thread to be woken.
    pub const ONE: Self = Self(1);

    /// Half of the processors that this process may use: to move a byte costs the kernel twice as much as us, and part
    /// of that it spends on processors of its own choice.
    #[must_use]
    pub fn half() -> Self {
        Self(available_parallelism().map_or(1, |all| (all.get() / 2).clamp(1, MOST)))
    }

    /// Starts them.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn runtime(self) -> io::Result<Runtime> {
        Builder::new_multi_thread()
            .worker_threads(self.0)
            .event_interval(LOOK_EVERY)
            .enable_all()
            .build()
    }
}

impl TryFrom<usize> for Workers {
    type Error = WorkersError;

    fn try_from(count: usize) -> Result<Self, WorkersError> {
        match count {
            1..=MOST => Ok(Self(count)),
            _ => Err(WorkersError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_as_many_as_were_asked_for() {
        for count in [1, 3] {
            let runtime = Workers::try_from(count).unwrap().runtime().unwrap();
            assert_eq!(runtime.metrics().num_workers(), count);
        }
    }

    #[test]
    fn there_is_at_least_one_and_a_bound() {
        assert_eq!(Workers::try_from(0), Err(WorkersError));
        assert_eq!(Workers::try_from(MOST + 1), Err(WorkersError));
        assert!((1..=MOST).contains(&Workers::half().0));
    }
}
