//! Many bytes, as fast as they go, every one checked.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::origin::{DONE, GIVE, TAKE};
use crate::pattern;
use crate::ways::Running;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the user to the session.
    Up,
    /// From the session to the user.
    Down,
}

impl Direction {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Up => "user → session",
            Self::Down => "session → user",
        }
    }
}

/// A fixed number of bytes.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    /// Which way.
    pub direction: Direction,
    /// On how many streams at once.
    pub streams: u32,
    /// On all of them together.
    pub bytes: u64,
}

impl Bulk {
    /// Moves them: the time from the first byte sent to the last one known to have arrived.
    ///
    /// # Panics
    /// If a stream breaks, or a byte is lost or changed.
    #[must_use]
    pub fn run(&self, way: &Running) -> Duration {
        let each = self.bytes / u64::from(self.streams);
        let open: Vec<TcpStream> = (0..self.streams).map(|_| way.connect()).collect();
        let ready = Barrier::new(open.len() + 1);
        thread::scope(|scope| {
            let moving: Vec<_> = open
                .into_iter()
                .map(|stream| {
                    let ready = &ready;
                    scope.spawn(move || {
                        ready.wait();
                        self.one(stream, each)
                    })
                })
                .collect();
            ready.wait();
            let begun = Instant::now();
            for moved in moving {
                let moved = moved.join().expect("a stream's thread does not panic");
                moved.unwrap_or_else(|error| panic!("{}: {error}", way.name()));
            }
            begun.elapsed()
        })
    }

    fn one(&self, mut stream: TcpStream, bytes: u64) -> io::Result<()> {
        match self.direction {
            Direction::Up => {
                ask(&mut stream, TAKE, bytes)?;
                pattern::send(&mut stream, bytes)?;
                let mut answer = [0];
                stream.read_exact(&mut answer)?;
                (answer == [DONE])
                    .then_some(())
                    .ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
            Direction::Down => {
                ask(&mut stream, GIVE, bytes)?;
                pattern::receive(&mut stream, bytes, &AtomicU64::new(0))
            }
        }
    }
}

/// Bits a second that one stream gives back while `work` is done, which begins after `settle`, and what `work` returned.
///
/// # Panics
/// If the stream breaks.
pub fn counted<T>(way: &Running, settle: Duration, work: impl FnOnce() -> T) -> (f64, T) {
    beside(way, Direction::Down, |received| {
        thread::sleep(settle);
        let (begun, before) = (Instant::now(), received.load(Ordering::Relaxed));
        let done = work();
        let bytes = received.load(Ordering::Relaxed) - before;
        (to_f64(bytes) * 8.0 / begun.elapsed().as_secs_f64(), done)
    })
}

/// Exact as far as a benchmark goes.
fn to_f64(bytes: u64) -> f64 {
    const KIB: u64 = 1_024;
    let rest = u32::try_from(bytes % KIB).unwrap_or_default();
    let kibibytes = u32::try_from(bytes / KIB).unwrap_or(u32::MAX);
    f64::from(kibibytes) * 1_024.0 + f64::from(rest)
}

/// Keeps one stream of `way` as full as it gets while `work` is done, which is given the count of bytes that came back.
///
/// # Panics
/// If the stream breaks before.
pub fn beside<T>(way: &Running, direction: Direction, work: impl FnOnce(&AtomicU64) -> T) -> T {
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut stream = way.connect();
    thread::scope(|scope| {
        let moving = scope.spawn(|| endless(&mut stream, direction, (&stop, &received)));
        let stopping = Stopping(&stop);
        let done = work(&received);
        drop(stopping);
        let moved = moving.join().expect("the stream's thread does not panic");
        moved.unwrap_or_else(|error| panic!("{}: {error}", way.name()));
        done
    })
}

/// A stream that is given bytes without end, of which nobody reads any.
///
/// # Panics
/// If the stream breaks.
#[must_use]
pub fn unread(way: &Running) -> TcpStream {
    let mut stream = way.connect();
    ask(&mut stream, GIVE, u64::MAX).expect("a new stream takes a few bytes");
    stream
}

/// Stops the stream however its neighbour's work ends.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn endless(
    stream: &mut TcpStream,
    direction: Direction,
    (stop, received): (&AtomicBool, &AtomicU64),
) -> io::Result<()> {
    let mut place = pattern::Place::default();
    let mut buffer = vec![0; pattern::CHUNK];
    match direction {
        Direction::Up => ask(stream, TAKE, u64::MAX)?,
        Direction::Down => ask(stream, GIVE, u64::MAX)?,
    }
    while !stop.load(Ordering::Relaxed) {
        match direction {
            Direction::Up => {
                let sent = stream.write(place.next(u64::MAX))?;
                place.advance(sent);
            }
            Direction::Down => {
                let read = stream.read(&mut buffer)?;
                place.check(buffer.get(..read).unwrap_or_default())?;
                received.fetch_add(u64::try_from(read).unwrap_or_default(), Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

fn ask(stream: &mut TcpStream, what: u8, count: u64) -> io::Result<()> {
    let mut request = vec![what];
    request.extend_from_slice(&count.to_le_bytes());
    stream.write_all(&request)
}
