//! Requests at a steady rate over HTTPS with keep-alive, each sent at its time.
//!
//! What counts is the time since a request was meant to be sent, so one that has to wait for the answer before it on its
//! connection feels that.

use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sallyport_tests::Raw;

use super::pace::{Times, histogram, record, sleep_until};
use crate::ways::Running;

/// Connections that share the rate.
const CONNECTIONS: u32 = 32;

/// Sends `rate` requests a second for `time`.
///
/// # Panics
/// If an answer is not a success.
#[must_use]
pub fn run(way: &Running, rate: f64, time: Duration) -> Times {
    let every = Duration::from_secs_f64(f64::from(CONNECTIONS) / rate);
    let mut all = histogram();
    thread::scope(|scope| {
        let connections: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let stream = Raw::connect(way.address(), "http/1.1").into_stream();
                let begin =
                    Instant::now() + Duration::from_millis(50) + every * number / CONNECTIONS;
                scope.spawn(move || steadily(stream, &way.url, (begin, every, time)))
            })
            .collect();
        for connection in connections {
            let times = connection
                .join()
                .expect("a connection's thread does not panic");
            let times = times.unwrap_or_else(|error| panic!("{}: {error}", way.name()));
            all.add(times).expect("the histogram grows");
        }
    });
    Times::of(&all)
}

fn steadily(
    mut stream: impl Read + Write,
    url: &str,
    (begin, every, time): (Instant, Duration, Duration),
) -> io::Result<Histogram<u64>> {
    let mut times = histogram();
    let mut meant = begin;
    while meant < begin + time {
        sleep_until(meant);
        once(&mut stream, url)?;
        record(&mut times, meant);
        meant += every;
    }
    Ok(times)
}

/// One request and its answer.
pub(super) fn once(stream: &mut (impl Read + Write), url: &str) -> io::Result<()> {
    let (host, path) = parts(url);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    read_answer(stream)
}

/// Host and path of an https URL.
pub(super) fn parts(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("https://").unwrap_or(url);
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

/// Reads a whole answer, which must be a success with a length.
fn read_answer(stream: &mut impl Read) -> io::Result<()> {
    let mut got = Vec::with_capacity(4 * 1024);
    let mut chunk = [0; 16 * 1024];
    let mut missing = None;
    while missing != Some(0) {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        missing = match missing {
            Some(left) => Some(left - read.min(left)),
            None => {
                got.extend_from_slice(chunk.get(..read).unwrap_or_default());
                missing_of(&got)?
            }
        };
    }
    Ok(())
}

/// How much of an answer is missing, once its head has come.
fn missing_of(got: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let (head, body) = got.split_at(end + 4);
    let head = String::from_utf8_lossy(head);
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let named = name.eq_ignore_ascii_case("content-length");
        named.then(|| value.trim().parse::<usize>().ok())?
    });
    match length {
        Some(length) if head.starts_with("HTTP/1.1 200") => {
            Ok(Some(length.saturating_sub(body.len())))
        }
        _ => Err(io::Error::other(head.into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        let missing = |answer: &[u8]| missing_of(answer).ok();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(missing(answer), Some(Some(0)));
        assert_eq!(missing(&answer[..answer.len() - 1]), Some(Some(1)));
        assert_eq!(missing(&answer[..20]), Some(None));
        assert_eq!(
            missing(b"HTTP/1.1 502 Bad\r\ncontent-length: 0\r\n\r\n"),
            None
        );
        assert_eq!(missing(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    }

    #[test]
    fn a_url_has_a_host_and_a_path() {
        assert_eq!(parts("https://127.0.0.1:1/s/a"), ("127.0.0.1:1", "/s/a"));
    }
}
