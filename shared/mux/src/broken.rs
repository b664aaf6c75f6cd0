//! How a connection and a stream can fail.

use std::io;

/// Why a connection broke.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The transport failed.
    #[error("{0}")]
    Transport(#[from] io::Error),
    /// The other side ended the transport in order.
    #[error("the other side hung up")]
    HungUp,
    /// The other side closed the connection, for this reason.
    #[error("closed by the other side (code {0})")]
    GoneAway(u32),
    /// The other side broke the protocol.
    #[error("the other side broke the protocol: {0}")]
    Protocol(&'static str),
    /// The other side opens and abandons streams faster than we can say so.
    #[error("the other side floods this one with streams")]
    Flood,
}

/// Why a stream failed. It is the inner error of the [`io::Error`] of a read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The other side gave the stream up, with this code.
    #[error("the stream was reset with code {0}")]
    Reset(u32),
    /// The connection is gone.
    #[error("the connection is gone")]
    Lost,
    /// This side gave the stream up or had ended it.
    #[error("the stream is closed on this side")]
    Closed,
    /// This side gave the stream up, because nobody read it while the connection was short of memory.
    #[error("the stream was not read, and memory was needed")]
    Unread,
}

impl StreamError {
    /// Finds a stream's error in a chain of causes.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match error {
            StreamError::Reset(_) | StreamError::Unread => io::ErrorKind::ConnectionReset,
            StreamError::Lost => io::ErrorKind::ConnectionAborted,
            StreamError::Closed => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, error)
    }
}
