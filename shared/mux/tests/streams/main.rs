//! Streams between two ends: both ours, or one of the yamux crate.
#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

mod ends;
mod interop;
mod limits;
mod sending;
mod support;
mod transfer;
