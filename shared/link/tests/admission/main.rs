//! Admission as a gateway does it, from the outside: what a relay must prove, and what it is told if it cannot.
#![expect(
    clippy::expect_used,
    reason = "helpers of tests, outside `#[test]` functions"
)]
#![expect(
    clippy::panic,
    reason = "helpers of tests, outside `#[test]` functions"
)]

mod jwt_matrix;
mod hello;
mod pair;
