//! A relay's way to the store that ends with its process, at whichever of its operations one likes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::pending;
use sallyport_cluster::{Answer, Entry, Key, Prefix, Revision, Store, Watch};
use tokio_util::sync::CancellationToken;

/// When a process ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crash {
    /// At this operation, counted from 1; 0 for never.
    pub(crate) at: usize,
    /// Whether the store still does what it was asked for then.
    pub(crate) done: bool,
}

/// The store, as a process has it that will crash.
#[derive(Debug)]
pub(crate) struct Crashing {
    inner: Arc<dyn Store>,
    crash: Crash,
    asked: AtomicUsize,
    crashed: CancellationToken,
}

impl Crashing {
    pub(crate) fn new(inner: Arc<dyn Store>, crash: Crash) -> Self {
        Self {
            inner,
            crash,
            asked: AtomicUsize::new(0),
            crashed: CancellationToken::new(),
        }
    }

    /// Whether and when the process has ended.
    pub(crate) fn crashed(&self) -> CancellationToken {
        self.crashed.clone()
    }

    fn step<'a, T: Send + 'a>(&'a self, answer: Answer<'a, T>) -> Answer<'a, T> {
        async move {
            let asked = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            if asked == self.crash.at {
                if self.crash.done {
                    drop(answer.await);
                }
                self.crashed.cancel();
            } else if !self.crashed.is_cancelled() {
                return answer.await;
            }
            // nobody is there to hear it
            pending().await
        }
        .boxed()
    }
}

impl Store for Crashing {
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Option<Entry>> {
        self.step(self.inner.get(key))
    }

    fn put<'a>(&'a self, key: &'a Key, value: Bytes) -> Answer<'a, Revision> {
        self.step(self.inner.put(key, value))
    }

    fn create<'a>(&'a self, key: &'a Key, value: Bytes) -> Answer<'a, Revision> {
        self.step(self.inner.create(key, value))
    }

    fn replace<'a>(&'a self, key: &'a Key, value: Bytes, known: Revision) -> Answer<'a, Revision> {
        self.step(self.inner.replace(key, value, known))
    }

    fn delete<'a>(&'a self, key: &'a Key, known: Option<Revision>) -> Answer<'a, ()> {
        self.step(self.inner.delete(key, known))
    }

    fn list<'a>(&'a self, prefix: &'a Prefix) -> Answer<'a, Vec<Entry>> {
        self.step(self.inner.list(prefix))
    }

    fn watch<'a>(&'a self, prefix: &'a Prefix) -> Answer<'a, Watch> {
        self.inner.watch(prefix)
    }
}
