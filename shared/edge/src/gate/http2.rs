//! HTTP/2 on its way to hyper: frame headers counted and timed, payload never copied.
//!
//! hyper and h2 judge what the frames mean; this judges only what they cost.

use std::time::Duration;

use tokio::time::Instant;

use super::bucket::Bucket;
use super::handle::Shared;
use super::{Due, Ended};
use crate::limits::Limits;

/// What every client sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame header (RFC 9113 §4.1).
const HEADER: usize = 9;
/// Bytes of payload that pay for one frame without any: a client that reads an answer in small
/// pieces sends one WINDOW_UPDATE for each.
const PAYLOAD_PER_FRAME: u64 = 16;
/// Our writes below this carry no answer: pings, acknowledgements, window updates.
const SMALL_WRITE: usize = 64;

const END_STREAM_OR_ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// The client's half of a connection of HTTP/2.
#[derive(Debug)]
pub(super) struct Http2 {
    start: Instant,
    preface_seen: usize,
    frame: Frame,
    /// A header block that is not complete.
    block: Option<Block>,
    /// The last stream whose request is complete.
    last_stream: u32,
    /// Requests whose head is complete, whatever h2 makes of them.
    requests: u64,
    /// Since when no exchange is open; none while there is one.
    quiet_since: Option<Instant>,
    last_payload: Instant,
    costs: Costs,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    since: Instant,
    bytes: usize,
}

/// The frame that is being read.
#[derive(Debug, Clone, Copy)]
struct Frame {
    header: [u8; HEADER],
    have: usize,
    left: usize,
    since: Instant,
}

/// A frame header, read (RFC 9113 §4.1).
#[derive(Debug, Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const CONTINUATION: u8 = 9;

    fn read(raw: [u8; HEADER]) -> Self {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = raw;
        let length = u32::from_be_bytes([0, l2, l1, l0]);
        Self {
            length: usize::try_from(length).unwrap_or(usize::MAX),
            kind,
            flags,
            stream: u32::from_be_bytes([s3, s2, s1, s0]) & 0x7fff_ffff,
        }
    }

    const fn is_header_block(self) -> bool {
        matches!(self.kind, Self::HEADERS | Self::CONTINUATION)
    }

    const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Bytes of the answer that this frame demands of us.
    const fn demands(self) -> u64 {
        match self.kind {
            Self::PING if !self.has(END_STREAM_OR_ACK) => 17,
            Self::SETTINGS if !self.has(END_STREAM_OR_ACK) => 9,
            _ => 0,
        }
    }
}

impl Http2 {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            start: now,
            preface_seen: 0,
            frame: Frame::between(now),
            block: None,
            last_stream: 0,
            requests: 0,
            quiet_since: Some(now),
            last_payload: now,
            costs: Costs::new(limits, now),
        }
    }

    pub(super) const fn last_stream(&self) -> u32 {
        self.last_stream
    }

    pub(super) const fn requests(&self) -> u64 {
        self.requests
    }

    pub(super) fn wrote(&mut self, bytes: usize, now: Instant) {
        self.costs.earn(bytes);
        if bytes >= SMALL_WRITE {
            self.last_payload = now;
        }
    }

    /// Whether so many glitches came that the connection should end in order.
    pub(super) fn should_close(&self, now: Instant) -> bool {
        self.costs.glitches.is_low(now)
    }

    /// What must have happened by when.
    pub(super) fn due(&mut self, shared: &Shared, limits: &Limits, now: Instant) -> Due {
        if self.preface_seen < PREFACE.len() {
            return Due {
                at: self.start + limits.first_byte,
                why: Ended::NoPreface,
            };
        }
        let quiet = if shared.open() > 0 {
            self.quiet_since = None;
            Due {
                at: self.last_payload + limits.idle,
                why: Ended::Idle,
            }
        } else {
            let since = *self.quiet_since.get_or_insert(now);
            Due {
                at: since.max(self.last_payload) + limits.keep_alive,
                why: Ended::KeepAlive,
            }
        };
        let slow = |since: Instant| Due {
            at: since + limits.head,
            why: Ended::SlowFrame,
        };
        let block = self.block.map(|block| slow(block.since));
        let frame = self.frame.is_partial().then(|| slow(self.frame.since));
        let begun = block.into_iter().chain(frame).reduce(Due::earlier);
        match begun {
            Some(begun) if shared.open() > 0 => quiet.earlier(begun),
            Some(begun) => begun, // who has begun to ask is not quiet
            None => quiet,
        }
    }

    /// Goes over bytes that were just read.
    pub(super) fn follow(
        &mut self,
        mut bytes: &[u8],
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Ended> {
        while !bytes.is_empty() {
            let used = if self.preface_seen < PREFACE.len() {
                self.preface(bytes)?
            } else if self.frame.have < HEADER {
                self.header(bytes, limits, now)?
            } else {
                self.frame.skip(bytes.len())
            };
            bytes = bytes.get(used..).unwrap_or_default();
            if self.frame.is_complete() {
                self.frame_done(now);
            }
        }
        Ok(())
    }

    fn preface(&mut self, bytes: &[u8]) -> Result<usize, Ended> {
        let rest = PREFACE.get(self.preface_seen..).unwrap_or_default();
        let here = rest.len().min(bytes.len());
        if rest.get(..here) != bytes.get(..here) {
            return Err(Ended::NoPreface);
        }
        self.preface_seen += here;
        Ok(here)
    }

    fn header(&mut self, bytes: &[u8], limits: &Limits, now: Instant) -> Result<usize, Ended> {
        if self.frame.have == 0 {
            self.frame.since = now;
        }
        let used = self.frame.take_header(bytes);
        if self.frame.have == HEADER {
            let head = Head::read(self.frame.header);
            self.frame.left = head.length;
            self.begin_frame(head, limits, now)?;
        }
        Ok(used)
    }

    fn begin_frame(&mut self, head: Head, limits: &Limits, now: Instant) -> Result<(), Ended> {
        self.note_block(head, limits, now)?;
        self.costs.charge(head, now)?;
        if head.kind == Head::DATA && head.length > 0 {
            self.last_payload = now;
        }
        Ok(())
    }

    fn note_block(&mut self, head: Head, limits: &Limits, now: Instant) -> Result<(), Ended> {
        if !head.is_header_block() {
            self.block = None; // h2 ends the connection for it (RFC 9113 §6.10)
            return Ok(());
        }
        let mut block = self.block.unwrap_or(Block {
            since: now,
            bytes: 0,
        });
        block.bytes += head.length;
        self.block = Some(block);
        if block.bytes > limits.head_bytes {
            Err(Ended::HeaderBlockTooLarge)
        } else {
            Ok(())
        }
    }

    fn frame_done(&mut self, now: Instant) {
        let head = Head::read(self.frame.header);
        if head.is_header_block() && head.has(END_HEADERS) {
            self.block = None;
            if head.stream > self.last_stream {
                self.last_stream = head.stream;
                self.requests += 1;
            }
            self.last_payload = now;
        }
        self.frame = Frame::between(now);
    }
}

