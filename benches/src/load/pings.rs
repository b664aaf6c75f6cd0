//! Small messages on a warm stream, each sent at its time whether or not the one before came back.
//!
//! What counts is the time since a message was meant to be sent, so a stall is felt by every message that it delays.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::origin::ECHO;
use crate::ways::Running;

/// Bytes of a message.
const SIZE: usize = 64;

/// Time between two messages.
pub const EVERY: Duration = Duration::from_millis(1);

/// The scheduler wakes a sleeper this late at worst on an idle machine; the rest is spent spinning.
const EARLY: Duration = Duration::from_micros(80);

/// Quantiles of round-trip times in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct RoundTrips {
    /// Half were faster.
    pub p50: f64,
    /// One in a hundred was slower.
    pub p99: f64,
    /// The slowest.
    pub most: f64,
}

/// Echoes messages for `time`.
///
/// # Panics
/// If the stream breaks or an echo is not what was sent.
#[must_use]
pub fn run(way: &Running, time: Duration) -> RoundTrips {
    let mut stream = way.connect();
    let mut first = [0];
    stream.write_all(&[ECHO]).expect("the stream takes a byte");
    stream.read_exact(&mut first).expect("the stream echoes");
    let count = u32::try_from(time.as_nanos() / EVERY.as_nanos()).unwrap_or(u32::MAX);
    let begin = Instant::now() + EVERY;
    thread::scope(|scope| {
        let sending = stream.try_clone().expect("a second handle");
        scope.spawn(move || send(sending, begin, count));
        receive(stream, begin, count)
    })
}

fn send(mut stream: TcpStream, begin: Instant, count: u32) {
    for number in 0..count {
        wait_until(begin + EVERY * number);
        stream
            .write_all(&message(number))
            .expect("the stream takes a message");
    }
}

fn receive(mut stream: TcpStream, begin: Instant, count: u32) -> RoundTrips {
    let mut times = Histogram::<u64>::new(3).expect("three digits are possible");
    let mut echo = [0; SIZE];
    for number in 0..count {
        stream.read_exact(&mut echo).expect("the stream echoes");
        let late = Instant::now().saturating_duration_since(begin + EVERY * number);
        assert_eq!(echo, message(number), "an echo is not what was sent");
        let nanos = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
        times.record(nanos).expect("the histogram grows");
    }
    let at = |quantile: f64| micros(times.value_at_quantile(quantile));
    RoundTrips {
        p50: at(0.5),
        p99: at(0.99),
        most: micros(times.max()),
    }
}

fn message(number: u32) -> [u8; SIZE] {
    let mut message = [0x5a; SIZE];
    let (start, _rest) = message.split_at_mut(4);
    start.copy_from_slice(&number.to_le_bytes());
    message
}

/// Nanoseconds as microseconds.
fn micros(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64() * 1e6
}

/// Sleeps almost until `then`, and spins for the rest.
fn wait_until(then: Instant) {
    let left = then.saturating_duration_since(Instant::now());
    if let Some(asleep) = left.checked_sub(EARLY) {
        thread::sleep(asleep);
    }
    while Instant::now() < then {
        std::hint::spin_loop();
    }
}
