//! Frames on their way out, several in one vectored write.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use crate::header::{self, Header};

/// Payload of a full frame: with its header it fills one TLS record (RFC 8446 §5.1).
pub(crate) const FULL: usize = 16 * 1024 - header::LEN;

/// Bytes that are gathered for one write: as many as rustls takes at once.
const TOGETHER: usize = 64 * 1024;

/// Slices that one write is made of.
pub(crate) const SLICES: usize = 64;

/// A part of a frame.
#[derive(Debug)]
enum Part {
    /// A header, with how much of it was written.
    Header([u8; header::LEN], usize),
    /// Some payload.
    Payload(Bytes),
}

impl Part {
    fn rest(&self) -> &[u8] {
        match self {
            Self::Header(header, written) => header.get(*written..).unwrap_or_default(),
            Self::Payload(payload) => payload,
        }
    }

    fn advance(&mut self, written: usize) {
        match self {
            Self::Header(_, before) => *before += written,
            Self::Payload(payload) => payload.advance(written),
        }
    }
}

/// Frames that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Output {
    parts: VecDeque<Part>,
    bytes: usize,
}

impl Output {
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether another full frame may join.
    pub(crate) const fn has_room(&self) -> bool {
        self.bytes + header::LEN + FULL <= TOGETHER
    }

    /// Adds a header; what it announces follows by [`Output::extend`].
    pub(crate) fn begin(&mut self, header: Header) {
        self.bytes += header::LEN;
        self.parts.push_back(Part::Header(header.encode(), 0));
    }

    /// What one vectored write is made of, put into `slices`.
    pub(crate) fn slices<'s, 'o>(
        &'o self,
        slices: &'s mut [IoSlice<'o>; SLICES],
    ) -> &'s [IoSlice<'o>] {
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(part.rest());
            filled += 1;
        }
        slices.get(..filled).unwrap_or_default()
    }

    /// So many bytes were written.
    pub(crate) fn advance(&mut self, mut written: usize) {
        self.bytes = self.bytes.saturating_sub(written);
        while let Some(part) = self.parts.front_mut() {
            let rest = part.rest().len();
            if written < rest {
                return part.advance(written);
            }
            written -= rest;
            self.parts.pop_front();
        }
    }
}

/// Adds payload of the frame that was begun last.
impl Extend<Bytes> for Output {
    fn extend<I: IntoIterator<Item = Bytes>>(&mut self, pieces: I) {
        for piece in pieces {
            self.bytes += piece.len();
            self.parts.push_back(Part::Payload(piece));
        }
    }
}
