//! The header of a frame (yamux specification, "Framing").

use std::ops::BitOr;

/// Bytes of a header.
pub(crate) const LEN: usize = 12;

/// The only version there is.
const VERSION: u8 = 0;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Payload follows, as long as the header says.
    Data,
    /// The header's length is credit for the sender.
    Window,
    /// The header's length is a number to be echoed.
    Ping,
    /// The header's length is a reason.
    GoAway,
}

/// A set of flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags(u16);

impl Flags {
    pub(crate) const NONE: Self = Self(0);
    /// Opens a stream, or asks for an echo.
    pub(crate) const SYN: Self = Self(1);
    /// Takes a stream, or is an echo.
    pub(crate) const ACK: Self = Self(2);
    /// The sender's direction ends in order.
    pub(crate) const FIN: Self = Self(4);
    /// The sender gives the stream up.
    pub(crate) const RST: Self = Self(8);

    pub(crate) const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) flags: Flags,
    /// 0 for what concerns the connection.
    pub(crate) stream: u32,
    pub(crate) length: u32,
}

impl Header {
    pub(crate) fn encode(self) -> [u8; LEN] {
        let kind = match self.kind {
            Kind::Data => 0,
            Kind::Window => 1,
            Kind::Ping => 2,
            Kind::GoAway => 3,
        };
        let flags = self.flags.0.to_be_bytes();
        let stream = self.stream.to_be_bytes();
        let length = self.length.to_be_bytes();
        [
            VERSION, kind, flags[0], flags[1], stream[0], stream[1], stream[2], stream[3],
            length[0], length[1], length[2], length[3],
        ]
    }

    /// Reads a header back, or says what is wrong with it.
    pub(crate) const fn decode(bytes: [u8; LEN]) -> Result<Self, &'static str> {
        let [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = bytes;
        if version != VERSION {
            return Err("unknown version");
        }
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Window,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            _ => return Err("unknown kind of frame"),
        };
        Ok(Self {
            kind,
            flags: Flags(u16::from_be_bytes([f0, f1])),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_reads_back(
            kind in prop_oneof![Just(Kind::Data), Just(Kind::Window), Just(Kind::Ping), Just(Kind::GoAway)],
            flags: u16,
            stream: u32,
            length: u32,
        ) {
            let header = Header { kind, flags: Flags(flags), stream, length };
            prop_assert_eq!(Header::decode(header.encode()), Ok(header));
        }

        #[test]
        fn whatever_is_read_is_written_alike(bytes: [u8; LEN]) {
            if let Ok(header) = Header::decode(bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let header = Header {
            kind: Kind::Window,
            flags: Flags::SYN | Flags::FIN,
            stream: 0x0102_0304,
            length: 0x0506_0708,
        };
        assert_eq!(header.encode(), [0, 1, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
