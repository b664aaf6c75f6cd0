//! What was delivered when, and how fast (draft-cheng-iccrg-delivery-rate-estimation-02).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Acknowledgements that are remembered: those of a round trip, of which a peer sends one for several packets.
const POINTS: usize = 4_096;

/// The packets of one acknowledgement.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Batch {
    newest: Option<Instant>,
    bytes: u64,
}

impl Batch {
    pub(super) fn add(&mut self, sent: Instant, bytes: u64) {
        self.newest = self.newest.max(Some(sent));
        self.bytes += bytes;
    }

    /// When the newest was sent, and the bytes of all.
    pub(super) fn take(&mut self) -> Option<(Instant, u64)> {
        let Self { newest, bytes } = std::mem::take(self);
        Some((newest?, bytes))
    }
}

/// The acknowledgements of about a round trip.
#[derive(Debug, Clone, Default)]
pub(super) struct Deliveries {
    total: u64,
    points: VecDeque<Point>,
    /// The sender had nothing more to send until so much was delivered.
    limited_until: u64,
}

/// An acknowledgement: when it came, when its newest packet was sent, and what it completed.
#[derive(Debug, Clone, Copy)]
struct Point {
    at: Instant,
    sent: Instant,
    total: u64,
}

/// What came between the acknowledgement before a packet was sent and its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Bytes per second.
    pub rate: u64,
    /// What had been delivered when the packet was sent.
    pub prior: u64,
    /// Whether the sender had too little to send, so that the way may carry more.
    pub limited: bool,
}

impl Deliveries {
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Takes in that `bytes` were acknowledged, the newest of them `sent` then.
    pub(super) fn add(&mut self, now: Instant, sent: Instant, bytes: u64) -> Sample {
        let before = self.before(sent);
        self.total += bytes;
        if self.points.len() >= POINTS {
            self.points.pop_front();
        }
        self.points.push_back(Point {
            at: now,
            sent,
            total: self.total,
        });
        let elapsed = elapsed(&before, sent, now);
        Sample {
            rate: per_second(self.total - before.total, elapsed),
            prior: before.total,
            limited: before.total < self.limited_until,
        }
    }

    /// The sender has nothing to send beside what is in flight, so what is told of that tells little of the way.
    pub(super) fn limit(&mut self, in_flight: u64) {
        self.limited_until = self.total + in_flight + 1;
    }

    /// The last acknowledgement that had come when a packet was sent. Those before it are of no more use.
    fn before(&mut self, sent: Instant) -> Point {
        let later = self.points.partition_point(|point| point.at <= sent);
        self.points.drain(..later.saturating_sub(1));
        self.points.front().copied().unwrap_or(Point {
            at: sent,
            sent,
            total: self.total,
        })
    }
}

/// The longer of what sending and what acknowledging took: either alone may have come in a burst.
fn elapsed(before: &Point, sent: Instant, now: Instant) -> Duration {
    let acknowledging = now.saturating_duration_since(before.at.min(sent));
    let sending = sent.saturating_duration_since(before.sent);
    acknowledging.max(sending)
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let nanos = time.as_nanos().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}
