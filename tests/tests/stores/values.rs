//! Values: what was acknowledged is there for everybody, and of two who change one thing one wins.

use sallyport_cluster::{ClusterError, Key, Limits, Prefix, Revision};

use crate::pair::{Pair, Shared, key, prefix, put, shown, soon};

pub(crate) async fn a_value_is_there_until_it_is_deleted(pair: &Pair) {
    let at = key("a/b");
    assert_eq!(pair.one.get(&at).await, Ok(None));

    let first = put(&*pair.one, "a/b", "1").await;
    let seen = pair.other.get(&at).await.expect("read").expect("there");
    assert_eq!(
        (seen.key, seen.value, seen.revision),
        (at.clone(), "1".into(), first)
    );

    let second = put(&*pair.other, "a/b", "2").await;
    let seen = pair.one.get(&at).await.expect("read").expect("there");
    assert_eq!((seen.value, seen.revision), ("2".into(), second));

    pair.one.delete(&at, None).await.expect("deleted");
    assert_eq!(pair.other.get(&at).await, Ok(None));
    assert_eq!(
        pair.other.delete(&at, None).await,
        Ok(()),
        "nothing is left to do"
    );
}

pub(crate) async fn compare_and_set_lets_one_win(pair: &Pair) {
    let at = key("cas/x");
    let (one, other) = tokio::join!(
        pair.one.create(&at, "one".into()),
        pair.other.create(&at, "other".into())
    );
    let first = only_one(&at, one, other);

    let (one, other) = tokio::join!(
        pair.one.replace(&at, "one".into(), first),
        pair.other.replace(&at, "other".into(), first)
    );
    only_one(&at, one, other);
}

/// What the one who won was answered; the other one was told of the conflict.
fn only_one(
    at: &Key,
    one: Result<Revision, ClusterError>,
    other: Result<Revision, ClusterError>,
) -> Revision {
    let (won, lost) = if one.is_ok() {
        (one, other)
    } else {
        (other, one)
    };
    assert_eq!(lost, Err(ClusterError::Conflict(at.clone())), "{won:?}");
    won.expect("one won")
}

/// Both count up the same number as fast as they can: each success counts, and none more.
pub(crate) async fn no_update_of_two_who_hurry_is_lost(pair: &Pair) {
    const EACH: u64 = 60;
    let at = key("cas/count");
    put(&*pair.one, "cas/count", "0").await;

    let (one, other) = tokio::join!(
        count_up(&*pair.one, &at, EACH),
        count_up(&*pair.other, &at, EACH)
    );

    let last = pair.one.get(&at).await.expect("read").expect("it is there");
    assert_eq!(last.value, (2 * EACH).to_string());
    assert_eq!(one.len() + other.len(), 120);
    let shared = one.iter().filter(|revision| other.contains(revision));
    assert_eq!(shared.count(), 0, "a revision was given twice");
}

async fn count_up(store: &dyn Shared, at: &Key, times: u64) -> Vec<Revision> {
    let mut made = Vec::new();
    let counting = async {
        for _ in 0..times {
            made.push(count_once(store, at).await);
        }
    };
    soon("all is counted", counting).await;
    made
}

async fn count_once(store: &dyn Shared, at: &Key) -> Revision {
    loop {
        let there = store.get(at).await.expect("read").expect("it is there");
        let text = std::str::from_utf8(&there.value).expect("a number");
        let next = text.parse::<u64>().expect("a number") + 1;
        let set = store
            .replace(at, next.to_string().into(), there.revision)
            .await;
        match set {
            Ok(revision) => return revision,
            Err(ClusterError::Conflict(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) async fn what_has_another_revision_is_neither_deleted_nor_replaced(pair: &Pair) {
    let at = key("cas/y");
    let conflict = Err(ClusterError::Conflict(at.clone()));
    let first = put(&*pair.one, "cas/y", "1").await;
    let second = put(&*pair.other, "cas/y", "2").await;

    assert_eq!(pair.one.delete(&at, Some(first)).await, conflict);
    assert_eq!(pair.one.delete(&at, Some(second)).await, Ok(()));
    assert_eq!(pair.other.delete(&at, Some(second)).await, conflict);
    let replaced = pair.other.replace(&at, "gone".into(), second).await;
    assert_eq!(replaced, Err(ClusterError::Conflict(at.clone())));
    assert_eq!(pair.one.get(&at).await, Ok(None));
}

pub(crate) async fn revisions_of_a_key_rise_also_over_deletions(pair: &Pair) {
    let at = key("rises");
    let mut last = None;
    for round in 0..3 {
        let made = pair.one.create(&at, "x".into()).await.expect("it is gone");
        let changed = pair.other.replace(&at, "y".into(), made).await;
        let changed = changed.expect("unchanged since");
        assert!(last < Some(made) && made < changed, "round {round}");
        last = Some(changed);
        pair.one.delete(&at, Some(changed)).await.expect("deleted");
    }
}

pub(crate) async fn a_prefix_lists_what_is_below_it_in_order(pair: &Pair) {
    for (at, value) in [
        ("s/n2", "2"),
        ("s/n1.example.org", "1"),
        ("s/n1/x", "3"),
        ("s", "4"),
        ("s2/n", "5"),
        ("s-/n", "6"),
    ] {
        put(&*pair.one, at, value).await;
    }
    put(&*pair.one, "s/gone", "0").await;
    pair.one
        .delete(&key("s/gone"), None)
        .await
        .expect("deleted");

    let below = pair.other.list(&prefix("s")).await.expect("listed");
    let expected = [("s/n1.example.org", "1"), ("s/n1/x", "3"), ("s/n2", "2")];
    let expected = expected.map(|(at, value)| (at.to_owned(), value.to_owned()));
    assert_eq!(shown(&below), expected);
    assert_eq!(
        pair.other.list(&Prefix::all()).await.expect("listed").len(),
        6
    );
    assert_eq!(pair.other.list(&prefix("none")).await, Ok(Vec::new()));
}

pub(crate) async fn what_is_too_large_is_refused_and_the_largest_is_kept(pair: &Pair) {
    let most = Limits::default().value;
    let largest: bytes::Bytes = vec![7; most].into();
    let at = key("large");

    pair.one.put(&at, largest.clone()).await.expect("it fits");
    let seen = pair.other.get(&at).await.expect("read").expect("there");
    assert!(seen.value == largest, "it came back as it was");
    let refused = pair.one.put(&at, vec![7; most + 1].into()).await;
    let bytes = most + 1;
    assert_eq!(refused, Err(ClusterError::TooLarge { bytes, most }));
}

pub(crate) async fn any_bytes_are_kept_under_any_key(pair: &Pair) {
    let all: Vec<u8> = (0..=u8::MAX).collect();
    let long = ["w".repeat(128), "x".repeat(128), "y".repeat(128)].join("/");
    for at in ["A-_.z/0", ".", "_", "-/..", "a.b/c.d", &long] {
        for value in [Vec::new(), all.clone()] {
            pair.one
                .put(&key(at), value.clone().into())
                .await
                .expect("put");
            let seen = pair
                .other
                .get(&key(at))
                .await
                .expect("read")
                .expect("there");
            assert_eq!(seen.value, value, "{at}");
        }
    }
    let listed = pair.other.list(&Prefix::all()).await.expect("listed");
    assert_eq!(listed.len(), 6);
}
