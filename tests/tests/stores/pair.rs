//! Two relays that share a store and a bus.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use sallyport_cluster::{Bus, Entry, Key, Limits, Prefix, Revision, Store};
use sallyport_tests::BOUND;
use tokio::time::timeout;

/// Store and bus of one relay.
pub(crate) trait Shared: Store + Bus {}

impl<T: Store + Bus> Shared for T {}

/// The stores of two relays, and what has to live as long.
pub(crate) struct Pair {
    pub(crate) one: Arc<dyn Shared>,
    pub(crate) other: Arc<dyn Shared>,
    kept: Box<dyn Any + Send + Sync>,
}

impl Pair {
    pub(crate) fn new(
        one: Arc<dyn Shared>,
        other: Arc<dyn Shared>,
        kept: impl Any + Send + Sync,
    ) -> Self {
        let kept = Box::new(kept);
        Self { one, other, kept }
    }
}

/// One thing that every pair does.
pub(crate) type Case = for<'a> fn(&'a Pair) -> LocalBoxFuture<'a, ()>;

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _kept = &self.kept;
        f.debug_tuple("Pair")
            .field(&self.one)
            .finish_non_exhaustive()
    }
}

/// Small queues, so that their ends are reached; short enough to be waited for.
pub(crate) fn limits() -> Limits {
    Limits {
        changes: 8,
        messages: 8,
        operation: BOUND,
        ..Limits::default()
    }
}

pub(crate) fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

pub(crate) async fn put(store: &dyn Shared, at: &str, value: &str) -> Revision {
    let value = value.to_owned().into();
    store.put(&key(at), value).await.expect("put")
}

pub(crate) fn shown(entries: &[Entry]) -> Vec<(String, String)> {
    let text = |entry: &Entry| String::from_utf8_lossy(&entry.value).into_owned();
    entries
        .iter()
        .map(|entry| (entry.key.to_string(), text(entry)))
        .collect()
}

/// What comes within a bound far above any figure.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let come = timeout(BOUND, future).await;
    come.unwrap_or_else(|_elapsed| panic!("still not after {BOUND:?}: {what}"))
}

/// For a state that can only be asked for again and again.
pub(crate) async fn look_again() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}
