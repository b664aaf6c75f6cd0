//! The embedded store: the suite, and what only a file can do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;

use sallyport_cluster::{Change, Embedded, OpenError, STORE_FILE, Store as _};
use sallyport_tests::program;
use tempfile::TempDir;

use crate::conformance;
use crate::pair::{Pair, limits, prefix, put};

conformance!(pair());

/// Within one process two users of the store have the same one.
pub(crate) fn pair() -> Pair {
    let (dir, store) = opened();
    let store = Arc::new(store);
    Pair::new(Arc::clone(&store) as _, store, dir)
}

fn opened() -> (TempDir, Embedded) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(&dir.path().join(STORE_FILE), limits()).expect("a store");
    (dir, store)
}

#[tokio::test]
async fn what_was_written_is_there_when_it_is_opened_again() {
    let (dir, store) = opened();
    let last = put(&store, "a/b", "kept").await;
    drop(store);

    let store = Embedded::open(&dir.path().join(STORE_FILE), limits()).expect("a store");

    let entries = store.list(&prefix("a")).await.expect("listed");
    assert_eq!(entries.first().map(|entry| entry.revision), Some(last));
    assert!(put(&store, "a/c", "more").await > last);
}

#[test]
fn a_second_process_is_told_what_to_do() {
    let (dir, _store) = opened();
    let mut second = Command::new(program("store-writer"));
    let said = second.arg(dir.path().join(STORE_FILE)).arg("1").output();
    let said = said.expect("it runs");

    assert!(!said.status.success());
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(text.contains("in use by another process"), "{text}");
    assert!(text.contains("SALLYPORT_STATE_DIR"), "{text}");
}

#[test]
fn the_file_is_closed_to_others_and_refused_if_it_is_not() {
    let (dir, store) = opened();
    let path = dir.path().join(STORE_FILE);
    let mode = fs::metadata(&path).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(store);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
    let refused = Embedded::open(&path, limits());
    assert!(matches!(refused, Err(OpenError::File(_))), "{refused:?}");
}

#[test]
fn what_is_no_store_is_refused_and_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(STORE_FILE);
    fs::write(&path, "a text that somebody put there").expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");

    let refused = Embedded::open(&path, limits()).expect_err("no store");

    assert!(refused.to_string().contains("remove the file"), "{refused}");
    let kept = fs::read_to_string(&path).expect("the file");
    assert_eq!(kept, "a text that somebody put there");
}

#[tokio::test]
async fn a_watcher_whose_queue_is_full_is_given_a_snapshot() {
    let (_dir, store) = opened();
    let mut watch = store.watch(&prefix("w")).await.expect("a watch");
    assert_eq!(watch.next().await, Ok(Change::Snapshot(Vec::new())));

    for n in 0..=limits().changes {
        put(&store, &format!("w/{n}"), "x").await;
    }

    let Ok(Change::Snapshot(all)) = watch.next().await else {
        panic!("it fell behind");
    };
    assert_eq!(all.len(), limits().changes + 1);
    put(&store, "w/next", "y").await;
    let Ok(Change::Put(next)) = watch.next().await else {
        panic!("what the snapshot shows is not told again");
    };
    assert_eq!(next.key.as_str(), "w/next");
}
