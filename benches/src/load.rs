//! What clients do to a way.

pub mod bulk;
pub mod iperf;
pub mod pings;
pub mod opens;
pub mod idle;
pub mod http;
pub mod requests;
pub mod traced;
mod pace;

pub use pace::Times;