impl Frame {
    const fn between(now: Instant) -> Self {
        Self {
            header: [0; HEADER],
            have: 0,
            left: 0,
            since: now,
        }
    }

    fn take_header(&mut self, bytes: &[u8]) -> usize {
        let room = self.header.get_mut(self.have..).unwrap_or_default();
        let used = room.len().min(bytes.len());
        for (place, byte) in room.iter_mut().zip(bytes) {
            *place = *byte;
        }
        self.have += used;
        used
    }

    fn skip(&mut self, available: usize) -> usize {
        let used = self.left.min(available);
        self.left -= used;
        used
    }

    const fn is_complete(&self) -> bool {
        self.have == HEADER && self.left == 0
    }

    /// Whether it has begun and must end soon. The payload of DATA is the business of whoever
    /// waits for the body.
    fn is_partial(&self) -> bool {
        let body = self.have == HEADER && Head::read(self.header).kind == Head::DATA;
        self.have > 0 && !body
    }
}

/// Budgets against floods.
#[derive(Debug)]
struct Costs {
    resets: Bucket,
    glitches: Bucket,
    /// Bytes of payload, either way, that no frame without payload has used up.
    credit: u64,
    most_credit: u64,
    payload: u64,
    overhead: u64,
    overhead_free: u64,
}

impl Costs {
    fn new(limits: &Limits, now: Instant) -> Self {
        let per_reset: Duration = limits.h2_resets_per;
        Self {
            resets: Bucket::new(limits.h2_resets, per_reset, now),
            glitches: Bucket::new(limits.h2_glitches, limits.h2_glitches_per, now),
            credit: 0,
            most_credit: PAYLOAD_PER_FRAME * u64::from(limits.h2_glitches),
            payload: 0,
            overhead: 0,
            overhead_free: limits.h2_overhead,
        }
    }

    fn earn(&mut self, bytes: usize) {
        self.payload = self.payload.saturating_add(bytes as u64);
        self.credit = self
            .credit
            .saturating_add(bytes as u64)
            .min(self.most_credit);
    }

    fn charge(&mut self, head: Head, now: Instant) -> Result<(), Ended> {
        self.overhead += HEADER as u64;
        let moves = head.kind == Head::DATA || head.is_header_block();
        if moves {
            self.earn(head.length);
        } else {
            self.overhead = self.overhead.saturating_add(head.length as u64);
        }
        if self.overhead / 8 > self.payload.saturating_add(self.overhead_free) {
            return Err(Ended::TooMuchOverhead);
        }
        if head.kind == Head::RST_STREAM {
            return if self.resets.take(now) {
                Ok(())
            } else {
                Err(Ended::TooManyResets)
            };
        }
        let ends = head.kind == Head::DATA && head.has(END_STREAM_OR_ACK);
        if (moves && head.length > 0) || ends {
            Ok(())
        } else {
            self.glitch(head, now)
        }
    }

    fn glitch(&mut self, head: Head, now: Instant) -> Result<(), Ended> {
        self.credit = self.credit.saturating_sub(head.demands());
        if self.credit >= PAYLOAD_PER_FRAME {
            self.credit -= PAYLOAD_PER_FRAME;
            return Ok(());
        }
        if self.glitches.take(now) {
            Ok(())
        } else {
            Err(Ended::TooManyGlitches)
        }
    }
}
