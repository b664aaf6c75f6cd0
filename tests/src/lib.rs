//! What the end-to-end tests stand on: the real binaries, real services and real clients, each owned by a
//! guard that ends it.
//!
//! A test builds a [`Site`] (gateways, relays, sessions on loopback), talks to it the way a user would and
//! waits for states with [`eventually`], whose bound is far above any figure that we promise.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking; this crate is used by tests only"
)]

pub mod apart;
pub mod cluster;
pub mod site;
pub mod program;
pub mod service;
pub mod member;
pub mod broker;
pub mod client;
pub mod network;
pub mod wan;
pub mod stranger;
pub mod hand_made;
pub mod raw;
pub mod hello;
pub mod frames;
pub mod recorder;
pub mod balancer;
pub mod daemon;
pub mod endless;
pub mod port;
pub mod unread;
pub mod written;
pub mod wait;

pub use apart::Apart;
pub use client::{Answer, Curl, run_ok};
pub use daemon::Daemon;
pub use endless::Endless;
pub use hand_made::HandMade;
pub use hello::client_hello;
pub use network::{Cable, Lan};
pub use port::Port;
pub use program::Program;
pub use raw::Raw;
pub use recorder::Recorder;
pub use site::{Gateway, Relay, Site};
pub use stranger::Stranger;
pub use unread::wait_read;
pub use wait::{BOUND, eventually, eventually_some};
pub use wan::{Link, Wan};

use std::path::PathBuf;

/// Folder of the Python and Node peers that `tests/setup` installed.
///
/// # Panics
/// If `SALLYPORT_TEST_PEERS` is not set: `make test` sets it.
#[must_use]
pub fn peers() -> PathBuf {
    std::env::var_os("SALLYPORT_TEST_PEERS")
        .map(PathBuf::from)
        .expect(
            "SALLYPORT_TEST_PEERS is set: run `make test`, or set it to what tests/setup prints",
        )
}

/// A script or file of `tests/peers`.
#[must_use]
pub fn peer_script(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("peers")
        .join(path)
}

/// One of our programs, from the folder that this test was built into.
///
/// # Panics
/// If it has not been built: `make test` builds it.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let me = std::env::current_exe().expect("this test has a path");
    let folder = me
        .ancestors()
        .skip(1)
        .find(|folder| folder.join("sallyport-gateway").exists())
        .expect("sallyport-gateway is built: run `make test` or `cargo build --workspace --bins`");
    folder.join(name)
}
