//! Bytes whose place in a stream can be told, so that every byte that arrives is checked without costing much.
//!
//! Random bytes that repeat after a prime number of them: whatever a proxy loses, doubles or swaps in blocks of its own
//! size shows, and a comparison runs at the speed of the cache.

use std::io::{self, Read, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The largest prime below 256 KiB.
const PERIOD: usize = 262_139;

/// Most bytes of one read or write.
pub const CHUNK: usize = PERIOD;

/// Two periods, so that a chunk from any place is one slice.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    let once: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
    [once.as_slice(), once.as_slice()].concat()
});

/// Where in the pattern a stream stands.
#[derive(Debug, Default)]
pub struct Place(usize);

impl Place {
    /// What comes next, at most `most` bytes.
    #[must_use]
    pub fn next(&self, most: u64) -> &'static [u8] {
        let len = usize::try_from(most).unwrap_or(CHUNK).min(CHUNK);
        BYTES.get(self.0..self.0 + len).unwrap_or_default()
    }

    /// Goes on by `len` bytes.
    pub fn advance(&mut self, len: usize) {
        self.0 = (self.0 + len) % PERIOD;
    }

    /// Goes on by `bytes` if they are what comes next.
    ///
    /// # Errors
    /// If they are not.
    pub fn check(&mut self, bytes: &[u8]) -> io::Result<()> {
        let expected = BYTES.get(self.0..self.0 + bytes.len()).unwrap_or_default();
        if bytes != expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not the bytes that were sent",
            ));
        }
        self.advance(bytes.len());
        Ok(())
    }
}

/// Sends the first `count` bytes of the pattern.
///
/// # Errors
/// If the stream fails.
pub fn send(stream: &mut impl Write, count: u64) -> io::Result<()> {
    let mut place = Place::default();
    let mut left = count;
    while left > 0 {
        let sent = stream.write(place.next(left))?;
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        place.advance(sent);
        left = left.saturating_sub(to_u64(sent));
    }
    stream.flush()
}

/// Reads `count` bytes, each of which must be the pattern's, and counts them as they come.
///
/// # Errors
/// If the stream fails or ends early, or a byte is another one.
pub fn receive(stream: &mut impl Read, count: u64, counter: &AtomicU64) -> io::Result<()> {
    let mut place = Place::default();
    let mut buffer = vec![0; CHUNK];
    let mut left = count;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let into = buffer.get_mut(..most).unwrap_or_default();
        let read = stream.read(into)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        place.check(into.get(..read).unwrap_or_default())?;
        counter.fetch_add(to_u64(read), Ordering::Relaxed);
        left = left.saturating_sub(to_u64(read));
    }
    Ok(())
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: u64 = 1_000_000;

    fn received(mut bytes: &[u8]) -> io::Result<u64> {
        let counter = AtomicU64::new(0);
        receive(&mut bytes, SOME, &counter)?;
        Ok(counter.into_inner())
    }

    fn sent() -> Vec<u8> {
        let mut bytes = Vec::new();
        send(&mut bytes, SOME).expect("into memory");
        bytes
    }

    #[test]
    fn what_is_sent_is_received() {
        assert_eq!(received(&sent()).expect("the same bytes"), SOME);
    }

    #[test]
    fn every_fault_is_found() {
        let whole = sent();
        let mut flipped = whole.clone();
        flipped[777_777] ^= 1;
        let mut swapped = whole.clone();
        let (first, second) = swapped.split_at_mut(65_536);
        first.swap_with_slice(&mut second[..65_536]);
        let mut doubled = whole.clone();
        doubled.splice(16_384..16_384, whole[..16_384].to_vec());
        for wrong in [flipped, swapped, doubled] {
            let kind = received(&wrong).map_err(|error| error.kind());
            assert_eq!(kind, Err(io::ErrorKind::InvalidData));
        }
        let short = received(&whole[..999_999]).map_err(|error| error.kind());
        assert_eq!(short, Err(io::ErrorKind::UnexpectedEof));
    }
}
