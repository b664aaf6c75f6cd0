//! What is called, what it is given and what may come of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// A JavaScript function under the name that its administrator gave it.
///
/// The source is one function: an expression or a declaration, an arrow function, or a text whose last value is a
/// function, so that helpers may stand in front of it. It may be `async` as long as its promise is settled by itself.
/// It runs in sloppy mode, like the scripts that administrators bring along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Names it in errors and traces.
    pub name: String,
    /// Its text.
    pub source: Arc<str>,
}

impl Script {
    /// The function `source`, called `name`.
    pub fn new(name: impl Into<String>, source: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            source: source.into(),
        }
    }
}

/// What a call sees of time and chance: `Date` stands still at `now`, in the node's time zone, and `Math.random`
/// follows from `seed`. The same moment and input give the same answer, so whoever wants to replay a call keeps both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Moment {
    /// Milliseconds since 1970.
    pub now: u64,
    /// Any number.
    pub seed: u64,
}

impl Moment {
    /// This instant, with a seed that nobody can guess.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            now: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            seed: unguessable(),
        }
    }
}

fn unguessable() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    // its keys come from the system's randomness
    RandomState::new().hash_one(())
}

/// One server object of the list that a chain chooses from, as JSON.
///
/// Share it: a worker is only sent the servers whose `Arc` it has not seen, so a list that is built anew from the same
/// `Arc`s, filtered or in another order, costs next to nothing, and one changed server costs one server.
#[derive(Debug, PartialEq, Eq)]
pub struct Server {
    id: String,
    json: String,
}

impl Server {
    /// The server object `object`, known as `id`, which is its `serverId`.
    #[must_use]
    pub fn new(id: impl Into<String>, object: &Value) -> Self {
        Self {
            id: id.into(),
            json: object.to_string(),
        }
    }

    /// Its `serverId`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The object as JSON.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }
}

/// What one call returned.
#[derive(Debug, Clone, PartialEq)]
pub struct Called {
    /// The returned value; `undefined` is `null`.
    pub value: Value,
    /// Whether JavaScript counts the value as true.
    pub truthy: bool,
    /// What it wrote with `console`, a line each.
    pub log: Vec<String>,
}

/// What one function of a chain decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// This `serverId`, which may be anything: it is for the caller to look up.
    Server(String),
    /// A new list, by `serverId`; the next function gets the objects themselves, changes included.
    Servers(Vec<String>),
    /// Something falsy: the next function gets the same input.
    Pass,
}

/// One function of a chain and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What it decided, or why it could not. A fault ends the chain.
    pub outcome: Result<Choice, ScriptError>,
    /// What it wrote with `console`, a line each.
    pub log: Vec<String>,
    /// How long it ran.
    pub took: Duration,
}

/// Why administrators' code gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` {fault}")]
pub struct ScriptError {
    /// The script, executable or metric.
    pub name: String,
    /// What happened.
    pub fault: Fault,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It threw, or its promise was rejected; the message is for the user.
    #[error("threw: {0}")]
    Threw(String),
    /// The text is not a function; the engine's words, with the line.
    #[error("is not a function that can be called: {0}")]
    NotAFunction(String),
    /// It returned something that cannot be used, such as a function, a cycle or a promise that nothing settles.
    #[error("returned {0}")]
    Unusable(String),
    /// It ran past its time and was interrupted.
    #[error("timed out: it ran for more than {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// It wanted more memory than it may have.
    #[error("ran out of memory: it may have {} MiB", .0 >> 20)]
    OutOfMemory(u64),
    /// What it returned or was given is over the limit, in bytes.
    #[error("exceeds a limit: {what} may have {limit} bytes")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// Most bytes.
        limit: u64,
    },
    /// It could not be interrupted, so its process was killed.
    #[error("did not stop when it was interrupted and was killed after {} ms", .0.as_millis())]
    Killed(Duration),
    /// Its process ended by itself: a crash, a limit of the system, or a forbidden system call.
    #[error("brought its process down: {0}")]
    Died(String),
    /// An executable ended with a status that is not 0; status and the last line that it complained with.
    #[error("failed: {0}")]
    Failed(String),
    /// It had to be stopped several times of late and is not run for a while.
    #[error("had to be stopped {stops} times within {} s and is not run again before {} s have passed", .within.as_secs(), .left.as_secs())]
    Suspended {
        /// How often it was stopped.
        stops: usize,
        /// In this time.
        within: Duration,
        /// Until it is run again.
        left: Duration,
    },
    /// As many calls wait as may wait.
    #[error("was not run: {0} calls wait already; try again")]
    Busy(usize),
    /// It waited as long as a call may.
    #[error("was not run: its turn did not come within {} ms; try again", .0.as_millis())]
    Waited(Duration),
    /// It stands in a chain that is too long.
    #[error("was not run: a chain has at most {0} functions")]
    ChainTooLong(usize),
    /// There is no worker process to run it in.
    #[error("was not run, there is no worker process: {0}")]
    Unavailable(String),
}

impl Fault {
    /// This fault of `name`.
    #[must_use]
    pub fn of(self, name: &str) -> ScriptError {
        ScriptError {
            name: name.to_owned(),
            fault: self,
        }
    }

    /// Whether it had to be stopped, which costs a worker process however that went.
    #[must_use]
    pub const fn was_stopped(&self) -> bool {
        matches!(
            self,
            Self::TimedOut(_) | Self::OutOfMemory(_) | Self::Killed(_) | Self::Died(_)
        )
    }
}
