//! Tunnels as both ends see them: a gate on loopback, a dialler, and what may go wrong between them.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod support;
mod wire_cut;

mod streams;
mod taken;
mod ends;
mod life;
mod gate;
mod dial;
mod flows;
