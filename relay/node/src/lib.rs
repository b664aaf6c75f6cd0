//! What a node knows about itself: facts of its machine, static data and settings that are local to it, and the server
//! object that is made of them.
//!
//! Nothing here knows of tunnels, a store or a bus. Modules use only modules that stand below them.
#![forbid(unsafe_code)]

pub mod members;
pub mod server;
pub mod machine;
pub mod static_data;
pub mod settings;
pub mod start_hours;

pub use machine::{Gpu, Machine};
pub use server::{GatewayLink, Server};
pub use settings::{Drain, Settings, SettingsFile};
pub use start_hours::StartHours;
pub use static_data::StaticData;
