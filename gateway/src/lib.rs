//! The gateway: it authenticates relays, knows which session can be reached through which tunnel, and
//! carries client connections there. Everything else is decided on the relays.
//!
//! Read it as a connection goes: `serve` opens the ports, `accept` and `quic` find out who comes. A relay is
//! let in by `arrive` and stays with `attend`; a client is served by the front of the edge crate, or joined to
//! a session by `carry`. Both meet in `open`, which asks `pick` for a way through what `registry` knows.
#![forbid(unsafe_code)]

pub mod cli;
pub mod init;
pub mod keys;
pub mod serve;
pub mod reload;
pub mod accept;
pub mod quic;
pub mod tcp;
pub mod udp;
pub mod carry;
pub mod open;
pub mod admin;
pub mod debug;
pub mod status;
pub mod attend;
pub mod arrive;
pub mod quality;
pub mod probes;
pub mod hub;
pub mod promote;
pub mod pick;
pub mod regulars;
pub mod registry;
pub mod turns;
pub mod recent;
pub mod waiting;
pub mod figures;
pub mod clusters;
pub mod files;
pub mod budget;
pub mod config;
