//! Bytes on their way, in pieces that change hands without being copied.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::ReadBuf;

/// Most pieces that go into one write.
pub(crate) const SLICES: usize = 64;

/// Bytes on their way from a source to a sink, in order. Once there are none, it holds no memory.
#[derive(Debug, Default)]
pub struct Pieces {
    queue: VecDeque<Bytes>,
    bytes: usize,
}

impl Pieces {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
        }
    }

    /// How many bytes they are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Adds one at the end; an empty one is left out.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.queue.push_back(piece);
        }
    }

    /// The same, and joined with the last one if neither is longer than `small`, so that many small ones hold no more
    /// memory than bytes.
    pub fn join(&mut self, piece: Bytes, small: usize) {
        let fits = |last: &mut Bytes| last.len().max(piece.len()) <= small;
        let Some(last) = self.queue.pop_back_if(fits) else {
            return self.push(piece);
        };
        self.bytes -= last.len();
        let mut joined = BytesMut::from(last);
        joined.extend_from_slice(&piece);
        self.push(joined.freeze());
    }

    /// Copies what comes first to `buf`, as much as there is room for, and says how many bytes that were.
    pub fn read(&mut self, buf: &mut ReadBuf<'_>) -> usize {
        let before = buf.filled().len();
        while buf.remaining() > 0
            && let Some(first) = self.queue.front()
        {
            let piece = first.get(..buf.remaining()).unwrap_or(first);
            buf.put_slice(piece);
            let copied = piece.len();
            self.advance(copied);
        }
        buf.filled().len() - before
    }

    /// Moves what comes first to the end of `to`, at most `most` bytes, and says how many those were.
    pub fn move_to(&mut self, most: usize, to: &mut impl Extend<Bytes>) -> usize {
        let mut left = most;
        while left > 0
            && let Some(mut first) = self.queue.pop_front()
        {
            if first.len() > left {
                to.extend(Some(first.split_to(left)));
                self.queue.push_front(first);
                left = 0;
            } else {
                left -= first.len();
                to.extend(Some(first));
            }
        }
        self.took(most - left);
        most - left
    }

    /// Lets `take` have what comes first, if there is anything, and take from the front of it.
    pub(crate) fn with_first<T>(&mut self, take: impl FnOnce(&mut Bytes) -> T) -> Option<T> {
        let first = self.queue.front_mut()?;
        let before = first.len();
        let answer = take(first);
        let taken = before - first.len();
        if first.is_empty() {
            self.queue.pop_front();
        }
        self.took(taken);
        Some(answer)
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

    /// So many bytes from the front are done with.
    pub(crate) fn advance(&mut self, bytes: usize) {
        let mut left = bytes;
        while left > 0
            && let Some(first) = self.queue.front_mut()
        {
            let done = left.min(first.len());
            first.advance(done);
            left -= done;
            if first.is_empty() {
                self.queue.pop_front();
            }
        }
        self.took(bytes - left);
    }

    /// So many bytes went; the list's memory goes with the last of them.
    fn took(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if self.bytes == 0 {
            self.queue = VecDeque::new();
        }
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
    use proptest::prelude::*;

    use super::*;

    fn pieces(each: &[&'static str]) -> Pieces {
        let mut pieces = Pieces::new();
        pieces.extend(each.iter().copied().map(Bytes::from));
        pieces
    }

    fn rest(pieces: &Pieces) -> Vec<Vec<u8>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let slices = pieces.slices(&mut slices);
        slices.iter().map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn pieces_are_done_with_in_order() {
        let mut pieces = pieces(&["ab", "", "cde", "f"]);
        assert_eq!(rest(&pieces), [&b"ab"[..], b"cde", b"f"]);

        pieces.advance(3);
        assert_eq!(rest(&pieces), [&b"de"[..], b"f"]);

        let taken = pieces.with_first(|first| first.split_to(2));
        assert_eq!(taken.as_deref(), Some(&b"de"[..]));
        assert_eq!((rest(&pieces), pieces.len()), (vec![b"f".to_vec()], 1));

        pieces.advance(1);
        assert!(pieces.is_empty());
        assert_eq!(pieces.queue.capacity(), 0);
        assert_eq!(pieces.with_first(|_| ()), None);
    }

    #[test]
    fn one_write_has_only_so_many_slices() {
        let mut pieces = Pieces::new();
        pieces.extend((0..2 * SLICES).map(|_| Bytes::from("x")));
        let mut slices = [IoSlice::new(&[]); SLICES];
        assert_eq!(pieces.slices(&mut slices).len(), SLICES);
    }

    #[test]
    fn small_pieces_are_joined() {
        let mut pieces = Pieces::new();
        for piece in ["ab", "cd", "efghi", "jk"] {
            pieces.join(Bytes::from(piece), 4);
        }
        assert_eq!(rest(&pieces), [&b"abcd"[..], b"efghi", b"jk"]);
        assert_eq!(pieces.len(), 11);
    }

    proptest! {
        /// However they are taken, they come as they went in, and are counted.
        #[test]
        fn nothing_is_lost_or_doubled(
            added in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20),
            steps in prop::collection::vec((any::<bool>(), 0_usize..30), 0..40),
        ) {
            let mut pieces = Pieces::new();
            let wanted = added.concat();
            pieces.extend(added.into_iter().map(Bytes::from));
            let (mut got, mut moved) = (Vec::new(), Pieces::new());
            for (read, bytes) in steps {
                let mut space = vec![0; bytes];
                let mut space = ReadBuf::new(&mut space);
                let count = if read {
                    pieces.read(&mut space)
                } else {
                    let count = pieces.move_to(bytes, &mut moved);
                    prop_assert_eq!(moved.read(&mut space), count);
                    count
                };
                prop_assert_eq!(count, bytes.min(wanted.len() - got.len()));
                got.extend_from_slice(space.filled());
                prop_assert_eq!(pieces.len(), wanted.len() - got.len());
            }
            prop_assert_eq!(&wanted[..got.len()], &got[..]);
        }
    }
}
