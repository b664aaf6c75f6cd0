//! Why a gate ends a connection, and what it says then.

use std::{fmt, io};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use super::Bad;

/// Why a gate ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// A request of HTTP/1.1 was refused with an answer, or with a reset if another answer was
    /// under way.
    Refused(Bad),
    /// No byte after the handshake (`Limits::first_byte`).
    NoFirstByte,
    /// No preface of HTTP/2, or something else in its place (`Limits::first_byte`).
    NoPreface,
    /// No further request (`Limits::keep_alive`).
    KeepAlive,
    /// Nothing moved in an exchange (`Limits::idle`).
    Idle,
    /// The client finished sending, and there was nothing to send to it (`Limits::half_closed`).
    HalfClosed,
    /// The client did not take what was sent (`Limits::write_stall`).
    WriteStall,
    /// A frame or a header block of HTTP/2 did not end (`Limits::head`).
    SlowFrame,
    /// A header block of HTTP/2 beyond `Limits::head_bytes`.
    HeaderBlockTooLarge,
    /// More RST_STREAM than `Limits::h2_resets`.
    TooManyResets,
    /// More frames that move nothing than `Limits::h2_glitches`.
    TooManyGlitches,
    /// More bytes without payload than `Limits::h2_overhead` allows.
    TooMuchOverhead,
}

impl Ended {
    /// What the log says.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Refused(bad) => bad.words(),
            Self::NoFirstByte => "no byte after the handshake",
            Self::NoPreface => "no preface of HTTP/2",
            Self::KeepAlive => "no further request",
            Self::Idle => "nothing moved for too long",
            Self::HalfClosed => "the client finished sending and nothing was left for it",
            Self::WriteStall => "the client takes no bytes",
            Self::SlowFrame => "frame or header block too slow",
            Self::HeaderBlockTooLarge => "header block too large",
            Self::TooManyResets => "too many streams reset",
            Self::TooManyGlitches => "too many frames that move nothing",
            Self::TooMuchOverhead => "too many bytes without payload",
        }
    }

    /// Whether the client did something wrong, rather than just nothing.
    #[must_use]
    pub const fn is_fault(self) -> bool {
        !matches!(
            self,
            Self::KeepAlive | Self::Idle | Self::HalfClosed | Self::NoFirstByte
        )
    }

    /// Whether there is nobody left to read last words.
    pub(super) const fn is_abrupt(self) -> bool {
        matches!(self, Self::Idle | Self::HalfClosed | Self::WriteStall)
    }

    /// Last words of HTTP/1.1, with the id of the refusal.
    pub(super) fn answer(self, request_id: &str) -> Bytes {
        if let Self::Refused(bad) = self {
            bad.answer(request_id)
        } else {
            Bytes::new()
        }
    }

    /// Last words of HTTP/2: GOAWAY (RFC 9113 §6.8).
    pub(super) fn go_away(self, last_stream: u32) -> Bytes {
        const LENGTH: [u8; 3] = [0, 0, 8];
        const GOAWAY: u8 = 7;
        let Some(error) = self.error() else {
            return Bytes::new();
        };
        let mut frame = BytesMut::with_capacity(17);
        frame.put_slice(&LENGTH);
        frame.put_slice(&[GOAWAY, 0]);
        frame.put_u32(0);
        frame.put_u32(last_stream);
        frame.put_u32(error);
        frame.freeze()
    }

    /// Error code of GOAWAY (RFC 9113 §7); none to someone who does not speak HTTP/2.
    const fn error(self) -> Option<u32> {
        const NO_ERROR: u32 = 0x0;
        const ENHANCE_YOUR_CALM: u32 = 0xb;
        if matches!(self, Self::NoPreface) {
            None
        } else if matches!(self, Self::KeepAlive) {
            Some(NO_ERROR)
        } else {
            Some(ENHANCE_YOUR_CALM)
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl std::error::Error for Ended {}

impl From<Ended> for io::Error {
    fn from(ended: Ended) -> Self {
        Self::new(io::ErrorKind::TimedOut, ended)
    }
}

/// Something that must have happened by a certain time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) why: Ended,
}

impl Due {
    pub(super) fn earlier(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }
}
