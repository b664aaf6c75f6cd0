use serde_json::json;

use super::*;
use crate::limits::Limits;
use crate::signed::ClusterKey;
use crate::{Embedded, STORE_FILE};

struct World {
    store: Embedded,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Embedded::open(&dir.path().join(STORE_FILE), Limits::default());
        Self {
            store: store.expect("it opens"),
            _dir: dir,
        }
    }

    fn epochs(&self, seal: Seal, floor: Option<Applied>) -> Epochs {
        Epochs::new(Arc::new(self.store.clone()), seal, floor, "n1").expect("keys")
    }

    fn plain(&self) -> Epochs {
        self.epochs(Seal::none(), None)
    }

    /// How many parts there are in the store.
    async fn parts(&self) -> usize {
        let prefix = "config-parts".parse().expect("a prefix");
        self.store.list(&prefix).await.expect("listed").len()
    }

    async fn pointer(&self) -> Entry {
        let place = "config/current".parse().expect("a key");
        self.store.get(&place).await.expect("read").expect("there")
    }

    async fn put_pointer(&self, value: Bytes) {
        let place = "config/current".parse().expect("a key");
        self.store.put(&place, value).await.expect("put");
    }
}

fn metrics(source: &str) -> Bundle {
    let objects =
        json!({ "metrics": { "m": { "kind": "javascript", "source": source, "enabled": true } } });
    Bundle::from_value(json!({ "format": "sallyport-config/1", "objects": objects })).expect("good")
}

fn keep(count: u64) -> Bundle {
    let objects = json!({ "settings": { "history": { "keep": count } } });
    Bundle::from_value(json!({ "format": "sallyport-config/1", "objects": objects })).expect("good")
}

/// Of several parts.
fn large(fill: &str) -> Bundle {
    let metric = |number: usize| {
        let object =
            json!({ "kind": "javascript", "source": fill.repeat(60 << 10), "enabled": true });
        (format!("m{number}"), object)
    };
    let objects = json!({ "metrics": (0..10).map(metric).collect::<Object>() });
    Bundle::from_value(json!({ "format": "sallyport-config/1", "objects": objects })).expect("good")
}

fn seal(secrets: &[&str]) -> Seal {
    let key = |secret: &&str| ClusterKey::new(secret, secret.repeat(32).as_bytes(), None);
    let keys: Result<Vec<_>, _> = secrets.iter().map(key).collect();
    Seal::with(&keys.expect("long enough"))
}

async fn imported(epochs: &Epochs, bundle: &Bundle) -> u64 {
    let outcome = epochs.import(bundle, false).await.expect("applied");
    assert!(outcome.applied);
    outcome.epoch
}

async fn source(epochs: &Epochs) -> String {
    let now = epochs.newest().await.expect("read").expect("there");
    let object = now.bundle.object("metrics", "m").cloned();
    object.expect("there")["source"]
        .as_str()
        .expect("text")
        .to_owned()
}

fn script(name: &str, source: Option<&str>) -> Put {
    let object = source.map(|source| json!({ "kind": "javascript", "source": source }));
    Put {
        kind: "scripts".to_owned(),
        name: name.to_owned(),
        object: object.and_then(|object| object.as_object().cloned()),
    }
}

#[tokio::test]
async fn one_object_is_put_and_taken_away_and_all_else_stays() {
    let world = World::new();
    let epochs = world.plain();
    imported(&epochs, &metrics("1")).await;
    let first = epochs.put(&script("mine", Some("() => 1")), false).await;
    let first = first.expect("put");
    assert_eq!((first.epoch, first.differences.len()), (2, 1));
    let second = epochs.put(&script("mine", Some("() => 2")), false).await;
    assert_eq!(second.expect("put").epoch, 3);
    let was = epochs.at(2).await.expect("kept");
    let was = was.object("scripts", "mine").expect("there")["source"].clone();
    assert_eq!(
        (was, source(&epochs).await),
        (json!("() => 1"), "1".to_owned())
    );

    let chain = json!({ "scripts": ["mine"] });
    let chain = Put {
        kind: "chains".to_owned(),
        name: "start".to_owned(),
        object: chain.as_object().cloned(),
    };
    assert!(epochs.put(&chain, false).await.expect("put").applied);
    let refused = epochs.put(&script("mine", None), false).await;
    let refused = refused.expect_err("a chain needs it").to_string();
    assert!(refused.contains("there is no script `mine`"), "{refused}");
    let refused = epochs.put(&script("get-gpu", Some("1")), true).await;
    assert!(matches!(refused, Err(EpochError::Bundle(_))), "{refused:?}");
    let refused = epochs.put(&script("yours", None), false).await;
    let refused = refused.expect_err("not there").to_string();
    assert_eq!(refused, "there is no yours among the scripts");
    assert!(matches!(
        epochs.at(9).await,
        Err(EpochError::NoEpoch { .. })
    ));
}

