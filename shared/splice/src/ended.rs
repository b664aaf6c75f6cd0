//! How a stream ended.

use std::fmt;
use std::io;

use crate::Codes;

/// One of the two ends of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who asked for the stream.
    Client,
    /// Who serves it.
    Session,
}

impl Side {
    /// The one across.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Session,
            Self::Session => Self::Client,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Session => "session",
        })
    }
}

/// A finished stream: what it carried and who ended it.
#[derive(Debug)]
pub struct Ended {
    /// Bytes from the client that the session's side took.
    pub up: u64,
    /// Bytes from the session that the client's side took.
    pub down: u64,
    /// Who or what ended it.
    pub by: EndedBy,
}

/// Who or what ended a stream.
#[derive(Debug)]
pub enum EndedBy {
    /// Both sides said all they had to say.
    Both,
    /// The client's side failed or broke off.
    Client(io::Error),
    /// The session's side failed or broke off.
    Session(io::Error),
    /// No byte went either way for [`Limits::idle`](crate::Limits::idle).
    Idle,
    /// Both sides had finished, and one did not take the rest within
    /// [`Limits::closing`](crate::Limits::closing).
    Closing,
    /// That side took no byte for [`Limits::write_stall`](crate::Limits::write_stall).
    WriteStall(Side),
}

impl EndedBy {
    /// The word for logs and metrics.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Client(_) => "client",
            Self::Session(_) => "session",
            Self::Idle => "idle",
            Self::Closing => "closing",
            Self::WriteStall(Side::Client) => "client_stalled",
            Self::WriteStall(Side::Session) => "session_stalled",
        }
    }

    pub(crate) const fn code(&self, codes: &Codes) -> u32 {
        match self {
            Self::Both => codes.stopped,
            Self::Client(_) | Self::WriteStall(Side::Client) => codes.client_gone,
            Self::Session(_) | Self::WriteStall(Side::Session) => codes.session_gone,
            Self::Idle | Self::Closing => codes.idle,
        }
    }
}
