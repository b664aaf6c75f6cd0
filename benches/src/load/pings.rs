//! Small messages on a warm stream, each sent at its time whether or not the one before came back.
//!
//! What counts is the time since a message was meant to be sent, so a stall is felt by every message that it delays.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::pace::{Times, histogram, record, spin_until};
use crate::origin::ECHO;
use crate::ways::Running;

/// Bytes of a message.
const SIZE: usize = 64;

/// Time between two messages.
const EVERY: Duration = Duration::from_millis(1);

/// Echoes messages for `time`.
///
/// # Panics
/// If the stream breaks or an echo is not what was sent.
#[must_use]
pub fn run(way: &Running, time: Duration) -> Times {
    run_every(EVERY, way, time)
}

/// The same with as much time between two messages.
///
/// # Panics
/// If the stream breaks or an echo is not what was sent.
#[must_use]
pub fn run_every(every: Duration, way: &Running, time: Duration) -> Times {
    let mut stream = way.connect();
    let mut first = [0];
    stream.write_all(&[ECHO]).expect("the stream takes a byte");
    stream.read_exact(&mut first).expect("the stream echoes");
    let count = u32::try_from(time.as_nanos() / every.as_nanos()).unwrap_or(u32::MAX);
    let pace = Pace {
        begin: Instant::now() + every,
        every,
        count,
    };
    thread::scope(|scope| {
        let sending = stream.try_clone().expect("a second handle");
        scope.spawn(move || send(sending, pace));
        receive(stream, pace)
    })
}

/// When messages are meant to be sent.
#[derive(Clone, Copy)]
struct Pace {
    begin: Instant,
    every: Duration,
    count: u32,
}

impl Pace {
    fn of(self, number: u32) -> Instant {
        self.begin + self.every * number
    }
}

fn send(mut stream: TcpStream, pace: Pace) {
    for number in 0..pace.count {
        spin_until(pace.of(number));
        stream
            .write_all(&message(number))
            .expect("the stream takes a message");
    }
}

fn receive(mut stream: TcpStream, pace: Pace) -> Times {
    let mut times = histogram();
    let mut echo = [0; SIZE];
    for number in 0..pace.count {
        stream.read_exact(&mut echo).expect("the stream echoes");
        record(&mut times, pace.of(number));
        assert_eq!(echo, message(number), "an echo is not what was sent");
    }
    Times::of(&times)
}

fn message(number: u32) -> [u8; SIZE] {
    let mut message = [0x5a; SIZE];
    let (start, _rest) = message.split_at_mut(4);
    start.copy_from_slice(&number.to_le_bytes());
    message
}
