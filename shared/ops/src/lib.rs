//! How any Sallyport process runs: its tasks and signals, its listeners and their limits, its configuration and
//! secrets, what it logs and measures, and the socket through which its administrator talks to it.
//!
//! Nothing here knows what a tunnel or a session is. Modules use only modules that stand below them.

pub mod logs;
pub mod debug;
pub mod admin;
pub mod ready;
pub mod table;
pub mod listen;
pub mod congestion;
pub mod slots;
pub mod penalty;
pub mod workers;
pub mod program;
pub mod tasks;
pub mod signals;
pub mod privileges;
pub mod config;
pub mod watch;
pub mod written;
pub mod files;
pub mod places;
pub mod telemetry;
pub mod duration;
pub mod moment;
pub mod paced;
pub mod metrics;
pub mod source;
pub mod escape;
pub mod exit;

pub use admin::{Admin, AdminError, AdminRequest};
pub use config::ConfigError;
pub use congestion::Congestion;
pub use exit::Exit;
pub use listen::Accepted;
pub use metrics::Metrics;
pub use penalty::Penalties;
pub use program::{Bounds, Guard, Program, ProgramError, Programs};
pub use ready::Ready;
pub use signals::{Signal, Signals};
pub use slots::{Full, Slot, Slots};
pub use table::Table;
pub use tasks::Tasks;
pub use telemetry::{Category, Log, LogFormat, LogLevel, Logging, Telemetry};
pub use watch::Watch;
pub use workers::Workers;
