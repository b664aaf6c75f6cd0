//! The relay: dials out to gateways and reaches the sessions of its node.
//!
//! Modules stand in reading order, and each uses only modules below it: `cli` says what a person may ask for,
//! `run` wires a relay together, `peers` holds the tunnels of other nodes, `gateways`, `keeper` and `tend` those of
//! gateways, and `streams` to `head` are the way of one stream from its tunnel to its session.
#![forbid(unsafe_code)]

pub mod cli;
pub mod cluster_key;
pub mod node_certificate;
pub mod doctor;
pub mod run;
pub mod join;
pub mod direct_url;
pub mod direct;
pub mod status;
pub mod placement;
pub mod drain;
pub mod queue;
pub mod servers;
pub mod reservations;
pub mod membership;
pub mod global;
pub mod local;
pub mod metrics;
pub mod debug;
pub mod peers;
pub mod gateways;
pub mod keeper;
pub mod tend;
pub mod lanes;
pub mod outfit;
pub mod wanted;
pub mod board;
pub mod credentials;
pub mod rotation;
pub mod advertise;
pub mod streams;
pub mod probe;
pub mod terminate;
mod outlet;
mod carry;
pub mod balance;
pub mod hop;
pub mod directory;
pub mod promote;
pub mod access;
pub mod vnc;
pub mod udp;
pub mod health;
pub mod reach;
pub mod head;
pub mod certificates;
pub mod sessions;
pub mod config;
