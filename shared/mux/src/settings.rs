//! The bounds of a connection.

/// The window that every stream begins with, in bytes (yamux specification, "Flow control").
pub(crate) const INITIAL_WINDOW: u32 = 256 * 1024;

/// The bounds of a connection. All are in bytes or counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Streams of the other side that wait to be accepted; more are reset. Default 256.
    pub backlog: usize,
    /// The code with which those are reset. Default 0.
    pub backlog_code: u32,
    /// The code with which a stream is reset that nobody reads while the budget is spent. Default 0.
    pub unread_code: u32,
    /// The largest window of one stream. Default 16 MiB.
    pub window: u32,
    /// What the windows of all streams together may grow beyond their first 256 KiB. Default 64 MiB.
    pub budget: usize,
    /// Bytes received and not read, of all streams together. Default 64 MiB.
    pub unread: usize,
    /// Bytes of one stream taken from its writer and not yet sent, as many full frames as fit. Default 128 KiB.
    pub unsent: usize,
    /// Words about abandoned streams that wait to be sent; more end the connection. Default 8,192.
    pub resets: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backlog: 256,
            backlog_code: 0,
            unread_code: 0,
            window: 16 * 1024 * 1024,
            budget: 64 * 1024 * 1024,
            unread: 64 * 1024 * 1024,
            unsent: 128 * 1024,
            resets: 8_192,
        }
    }
}
