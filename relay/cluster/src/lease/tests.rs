//! On the embedded store and the paused clock; what every store has in common is shown by the conformance suite.

use tempfile::TempDir;
use tokio::time::advance;

use super::*;
use crate::{Embedded, Limits};

const TTL: Duration = Duration::from_secs(30);

struct Place {
    _dir: TempDir,
    store: Arc<Embedded>,
    key: Key,
}

fn place() -> Place {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(&dir.path().join("store"), Limits::default()).expect("a store");
    Place {
        _dir: dir,
        store: Arc::new(store),
        key: "leases/desk".parse().expect("a key"),
    }
}

impl Place {
    fn process(&self) -> Leases {
        Leases::new(Arc::clone(&self.store) as Arc<dyn Store>)
    }
}

fn is_taken_by(result: Result<Lease, LeaseError>, name: &str) -> bool {
    matches!(result, Err(LeaseError::Taken(taken)) if taken.holder == name)
}

#[tokio::test(start_paused = true)]
async fn one_has_it_as_long_as_it_renews() {
    let place = place();
    let (ours, theirs) = (place.process(), place.process());
    let mut lease = ours.take(&place.key, "a", TTL).await.expect("it is free");

    for _ in 0..5 {
        assert!(is_taken_by(theirs.take(&place.key, "b", TTL).await, "a"));
        lease.renew_at().reached().await;
        ours.renew(&mut lease).await.expect("still ours");
    }
    assert!(lease.is_held());
    assert!(is_taken_by(theirs.take(&place.key, "b", TTL).await, "a"));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_renews_is_free_after_its_time_and_not_before() {
    let place = place();
    let (ours, theirs) = (place.process(), place.process());
    let mut lease = ours.take(&place.key, "a", TTL).await.expect("it is free");
    assert!(is_taken_by(theirs.take(&place.key, "b", TTL).await, "a"));

    advance(trusted(TTL) - Duration::from_millis(1)).await;
    assert!(lease.is_held());
    advance(Duration::from_millis(1)).await;
    assert!(
        !lease.is_held(),
        "the holder gives up before others take it"
    );
    advance(TTL - trusted(TTL) - Duration::from_millis(1)).await;
    assert!(is_taken_by(theirs.take(&place.key, "b", TTL).await, "a"));
    advance(Duration::from_millis(1)).await;

    let next = theirs.take(&place.key, "b", TTL).await.expect("free now");
    assert!(next.token() > lease.token());
    assert!(matches!(
        ours.renew(&mut lease).await,
        Err(LeaseError::Lost(_))
    ));
    ours.release(lease).await.expect("nothing to do");
    assert!(is_taken_by(ours.take(&place.key, "a", TTL).await, "b"));
}

#[tokio::test(start_paused = true)]
async fn an_expiry_that_a_wrong_clock_wrote_takes_nothing_from_a_holder() {
    let place = place();
    let long_ago = r#"{"holder":"a","ttl_ms":30000,"expires_ms":1000}"#;
    let revision = place.store.create(&place.key, long_ago.into()).await;
    revision.expect("put");
    let theirs = place.process();

    assert!(is_taken_by(theirs.take(&place.key, "b", TTL).await, "a"));
    advance(TTL).await;
    assert!(theirs.take(&place.key, "b", TTL).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_is_free_at_once_and_tokens_rise_all_the_same() {
    let place = place();
    let (ours, theirs) = (place.process(), place.process());
    let lease = ours.take(&place.key, "a", TTL).await.expect("it is free");
    let token = lease.token();

    ours.release(lease).await.expect("given back");

    let next = theirs.take(&place.key, "b", TTL).await.expect("free");
    assert!(next.token() > token);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_was_lost_does_not_lose_the_lease() {
    let place = place();
    let ours = place.process();
    let mut lease = ours.take(&place.key, "a", TTL).await.expect("it is free");
    let unheard = place
        .store
        .replace(&place.key, lease.value(), lease.revision);
    unheard
        .await
        .expect("set, though the holder never heard of it");

    ours.renew(&mut lease).await.expect("still ours");
    assert!(lease.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_sweep_takes_the_free_ones_alone_and_forgets_what_is_gone() {
    let place = place();
    let (ours, sweeper) = (place.process(), place.process());
    let prefix: Prefix = "leases".parse().expect("a prefix");
    let other = prefix.key("other").expect("a key");
    let mut kept = ours.take(&place.key, "a", TTL).await.expect("free");
    ours.take(&other, "a", TTL).await.expect("free");
    let broken = prefix.key("broken").expect("a key");
    place.store.put(&broken, "?".into()).await.expect("put");

    assert_eq!(sweeper.sweep(&prefix).await.expect("swept"), 0);
    advance(TTL / 2).await;
    ours.renew(&mut kept).await.expect("ours");
    advance(TTL / 2).await;
    assert_eq!(sweeper.sweep(&prefix).await.expect("swept"), 1);
    assert!(place.store.get(&other).await.expect("read").is_none());
    advance(MAX_TTL).await;
    place.store.delete(&place.key, None).await.expect("gone");
    assert_eq!(
        sweeper.sweep(&prefix).await.expect("swept"),
        1,
        "what cannot be read"
    );
    assert!(place.store.get(&broken).await.expect("read").is_none());
    assert_eq!(sweeper.unchanged.len(), 0);
}
