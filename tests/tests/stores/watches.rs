//! Watches: first all, then what changes, and never a state that is not the newest in the end.

use std::collections::BTreeMap;

use bytes::Bytes;
use sallyport_cluster::{Change, Key, Watch};

use crate::pair::{Pair, key, prefix, put, shown, soon};

/// What a watcher knows.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeMap<Key, Bytes>);

impl Known {
    pub(crate) fn learn(&mut self, change: Change) {
        match change {
            Change::Snapshot(entries) => {
                let entries = entries.into_iter().map(|entry| (entry.key, entry.value));
                self.0 = entries.collect();
            }
            Change::Put(entry) => drop(self.0.insert(entry.key, entry.value)),
            Change::Deleted(key) => drop(self.0.remove(&key)),
        }
    }

    pub(crate) fn at(&self, at: &str) -> Option<&[u8]> {
        self.0.get(&key(at)).map(Bytes::as_ref)
    }

    /// Learns until `at` is there with this value, or is gone.
    pub(crate) async fn until(&mut self, watch: &mut Watch, at: &str, value: Option<&str>) {
        while self.at(at) != value.map(str::as_bytes) {
            self.learn(next(watch).await);
        }
    }
}

async fn next(watch: &mut Watch) -> Change {
    soon("the watch tells something", watch.next())
        .await
        .expect("the watch goes on")
}

pub(crate) async fn a_watch_tells_what_is_there_and_then_what_changes(pair: &Pair) {
    put(&*pair.one, "w/a", "1").await;
    put(&*pair.one, "v/a", "1").await;
    let mut watch = pair.other.watch(&prefix("w")).await.expect("a watch");

    let Change::Snapshot(first) = next(&mut watch).await else {
        panic!("a snapshot comes first");
    };
    assert_eq!(shown(&first), [("w/a".to_owned(), "1".to_owned())]);

    put(&*pair.one, "v/b", "not watched").await;
    let revision = put(&*pair.one, "w/b.c", "2").await;
    let change = next(&mut watch).await;
    let Change::Put(entry) = change else {
        panic!("{change:?}");
    };
    assert_eq!(
        (entry.key, entry.value, entry.revision),
        (key("w/b.c"), "2".into(), revision)
    );

    pair.one.delete(&key("w/a"), None).await.expect("deleted");
    assert_eq!(next(&mut watch).await, Change::Deleted(key("w/a")));
}

pub(crate) async fn a_watch_sees_every_key_in_its_last_state(pair: &Pair) {
    let mut watch = pair.other.watch(&prefix("w")).await.expect("a watch");
    let mut known = Known::default();
    let writing = async {
        for round in 0..20 {
            for name in ["a", "b", "c"] {
                put(&*pair.one, &format!("w/{name}"), &round.to_string()).await;
            }
        }
        pair.one.delete(&key("w/b"), None).await.expect("deleted");
        put(&*pair.one, "w/end", "1").await;
    };
    let ((), ()) = tokio::join!(writing, known.until(&mut watch, "w/end", Some("1")));

    assert_eq!(known.at("w/a"), Some(b"19".as_slice()));
    assert_eq!(known.at("w/b"), None);
    assert_eq!(known.at("w/c"), Some(b"19".as_slice()));
}

pub(crate) async fn a_slow_watcher_ends_up_with_what_is_there(pair: &Pair) {
    put(&*pair.one, "w/gone", "1").await;
    let mut watch = pair.other.watch(&prefix("w")).await.expect("a watch");
    let mut known = Known::default();
    known.until(&mut watch, "w/gone", Some("1")).await;

    // more than wait for one watcher
    for n in 0..100 {
        put(&*pair.one, &format!("w/k{n}"), &n.to_string()).await;
    }
    pair.one
        .delete(&key("w/gone"), None)
        .await
        .expect("deleted");
    put(&*pair.one, "w/end", "1").await;

    known.until(&mut watch, "w/end", Some("1")).await;
    assert_eq!(known.at("w/gone"), None);
    for n in 0..100 {
        assert_eq!(known.at(&format!("w/k{n}")), Some(n.to_string().as_bytes()));
    }
}
