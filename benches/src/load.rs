//! What clients do to a way.

pub mod bulk;
pub mod pings;
pub mod opens;
