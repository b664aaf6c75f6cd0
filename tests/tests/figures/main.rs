//! The figures of reconnecting and of noticing the dead, proven: the code of gateway and relay on a simulated network
//! and tokio's paused clock, where a second costs nothing and a slow machine changes nothing.
//!
//! What the same figures are on a real machine is measured by `make scorecard`.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod absence;
mod client;
mod death;
mod gateway;
mod network;
mod relay;
mod rotation;
mod weather;
mod world;

use std::time::Duration;

use relay::Setup;
use sallyport_link::Choice;

/// A dead peer is found within this time.
const DEAD: Duration = Duration::from_secs(6);

/// Relays are back within this time after their gateway.
const BACK: Duration = Duration::from_secs(3);

/// A session is served within this time after its relay is back.
const SERVED: Duration = Duration::from_secs(2);

/// Where UDP is dropped, a tunnel over TLS is up within this time.
const ON_TLS: Duration = Duration::from_secs(1);

/// What a system tells at once is known within this time: a few round trips.
const AT_ONCE: Duration = Duration::from_millis(200);

/// A tunnel that has lived this long is a stable one.
const STABLE: Duration = Duration::from_secs(61);

/// A tunnel that has lived this long is not, and yet no sign of a gateway that keeps falling.
const SHORT: Duration = Duration::from_secs(3);

/// Relays of one kind, each with its own jitter.
fn relays(choice: Choice, many: u64) -> impl Iterator<Item = Setup> {
    (0..many).map(move |seed| Setup {
        choice,
        tunnels: 1,
        seed,
    })
}
