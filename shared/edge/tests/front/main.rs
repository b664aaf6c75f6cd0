//! The front between real clients and real sessions, over loopback sockets.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something fails"
)]

mod app;
mod harness;
mod basics;
mod bodies;
mod early;
mod failures;
mod http2;
mod streams;
mod websocket;
mod limits;
mod access;
mod pools;
