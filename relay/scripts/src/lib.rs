//! Administrators' code: JavaScript functions in killable worker processes, executables that speak JSON, and the
//! metrics made of both.
//!
//! A script is untrusted work, not an untrusted author: it may loop for ever, fill memory or run into a hole of the
//! engine, so it runs in a process of its own that can reach nothing and is killed when it does not stop. Modules use
//! only modules below them: `metrics` and `scripts` are what the relay calls, `process` is one worker as the relay
//! sees it, `worker` to `sandbox` are that process from inside.
#![forbid(unsafe_code)]

pub mod metrics;
pub mod scripts;
mod suspended;
mod process;
mod kept;
pub mod host;
pub mod commands;
pub mod processes;
pub mod executable;
pub mod folders;
pub mod worker;
mod engine;
mod sandbox;
pub mod settings;
mod protocol;
pub mod script;

pub use commands::Commands;
pub use executable::Executable;
pub use folders::{FolderError, Folders};
pub use host::Host;
pub use metrics::{Metric, Metrics, Reading};
pub use script::{Called, Choice, Fault, Moment, Script, ScriptError, Server, Step};
pub use scripts::Scripts;
pub use settings::{Limits, Settings};
