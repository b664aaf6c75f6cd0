//! What is kept of a placement, so that it can be explained and repeated.

use std::fmt;
use std::sync::Arc;

use sallyport_scripts::{Moment, Server};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::chain::{OnScriptFailure, Rule};
use crate::filter::Reason;
use crate::request::Request;

/// A placement with all that led to it. As JSON it needs nothing else to be repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// Names it.
    pub id: String,
    /// When it was asked for, in milliseconds since 1970.
    pub time: u64,
    /// The node that decided.
    pub node: String,
    /// Whether it was only to be seen what would be chosen.
    pub dry_run: bool,
    /// What was asked for.
    pub request: Request,
    /// The epoch of the configuration with the chain.
    pub epoch: u64,
    /// What held where a script fails.
    pub on_script_failure: OnScriptFailure,
    /// The scripts, with their texts.
    pub chain: Vec<Arc<Rule>>,
    /// The first decision, and one more after each start that failed.
    pub attempts: Vec<Attempt>,
}

/// One decision of a placement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// What scripts saw of time and chance.
    pub moment: Moment,
    /// The servers that scripts had to choose from.
    #[serde(with = "objects")]
    pub servers: Vec<Arc<Server>>,
    /// The servers that they did not see.
    pub dropped: Vec<Dropped>,
    /// Whether the servers were the last state that was heard of, the bus being away.
    pub stale: bool,
    /// Earlier decisions that were thrown away, because other placements came between.
    pub repeated: u32,
    /// What each script did. One that is not here was not reached.
    pub steps: Vec<Step>,
    /// The server, or why there is none.
    pub verdict: Verdict,
    /// Microseconds from the list of servers to the verdict.
    pub took_us: u64,
    /// Why the server was given up afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// A server that scripts did not see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    /// The server.
    pub server: String,
    /// Why.
    #[serde(flatten)]
    pub reason: Reason,
}

/// What one script did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Its name.
    pub script: String,
    /// Its version.
    pub version: String,
    /// What it returned.
    pub outcome: Outcome,
    /// What it wrote with `console`, a line each.
    pub log: Vec<String>,
    /// Microseconds that it ran.
    pub took_us: u64,
}

/// What a script returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// A `serverId`.
    Server(String),
    /// A new list, by `serverId`.
    Servers(Vec<String>),
    /// Something falsy: the next one gets what it got.
    Pass,
    /// It threw; the text is for the user.
    Threw(String),
    /// It was stopped or failed, and how.
    Failed(String),
}

/// What came of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// A server.
    #[serde(rename_all = "camelCase")]
    Server {
        /// Its `serverId`.
        server: String,
        /// The script that named it.
        by: String,
        /// That script stands for one that failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instead_of: Option<String>,
    },
    /// None.
    Error {
        /// What the user is told.
        user: String,
        /// What the log says.
        log: String,
    },
}

impl Trace {
    /// The server that the last decision chose; none if it chose none.
    #[must_use]
    pub fn server(&self) -> Option<&str> {
        match &self.attempts.last()?.verdict {
            Verdict::Server { server, .. } => Some(server),
            Verdict::Error { .. } => None,
        }
    }

    /// Bytes that it holds besides what it shares with others.
    pub(crate) fn own_bytes(&self) -> usize {
        let request = serde_json::to_string(&self.request).map_or(0, |text| text.len());
        let attempts = self.attempts.iter().map(Attempt::own_bytes);
        attempts.fold(request, usize::saturating_add)
    }
}

/// Bytes of a value of ours beside its texts.
const AROUND: usize = 64;

impl Attempt {
    fn own_bytes(&self) -> usize {
        let dropped = self.dropped.iter();
        let dropped = dropped.map(|dropped| dropped.server.len().saturating_add(2 * AROUND));
        let steps = self.steps.iter().map(Step::own_bytes);
        let lists = size_of::<Arc<Server>>().saturating_mul(self.servers.len());
        dropped.chain(steps).fold(lists, usize::saturating_add)
    }
}

impl Step {
    /// Whether the next script has its turn.
    pub(crate) const fn goes_on(&self) -> bool {
        matches!(self.outcome, Outcome::Servers(_) | Outcome::Pass)
    }

    fn own_bytes(&self) -> usize {
        let outcome = match &self.outcome {
            Outcome::Servers(ids) => texts(ids),
            Outcome::Server(text) | Outcome::Threw(text) | Outcome::Failed(text) => text.len(),
            Outcome::Pass => 0,
        };
        let around = self.script.len().saturating_add(4 * AROUND);
        outcome
            .saturating_add(texts(&self.log))
            .saturating_add(around)
    }
}

fn texts(texts: &[String]) -> usize {
    let each = texts.iter().map(|text| text.len().saturating_add(AROUND));
    each.fold(0, usize::saturating_add)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(id) => write!(f, "chose {}", id.escape_debug()),
            Self::Servers(ids) => write!(f, "left {}", ids.len()),
            Self::Pass => f.write_str("passed"),
            Self::Threw(text) => write!(f, "threw: {}", text.escape_debug()),
            Self::Failed(text) => write!(f, "failed: it {}", text.escape_debug()),
        }
    }
}

/// Servers as the objects that scripts see.
mod objects {
    use super::{Arc, Deserialize, Deserializer, Serializer, Server, Value};

    pub(super) fn serialize<S: Serializer>(
        servers: &[Arc<Server>],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        // it was made from a value
        let object = |server: &Arc<Server>| serde_json::from_str::<Value>(server.json());
        serializer.collect_seq(servers.iter().filter_map(|server| object(server).ok()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Arc<Server>>, D::Error> {
        let objects: Vec<Value> = Vec::deserialize(deserializer)?;
        let server = |object: &Value| {
            let id = object.get("serverId").and_then(Value::as_str);
            Arc::new(Server::new(id.unwrap_or_default(), object))
        };
        Ok(objects.iter().map(server).collect())
    }
}
