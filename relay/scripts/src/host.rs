//! What the functions of metrics, and no others, may ask the relay for.

use serde_json::json;

use crate::commands::Commands;
use crate::processes::Processes;
use crate::protocol::{Answer, Wish};

/// Most questions of one call.
pub const MOST_QUESTIONS: usize = 32;

/// Answers `run([program, argument, …])` from an allow-list and `processes()` from this machine.
///
/// In JavaScript, `run` returns `{status, stdout, stderr}` and throws when the command is not allowed, cannot be
/// started or exceeds a limit. `processes` returns a list of
/// `{pid, ppid, uid, name, command, state, cpuSeconds, rss, threads}`, `rss` in bytes.
#[derive(Debug)]
pub struct Host {
    commands: Commands,
    processes: Processes,
}

impl Host {
    /// A host that runs `commands`.
    #[must_use]
    pub fn new(commands: Commands) -> Self {
        Self {
            commands,
            processes: Processes::default(),
        }
    }

    /// Answers the call's question number `asked`.
    pub(crate) async fn answer(&self, wish: Wish, asked: usize) -> Answer {
        let answer = if asked > MOST_QUESTIONS {
            Err(format!("a call may ask {MOST_QUESTIONS} times"))
        } else {
            match wish {
                Wish::Run(argv) => self.run(&argv.words).await,
                Wish::Processes(_) => self.processes.json().await,
            }
        };
        let failed = answer.is_err();
        let text = answer.unwrap_or_else(|message| message);
        Answer { text, failed }
    }

    async fn run(&self, argv: &[String]) -> Result<String, String> {
        let done = self.commands.run(argv).await;
        let done = done.map_err(|error| error.to_string())?;
        Ok(json!({
            "status": done.status.code(),
            "stdout": String::from_utf8_lossy(&done.stdout),
            "stderr": String::from_utf8_lossy(&done.stderr),
        })
        .to_string())
    }
}