#[tokio::test]
async fn each_change_is_an_epoch_and_a_rollback_is_one_too() {
    let world = World::new();
    let epochs = world.plain();
    assert_eq!(epochs.newest().await.expect("read"), None);
    assert_eq!(imported(&epochs, &metrics("1")).await, 1);
    assert_eq!(imported(&epochs, &metrics("2")).await, 2);

    let same = epochs
        .import(&metrics("2"), false)
        .await
        .expect("nothing to do");
    assert!(!same.applied && same.epoch == 2);
    let dry = epochs
        .import(&metrics("3"), true)
        .await
        .expect("only looked at");
    assert!(!dry.applied && dry.epoch == 2 && dry.differences[0].change == Change::Changed);
    assert_eq!(source(&epochs).await, "2");

    let back = epochs.rollback(1, false).await.expect("kept");
    assert_eq!((back.epoch, source(&epochs).await.as_str()), (3, "1"));
    let history = epochs.history().await.expect("read");
    let shown: Vec<_> = history
        .iter()
        .map(|record| (record.epoch, record.from))
        .collect();
    assert_eq!(shown, [(1, None), (2, None), (3, Some(1))]);
    let none = epochs.rollback(9, false).await.expect_err("there is none");
    assert!(none.to_string().contains("there are: 1, 2, 3"), "{none}");
}

#[tokio::test]
async fn so_many_are_kept_and_nothing_else_is_left() {
    let world = World::new();
    let epochs = world.plain();
    imported(&epochs, &keep(3)).await;
    for number in 0..9 {
        imported(&epochs, &metrics(&number.to_string())).await;
    }
    let kept: Vec<_> = epochs
        .history()
        .await
        .expect("read")
        .iter()
        .map(|record| record.epoch)
        .collect();
    assert_eq!(kept, [8, 9, 10]);
    assert_eq!(world.parts().await, 3);

    // what a rollback points to again outlives its first epoch
    epochs.rollback(8, false).await.expect("kept");
    imported(&epochs, &metrics("x")).await;
    epochs
        .rollback(11, false)
        .await
        .expect("its content is there");
    assert_eq!(source(&epochs).await, "6");
}

#[tokio::test]
async fn of_two_who_hurry_one_is_told_and_leaves_nothing() {
    let world = World::new();
    let (one, other) = (world.plain(), world.plain());
    imported(&one, &metrics("0")).await;
    let (first, second) = (metrics("1"), metrics("2"));
    // both read the same pointer before either moves it
    let base = other.base().await.expect("read");
    let content = other.write(&second, base.revision).await.expect("written");
    imported(&one, &first).await;

    let late = other.point(&base, &second, content, None).await;

    assert!(matches!(late, Err(EpochError::Changed)), "{late:?}");
    assert_eq!(source(&one).await, "1");
    // what one who was killed there leaves goes with the next change
    imported(&one, &metrics("3")).await;
    assert_eq!(world.parts().await, 3);
}

#[tokio::test]
async fn who_writes_for_the_pointer_as_it_is_now_is_not_swept() {
    let world = World::new();
    let (one, other) = (world.plain(), world.plain());
    imported(&one, &metrics("1")).await;
    let revision = world.pointer().await.revision;
    let base = other.base().await.expect("read");
    let content = other
        .write(&metrics("2"), base.revision)
        .await
        .expect("written");

    one.sweep(&BTreeSet::new(), revision).await.expect("swept");

    let epoch = other.point(&base, &metrics("2"), content, None).await;
    assert_eq!(epoch.expect("nothing is missing"), 2);
    assert_eq!(source(&one).await, "2");
}

#[tokio::test]
async fn a_large_one_has_parts_and_a_missing_or_altered_part_is_named() {
    let world = World::new();
    let epochs = world.plain();
    imported(&epochs, &large("a")).await;
    assert_eq!(world.parts().await, 3);
    let first = world.pointer().await.value;
    let now = epochs.newest().await.expect("read").expect("there");
    assert_eq!(*now.bundle, Bundle::empty().with(&large("a")));

    let prefix = "config-parts".parse().expect("a prefix");
    let part = world.store.list(&prefix).await.expect("listed").remove(1);
    world
        .store
        .put(&part.key, Bytes::from_static(b"x"))
        .await
        .expect("put");
    let altered = epochs.newest().await.expect_err("altered").to_string();
    assert!(altered.contains("something else"), "{altered}");
    world.store.delete(&part.key, None).await.expect("deleted");
    let missing = epochs.newest().await.expect_err("missing").to_string();
    assert!(missing.contains("a part is missing"), "{missing}");

    // what is not spoken of would be lost
    let partly = epochs.import(&metrics("1"), false).await;
    assert!(
        matches!(partly, Err(EpochError::Damaged { .. })),
        "{partly:?}"
    );
    assert_eq!(world.pointer().await.value, first);
    let all = Bundle::empty().with(&metrics("1"));
    assert_eq!(
        (
            imported(&epochs, &all).await,
            source(&epochs).await.as_str()
        ),
        (2, "1")
    );
}

