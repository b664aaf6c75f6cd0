//! How many streams of this gateway a session carries, whichever ways they take. A tunnel's own count does not say it: a
//! hop's tunnel carries streams of many sessions, and a session's streams may be on many tunnels.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The streams that one session carries now; all clones count the same ones.
#[derive(Debug, Clone, Default)]
pub struct Load(Arc<AtomicUsize>);

impl Load {
    /// A session that carries so many for good.
    #[cfg(test)]
    pub fn of(streams: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(streams)))
    }

    /// Streams that are open now.
    pub fn streams(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one more for as long as what it returns lives.
    #[must_use = "it is counted only while this lives"]
    pub fn add(&self) -> Carrying {
        self.0.fetch_add(1, Ordering::Relaxed);
        Carrying(self.clone())
    }
}

/// One stream that counts.
#[derive(Debug)]
pub struct Carrying(Load);

impl Drop for Carrying {
    fn drop(&mut self) {
        let Self(Load(streams)) = self;
        streams.fetch_sub(1, Ordering::Relaxed);
    }
}
