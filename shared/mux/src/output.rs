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
pub(crate) const SLICES: usize = 16;

/// One frame, with what of its header has been written.
#[derive(Debug)]
struct Frame {
    header: [u8; header::LEN],
    written: usize,
    payload: Bytes,
}

impl Frame {
    fn len(&self) -> usize {
        header::LEN - self.written + self.payload.len()
    }
}

/// Frames that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Output {
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Output {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether another full frame may join.
    pub(crate) const fn has_room(&self) -> bool {
        self.bytes + header::LEN + FULL <= TOGETHER
    }

    pub(crate) fn push(&mut self, header: Header, payload: Bytes) {
        let frame = Frame {
            header: header.encode(),
            written: 0,
            payload,
        };
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// What one vectored write is made of, put into `slices`.
    pub(crate) fn slices<'s, 'o>(
        &'o self,
        slices: &'s mut [IoSlice<'o>; SLICES],
    ) -> &'s [IoSlice<'o>] {
        let parts = self.frames.iter().flat_map(|frame| {
            let rest = frame.header.get(frame.written..).unwrap_or_default();
            [rest, &frame.payload]
        });
        let parts = parts.filter(|part| !part.is_empty());
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            filled += 1;
        }
        slices.get(..filled).unwrap_or_default()
    }

    /// So many bytes were written.
    pub(crate) fn advance(&mut self, mut written: usize) {
        self.bytes = self.bytes.saturating_sub(written);
        while written > 0 {
            let Some(frame) = self.frames.front_mut() else {
                return;
            };
            let head = written.min(header::LEN - frame.written);
            frame.written += head;
            let body = (written - head).min(frame.payload.len());
            frame.payload.advance(body);
            written -= head + body;
            if frame.len() == 0 {
                self.frames.pop_front();
            }
        }
    }
}
