//! Bytes that a stream has carried so far.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Live byte counts of one stream, read by listings and metrics while it runs.
#[derive(Debug, Default)]
pub struct Meter {
    up: AtomicU64,
    down: AtomicU64,
    promoted: AtomicBool,
}

impl Meter {
    /// A meter at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            promoted: AtomicBool::new(false),
        }
    }

    /// Bytes from the client that the session's side has taken.
    #[must_use]
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Bytes from the session that the client's side has taken.
    #[must_use]
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// Adds bytes that went to the session, for carriers that do not use [`run`](crate::run()).
    pub fn add_up(&self, bytes: u64) {
        self.up.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds bytes that went to the client, for carriers that do not use [`run`](crate::run()).
    pub fn add_down(&self, bytes: u64) {
        self.down.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether a data connection carries the stream now.
    #[must_use]
    pub fn is_promoted(&self) -> bool {
        self.promoted.load(Ordering::Relaxed)
    }

    /// A data connection begins to carry the stream, or has ended to.
    pub fn promote(&self, promoted: bool) {
        self.promoted.store(promoted, Ordering::Relaxed);
    }

    pub(crate) const fn up_count(&self) -> &AtomicU64 {
        &self.up
    }

    pub(crate) const fn down_count(&self) -> &AtomicU64 {
        &self.down
    }
}
