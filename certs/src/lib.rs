//! Certificates: PEM, self-signed ones, pins, hot reload, and rustls configurations.
//!
//! It reads no files but the system's own list of authorities: callers hand it PEM, having checked
//! who may read the file. Every configuration names its cryptography itself, so that no
//! process-wide default can change it, and each listener gets a configuration of its own, so that
//! a session resumed on one can never be replayed on another.

mod client;
mod server;
mod reloading;
mod identity;
mod trust;
mod authority;
mod self_signed;
mod pinned;
mod pin;
mod pem;
mod provider;
mod error;

pub use authority::{Authority, Issued};
pub use client::{client_config, known_client_config, tunnel_client_config};
pub use error::CertError;
pub use identity::Identity;
pub use pin::{NotAPin, Pin};
pub use pinned::PinMismatch;
pub use reloading::Reloading;
pub use self_signed::{SelfSigned, TEN_YEARS, self_signed};
pub use server::{front_server_config, mutual_server_config, tunnel_server_config};
pub use trust::Trust;
