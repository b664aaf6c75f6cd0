//! Every bound of store and bus.

use std::time::Duration;

use crate::error::ClusterError;

/// Bounds that all relays of a cluster share with its broker, and bounds of this relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest value, in bytes; a broker must take messages a little longer.
    pub value: usize,
    /// Longest message of the bus, in bytes.
    pub message: usize,
    /// How long one operation may take.
    pub operation: Duration,
    /// Operations of one relay that are under way; further ones wait, within their own time.
    pub operations: usize,
    /// Changes that wait for a watcher before it is given a new snapshot instead.
    pub changes: usize,
    /// Messages that wait for a subscriber before some are dropped and it is told so.
    pub messages: usize,
}

impl Limits {
    /// Refuses a value that is too long.
    pub(crate) const fn fits(self, value: &[u8]) -> Result<(), ClusterError> {
        within(value.len(), self.value)
    }

    /// Refuses a message that is too long.
    pub(crate) const fn carries(self, payload: &[u8]) -> Result<(), ClusterError> {
        within(payload.len(), self.message)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            value: 512 << 10,
            message: 256 << 10,
            operation: Duration::from_secs(5),
            operations: 64,
            changes: 1024,
            messages: 256,
        }
    }
}

const fn within(bytes: usize, most: usize) -> Result<(), ClusterError> {
    if bytes > most {
        return Err(ClusterError::TooLarge { bytes, most });
    }
    Ok(())
}
