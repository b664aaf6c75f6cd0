//! What comes of the steps of a chain: a server that may be chosen, or an error that says why there is none.

use std::sync::Arc;

use sallyport_scripts::Server;
use serde_json::Value;

use crate::chain::OnScriptFailure;
use crate::engine::narrowed;
use crate::error::PlacementError;
use crate::request::Action;
use crate::trace::{Dropped, Outcome, Step, Verdict};

/// The rule that chooses where a script has failed: what the usual chains end with.
const BUILTIN: &str = "fewest-sessions";

/// Most reasons that an error tells.
const MOST_REASONS: usize = 5;

/// What a decision was about.
#[derive(Debug, Clone, Copy)]
pub struct Decided<'d> {
    /// What was asked for.
    pub action: Action,
    /// The servers that scripts had to choose from.
    pub servers: &'d [Arc<Server>],
    /// Those that they did not see.
    pub dropped: &'d [Dropped],
    /// What each script did.
    pub steps: &'d [Step],
    /// What holds where one failed.
    pub on_script_failure: OnScriptFailure,
    /// Decides among equals.
    pub seed: u64,
}

/// A server that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its `serverId`.
    pub server: String,
    /// The script that named it.
    pub by: String,
    /// The script that failed and that this one stands for.
    pub instead_of: Option<String>,
}

impl Decided<'_> {
    /// The server, or why there is none.
    ///
    /// # Errors
    /// [`PlacementError`].
    pub fn verdict(&self) -> Result<Chosen, PlacementError> {
        let Some(last) = self.steps.last() else {
            return Err(self.exhausted());
        };
        let script = last.script.clone();
        match &last.outcome {
            Outcome::Server(server) => self.named(script, server.clone()),
            Outcome::Threw(message) => {
                let message = message.clone();
                Err(PlacementError::Threw { script, message })
            }
            Outcome::Failed(_) if self.on_script_failure == OnScriptFailure::Builtin => {
                let server = self.fewest_sessions().ok_or_else(|| self.exhausted())?;
                Ok(Chosen {
                    server,
                    by: BUILTIN.to_owned(),
                    instead_of: Some(script),
                })
            }
            Outcome::Failed(fault) => {
                let fault = fault.clone();
                Err(PlacementError::Script { script, fault })
            }
            Outcome::Servers(_) | Outcome::Pass => Err(self.exhausted()),
        }
    }

    fn named(&self, script: String, server: String) -> Result<Chosen, PlacementError> {
        if self.servers.iter().any(|known| known.id() == server) {
            return Ok(Chosen {
                server,
                by: script,
                instead_of: None,
            });
        }
        let dropped = self.dropped.iter().find(|dropped| dropped.server == server);
        Err(match dropped {
            Some(dropped) => PlacementError::Disabled {
                script,
                server,
                reason: dropped.reason.clone(),
            },
            None => PlacementError::Unknown { script, server },
        })
    }

    fn exhausted(&self) -> PlacementError {
        if !self.servers.is_empty() {
            return PlacementError::Exhausted(self.action);
        }
        let reason = |dropped: &Dropped| dropped.reason.to_string();
        let mut reasons: Vec<_> = self.dropped.iter().map(reason).collect();
        reasons.sort_unstable();
        reasons.dedup();
        reasons.truncate(MOST_REASONS);
        PlacementError::NoServer {
            action: self.action,
            known: self.dropped.len(),
            reasons,
        }
    }

    /// Of the servers that the scripts before have left, as the function of that name does; this one needs no worker.
    fn fewest_sessions(&self) -> Option<String> {
        let sessions = |server: &Server| {
            // it was made from a value
            let object: Value = serde_json::from_str(server.json()).unwrap_or_default();
            let count = |key: &str| object.get(key).and_then(Value::as_u64).unwrap_or(0);
            count("sessions").saturating_add(count("pending"))
        };
        let lot = |server: &Server| lot(self.seed, server.id());
        let left = narrowed(self.servers.to_vec(), self.steps);
        let fewest = left
            .iter()
            .min_by_key(|server| (sessions(server), lot(server)));
        fewest.map(|server| server.id().to_owned())
    }
}

/// A number that follows from both, the same in every release: FNV-1a.
fn lot(seed: u64, id: &str) -> u64 {
    let bytes = seed.to_be_bytes();
    let bytes = bytes.iter().chain(id.as_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl From<&Result<Chosen, PlacementError>> for Verdict {
    fn from(came: &Result<Chosen, PlacementError>) -> Self {
        match came {
            Ok(chosen) => Self::Server {
                server: chosen.server.clone(),
                by: chosen.by.clone(),
                instead_of: chosen.instead_of.clone(),
            },
            Err(error) => Self::Error {
                user: error.for_user(),
                log: error.to_string(),
            },
        }
    }
}
