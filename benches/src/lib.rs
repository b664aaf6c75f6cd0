//! Measures Sallyport's real programs beside their peers: the same bytes, in the same run, in rotated order.
//!
//! A figure without its peer from the same run is no figure, so a row of the benchmark starts every way from a client
//! to the origin that it compares ([`ways`]), puts the same load on each in every round ([`load`]), reads what it cost
//! the proxies' processes ([`cost`]) and states the ratios of each round ([`outcome`]). [`report`] makes tables and
//! pictures of it.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot measure says so by panicking; its row is reported as failed"
)]

pub mod supervise;
pub mod report;
pub mod worker;
pub mod rows;
pub mod load;
pub mod ways;
pub mod node;
pub mod lab;
pub mod cli;
pub mod origin;
pub mod host;
pub mod pattern;
pub mod rounds;
pub mod outcome;
pub mod peers;
pub mod machine;
pub mod cost;
pub mod stats;
pub mod progress;
