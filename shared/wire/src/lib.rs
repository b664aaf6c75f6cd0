//! Messages and codes of a Sallyport tunnel.
//!
//! This crate is pure: it owns no socket, no clock and no task. It says what goes over a tunnel
//! (`message`), how a message is framed and how large it may be (`frame`), which names are allowed
//! (`name`), what a key may serve (`scope`) and how a refusal is told (`code`). `PROTOCOL.md` beside
//! it describes the same for someone who writes a relay of their own.
#![forbid(unsafe_code)]
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

pub mod code;
pub mod name;
pub mod scope;
pub mod message;
pub mod frame;

pub use code::{Blame, Code, Refusal};
pub use frame::{FrameError, MAX_CONTROL, MAX_HEAD, MAX_HELLO};
pub use name::{ClusterName, ClusterNode, NameError, NodeName, PoolName, SessionId};
pub use scope::{Glob, PortRange, Scope};

/// ALPN of a tunnel between relay and gateway, on TLS and on QUIC alike.
pub const ALPN: &[u8] = b"sallyport/1";

/// ALPN of a tunnel between two relays of a cluster.
pub const PEER_ALPN: &[u8] = b"sallyport-peer/1";

/// The protocol versions that this build speaks, oldest and newest.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 1..=1;

/// Label of the exported keying material (RFC 8446 §7.5, RFC 9266) that binds a token to its connection.
pub const BINDING_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// Length of the exported keying material, in bytes.
pub const BINDING_LEN: usize = 32;

/// First bytes of a data connection. No ClientHello and no request of HTTP begins so.
pub const DATA_PREAMBLE: &[u8; 16] = b"sallyport-data/1";
