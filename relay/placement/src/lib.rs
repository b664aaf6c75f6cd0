//! Which node a login or a session goes to, and why; who has a server for himself; and who waits for one.
//!
//! Modules use only modules that stand below them: `placement` is what the relay calls, `engine` runs the scripts of a
//! chain, `verdict` says what comes of them, and `trace` is what is kept of it.
#![forbid(unsafe_code)]

pub mod placement;
pub mod replay;
pub mod traces;
pub mod pending;
pub mod verdict;
pub mod error;
pub mod engine;
pub mod trace;
pub mod filter;
pub mod chain;
pub mod request;
pub mod predefined;
pub mod queue;
pub mod reservations;
mod values;

pub use error::PlacementError;
pub use placement::{Placed, Placement, Settings};
pub use request::{Action, Request};
