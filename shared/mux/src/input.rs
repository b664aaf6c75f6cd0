//! Frames on their way in, in whatever pieces they arrive.

use crate::header::{self, Header, Kind};

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event<'b> {
    /// A frame of data begins.
    Data(Header),
    /// Some of its payload.
    Payload(&'b [u8]),
    /// It is complete.
    Complete(Header),
    /// A frame without payload.
    Bare(Header),
}

/// Reads frames piece by piece and keeps no payload.
#[derive(Debug, Default)]
pub(crate) struct Input {
    header: [u8; header::LEN],
    filled: usize,
    /// The frame of data that is arriving, and how much of it is still to come.
    data: Option<(Header, u32)>,
}

impl Input {
    /// Takes the next event from the front of `bytes`; `None` once they are used up.
    pub(crate) fn next<'b>(
        &mut self,
        bytes: &mut &'b [u8],
    ) -> Result<Option<Event<'b>>, &'static str> {
        if let Some((header, left)) = self.data {
            return Ok(self.payload(header, left, bytes));
        }
        let wanted = header::LEN - self.filled;
        let (came, rest) = bytes.split_at(wanted.min(bytes.len()));
        *bytes = rest;
        let filled = self.filled + came.len();
        if let Some(place) = self.header.get_mut(self.filled..filled) {
            place.copy_from_slice(came);
        }
        self.filled = filled;
        if filled < header::LEN {
            return Ok(None);
        }
        self.filled = 0;
        let header = Header::decode(self.header)?;
        if header.kind != Kind::Data {
            return Ok(Some(Event::Bare(header)));
        }
        self.data = Some((header, header.length));
        Ok(Some(Event::Data(header)))
    }

    fn payload<'b>(
        &mut self,
        header: Header,
        left: u32,
        bytes: &mut &'b [u8],
    ) -> Option<Event<'b>> {
        if left == 0 {
            self.data = None;
            return Some(Event::Complete(header));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let (payload, rest) = bytes.split_at(most.min(bytes.len()));
        if payload.is_empty() {
            return None;
        }
        *bytes = rest;
        let came = u32::try_from(payload.len()).unwrap_or(left);
        self.data = Some((header, left - came));
        Some(Event::Payload(payload))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::header::Flags;

    /// Everything that arrives when `bytes` come in pieces of these sizes, payloads joined.
    fn read(bytes: &[u8], sizes: &[usize]) -> Result<Vec<(Header, Vec<u8>)>, &'static str> {
        let mut input = Input::default();
        let mut frames = Vec::new();
        let mut payload = Vec::new();
        let mut sizes = sizes.iter().cycle();
        let mut rest = bytes;
        while !rest.is_empty() {
            let size = sizes.next().copied().unwrap_or(1).clamp(1, rest.len());
            let (mut piece, later) = rest.split_at(size);
            rest = later;
            while let Some(event) = input.next(&mut piece)? {
                match event {
                    Event::Data(_) => payload.clear(),
                    Event::Payload(some) => payload.extend_from_slice(some),
                    Event::Complete(header) => frames.push((header, payload.clone())),
                    Event::Bare(header) => frames.push((header, Vec::new())),
                }
            }
            assert!(piece.is_empty());
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            frames in prop::collection::vec((any::<bool>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..300)), 0..10),
            sizes in prop::collection::vec(1_usize..40, 1..10),
        ) {
            let mut bytes = Vec::new();
            let mut wanted = Vec::new();
            for (data, stream, payload) in frames {
                let (kind, payload) = if data { (Kind::Data, payload) } else { (Kind::Window, Vec::new()) };
                let length = u32::try_from(payload.len()).expect("short");
                let header = Header { kind, flags: Flags::NONE, stream, length };
                bytes.extend_from_slice(&header.encode());
                bytes.extend_from_slice(&payload);
                wanted.push((header, payload));
            }
            prop_assert_eq!(read(&bytes, &sizes), Ok(wanted));
        }

        #[test]
        fn garbage_does_no_more_than_fail(bytes: Vec<u8>, sizes in prop::collection::vec(1_usize..40, 1..10)) {
            drop(read(&bytes, &sizes));
        }
    }
}
