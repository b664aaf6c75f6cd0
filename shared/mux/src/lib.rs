//! Many streams over one ordered, reliable connection, in the wire format of
//! [yamux](https://github.com/hashicorp/yamux/blob/master/spec.md).
//!
//! Any peer that speaks yamux can be at the other end. What is ours is how it is spoken:
//!
//! - **An abort is not an end.** A finished stream, an aborted one and a lost connection are three different things to a
//!   reader, so a cut transfer never looks complete. The code of an abort travels where other peers look at nothing: in
//!   the length field of the window update that carries `RST`.
//! - **Opening costs no round trip.** `SYN` rides on the first bytes, and nobody waits for `ACK`.
//! - **Interactive streams do not wait behind bulk.** Sending is a round robin of frames in which streams that have little to
//!   say go first (RFC 8290 §4).
//! - **Windows fit the path.** They begin with yamux's 256 KiB and grow to twice the bandwidth-delay product from a budget
//!   of the connection; a connection over its budget resets the stream that nobody reads instead of stalling the rest.
//! - **Few, full writes.** A frame with its header fills one TLS record; several leave in one vectored write, and what
//!   waits is flushed once nothing more is ready.
//!
//! [`connection`] gives a [`Mux`] to open streams with, the [`Arrivals`] of the other side, and a [`Driver`], which owns the
//! connection and must be run by one task. The crate spawns nothing and has no timers.
#![forbid(unsafe_code)]

mod mux;
mod driver;
mod input;
mod stream;
mod shared;
mod channel;
mod output;
mod schedule;
mod window;
mod header;
mod settings;
mod broken;

pub use broken::{Broken, StreamError};
pub use driver::Driver;
pub use mux::{Arrivals, Mux, connection};
pub use settings::Settings;
pub use shared::{Figures, Role};
pub use stream::Stream;
