//! Bytes on their way, in pieces that change hands without being copied.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// Most pieces that go into one write.
pub(crate) const SLICES: usize = 64;

/// Bytes on their way from a source to a sink, in order.
#[derive(Debug, Default)]
pub struct Pieces {
    queue: VecDeque<Bytes>,
}

impl Pieces {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
        }
    }

    /// Adds one at the end; an empty one is left out.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.queue.push_back(piece);
        }
    }

    /// What comes first.
    pub(crate) fn first_mut(&mut self) -> Option<&mut Bytes> {
        self.queue.front_mut()
    }

    /// What one vectored write is made of, put into `slices`.
    pub(crate) fn slices<'s, 'p>(
        &'p self,
        slices: &'s mut [IoSlice<'p>; SLICES],
    ) -> &'s [IoSlice<'p>] {
        let mut filled = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.queue) {
            *slice = IoSlice::new(piece);
            filled += 1;
        }
        slices.get(..filled).unwrap_or_default()
    }

    /// So many bytes from the front are done with; pieces that are empty go, and the list's memory with the last.
    pub(crate) fn advance(&mut self, mut bytes: usize) {
        while let Some(first) = self.queue.front_mut() {
            let done = bytes.min(first.len());
            first.advance(done);
            bytes -= done;
            if !first.is_empty() {
                return;
            }
            self.queue.pop_front();
        }
        self.queue = VecDeque::new();
    }
}

impl Extend<Bytes> for Pieces {
    fn extend<I: IntoIterator<Item = Bytes>>(&mut self, pieces: I) {
        for piece in pieces {
            self.push(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_done_with_in_order() {
        let mut pieces = Pieces::new();
        pieces.extend(["ab", "", "cde", "f"].map(Bytes::from));
        let rest = |pieces: &Pieces| {
            let mut slices = [IoSlice::new(&[]); SLICES];
            pieces
                .slices(&mut slices)
                .iter()
                .map(|slice| slice.to_vec())
                .collect::<Vec<_>>()
        };
        assert_eq!(rest(&pieces), [&b"ab"[..], b"cde", b"f"]);

        pieces.advance(3);
        assert_eq!(rest(&pieces), [&b"de"[..], b"f"]);

        drop(pieces.first_mut().map(|first| first.split_to(2)));
        pieces.advance(0);
        assert_eq!(rest(&pieces), [&b"f"[..]]);

        pieces.advance(1);
        assert_eq!(pieces.queue.capacity(), 0);
    }

    #[test]
    fn one_write_has_only_so_many_slices() {
        let mut pieces = Pieces::new();
        pieces.extend((0..2 * SLICES).map(|_| Bytes::from("x")));
        let mut slices = [IoSlice::new(&[]); SLICES];
        assert_eq!(pieces.slices(&mut slices).len(), SLICES);
    }
}
