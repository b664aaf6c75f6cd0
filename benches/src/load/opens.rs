//! Streams opened one after the other, each for one byte there and back.

use std::io::{Read, Write};
use std::time::Instant;

use super::pace::{Times, histogram, record};
use crate::origin::ECHO;
use crate::ways::Running;

/// Opens, echoes a byte and closes, `count` times: streams a second.
///
/// # Panics
/// If a stream breaks.
#[must_use]
pub fn run(way: &Running, count: u32) -> f64 {
    let begun = Instant::now();
    for _ in 0..count {
        let mut stream = way.connect();
        let mut echo = [0];
        stream
            .write_all(&[ECHO])
            .expect("a new stream takes a byte");
        stream.read_exact(&mut echo).expect("a new stream echoes");
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}

/// Microseconds from the first packet of a new stream to its first byte back: the median of `count`.
///
/// # Panics
/// If a stream breaks.
#[must_use]
pub fn first_byte(way: &Running, count: u32) -> f64 {
    let mut times = histogram();
    for _ in 0..count {
        let begun = Instant::now();
        let mut stream = way.connect();
        let mut echo = [0];
        stream
            .write_all(&[ECHO])
            .expect("a new stream takes a byte");
        stream.read_exact(&mut echo).expect("a new stream echoes");
        record(&mut times, begun);
    }
    Times::of(&times).p50
}
