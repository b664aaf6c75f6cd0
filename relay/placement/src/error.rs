//! Why there is no server for somebody.

use std::time::Duration;

use crate::filter::Reason;
use crate::request::Action;

/// Why there is no server. As a text it is what the log says; [`for_user`](Self::for_user) is what the user is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// A script has a message for the user.
    #[error("`{script}` threw: {message}")]
    Threw {
        /// The script.
        script: String,
        /// The message.
        message: String,
    },
    /// A script was stopped or failed: its author's or the system's fault.
    #[error("`{script}` {fault}")]
    Script {
        /// The script.
        script: String,
        /// What happened.
        fault: String,
    },
    /// A script chose a server that is not there.
    #[error("`{script}` chose the server `{server}`, which is not there")]
    Unknown {
        /// The script.
        script: String,
        /// As it named it.
        server: String,
    },
    /// A script chose a server that may not be chosen.
    #[error("`{script}` chose the server `{server}`: {reason}")]
    Disabled {
        /// The script.
        script: String,
        /// The server.
        server: String,
        /// Why it may not be chosen.
        reason: Reason,
    },
    /// All scripts have run, and none chose.
    #[error("none of the scripts of the chain `{}` chose a server: let the last one always choose", .0.chain())]
    Exhausted(Action),
    /// There was nothing to choose from.
    #[error("none of {known} servers can be used for {action} now{}", said(.reasons))]
    NoServer {
        /// What was asked for.
        action: Action,
        /// How many servers are known.
        known: usize,
        /// Why they cannot be used, each once.
        reasons: Vec<String>,
    },
    /// Every server that was tried failed.
    #[error("it failed on {}", tries(.tried))]
    Failed {
        /// The servers, and what each said.
        tried: Vec<(String, String)>,
    },
    /// Too many placements wait.
    #[error("{0} placements wait already")]
    Busy(usize),
    /// The turn did not come in time.
    #[error("its turn did not come within {} s", .0.as_secs())]
    Waited(Duration),
    /// This relay does not know the others.
    #[error(
        "this relay does not hear the other nodes: set `observe = true` in [cluster] of its relay.toml"
    )]
    NotObserving,
    /// The request is larger than any may be.
    #[error("the request has {bytes} bytes and may have {most}")]
    TooLarge {
        /// What it has.
        bytes: usize,
        /// What it may have.
        most: usize,
    },
}

impl PlacementError {
    /// What the user is told.
    #[must_use]
    pub fn for_user(&self) -> String {
        match self {
            Self::Threw { message, .. } => message.clone(),
            Self::Busy(_) | Self::Waited(_) => {
                "Too many people are asking for a server just now. Try again in a moment."
                    .to_owned()
            }
            Self::NoServer { .. } => format!("No server is available: {self}"),
            Self::Failed { tried } => {
                let last = tried.last().map(|(_, reason)| reason.as_str());
                format!("It could not be started: {}", last.unwrap_or_default())
            }
            Self::Script { .. }
            | Self::Unknown { .. }
            | Self::Disabled { .. }
            | Self::Exhausted(_)
            | Self::NotObserving
            | Self::TooLarge { .. } => format!("No server could be chosen: {self}"),
        }
    }
}

fn said(reasons: &[String]) -> String {
    if reasons.is_empty() {
        return String::new();
    }
    format!(": {}", reasons.join("; "))
}

fn tries(tried: &[(String, String)]) -> String {
    let each = tried
        .iter()
        .map(|(server, reason)| format!("{server} ({reason})"));
    each.collect::<Vec<_>>().join(", ")
}
