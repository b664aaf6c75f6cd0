//! Streams between two ends: both ours, or one of the yamux crate or of hashicorp's yamux.
#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

mod ends;
mod hashicorp;
mod interop;
mod limits;
mod sending;
mod support;
mod transfer;