#[tokio::test]
async fn from_a_damaged_one_there_is_a_way_back() {
    let world = World::new();
    let epochs = world.plain();
    imported(&epochs, &metrics("1")).await;
    imported(&epochs, &metrics("2")).await;
    let damaged = epochs.history().await.expect("read").remove(1).content.set;
    let part = format!("config-parts/{damaged}/0").parse().expect("a key");
    world.store.delete(&part, None).await.expect("deleted");
    assert!(matches!(
        epochs.holding().await,
        Err(EpochError::Damaged { .. })
    ));

    let back = epochs.rollback(1, false).await.expect("that one is whole");

    assert_eq!((back.epoch, source(&epochs).await.as_str()), (3, "1"));
}

#[tokio::test]
async fn what_is_not_signed_with_a_key_of_the_cluster_is_not_believed() {
    let world = World::new();
    let ours = world.epochs(seal(&["a"]), None);
    imported(&ours, &metrics("1")).await;
    let accepted = ours.newest().await.expect("read");

    let (forged, plain) = (World::new(), World::new());
    imported(&forged.epochs(seal(&["z"]), None), &metrics("evil")).await;
    imported(&plain.plain(), &metrics("evil")).await;
    let values = [forged.pointer().await.value, plain.pointer().await.value];
    for value in values {
        world.put_pointer(value).await;
        let read = world.epochs(seal(&["a"]), accepted.clone()).newest().await;
        assert!(matches!(read, Err(EpochError::Distrust(_))), "{read:?}");
    }

    // who has accepted something can mend the store with it
    let mending = world.epochs(seal(&["a"]), accepted);
    assert_eq!(
        mending
            .holding()
            .await
            .expect("as accepted")
            .map(|now| now.epoch),
        Some(1)
    );
    assert_eq!(imported(&mending, &metrics("1")).await, 2);
    assert_eq!(source(&ours).await, "1");
}

#[tokio::test]
async fn what_was_accepted_is_not_gone_back_on() {
    let world = World::new();
    imported(&world.epochs(seal(&["a"]), None), &metrics("1")).await;
    let old = world.pointer().await.value;
    imported(&world.epochs(seal(&["a"]), None), &metrics("2")).await;
    let accepted = world
        .epochs(seal(&["a"]), None)
        .newest()
        .await
        .expect("read");

    world.put_pointer(old).await;

    let here = world.epochs(seal(&["a"]), accepted.clone());
    let read = here.newest().await;
    assert!(
        matches!(read, Err(EpochError::Older { epoch: 1, floor: 2 })),
        "{read:?}"
    );
    // by an order of somebody with the keys it is, as a new epoch
    let back = here.rollback(1, false).await.expect("it is kept");
    assert_eq!(back.epoch, 3);
    let here = world.epochs(seal(&["a"]), accepted);
    assert_eq!(source(&here).await, "1");
    let mut other = here.newest().await.expect("read");
    if let Some(other) = &mut other {
        other.sha256 = "of another epoch 3".to_owned();
    }
    let read = world.epochs(seal(&["a"]), other).newest().await;
    assert!(matches!(read, Err(EpochError::Older { .. })), "{read:?}");
}

#[tokio::test]
async fn nobody_makes_the_last_epoch_that_there_is() {
    let world = World::new();
    // it remembers what it has seen
    let seal = seal(&["a"]);
    imported(&world.epochs(seal.clone(), None), &metrics("1")).await;
    let accepted = world.epochs(seal.clone(), None).newest().await;
    let accepted = accepted.expect("read");
    let here = || world.epochs(seal.clone(), accepted.clone());
    let (_, mut records) = here().pointer().await.expect("read").expect("there");
    for (epoch, floor) in [
        (u64::MAX, None),
        (u64::MAX, accepted.clone()),
        (2 + LEAP, accepted.clone()),
    ] {
        records[0].epoch = epoch;
        let sealed = here().sealed(epoch, records.clone()).expect("signed");
        world.put_pointer(sealed).await;
        let read = world.epochs(seal.clone(), floor).newest().await;
        assert!(
            matches!(
                read,
                Err(EpochError::Distrust(Distrust::TooFar { version, .. })) if version == epoch
            ),
            "{read:?}"
        );
    }

    assert_eq!(imported(&here(), &metrics("2")).await, 2);
    assert_eq!(source(&here()).await, "2");
}

#[tokio::test]
async fn keys_can_be_rotated_without_a_change() {
    let world = World::new();
    imported(&world.epochs(seal(&["a"]), None), &metrics("1")).await;
    let before = world.pointer().await;
    let both = || world.epochs(seal(&["a", "b"]), None);

    both().renew_seal().await.expect("signed anew");
    let renewed = world.pointer().await;
    both().renew_seal().await.expect("nothing to do");

    assert!(renewed.revision > before.revision);
    assert_eq!(world.pointer().await.revision, renewed.revision);
    assert_eq!(source(&world.epochs(seal(&["b"]), None)).await, "1");
    let none = world
        .epochs(seal(&[]), None)
        .import(&metrics("2"), false)
        .await;
    assert!(matches!(none, Err(EpochError::Distrust(_))), "{none:?}");
    let first = World::new();
    let none = first
        .epochs(seal(&[]), None)
        .import(&metrics("2"), false)
        .await;
    assert!(matches!(none, Err(EpochError::NoKey)), "{none:?}");
    assert_eq!(first.parts().await, 0, "nothing was written");
}
