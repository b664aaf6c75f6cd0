//! Starts that fail are tried elsewhere, and placements count from the moment of the decision.

use sallyport_placement::PlacementError;
use sallyport_placement::trace::Verdict;
use serde_json::{Value, json};

use crate::{World, start};

fn servers(ids: &[&str]) -> Vec<Value> {
    let server = |(n, id): (usize, &&str)| json!({ "serverId": id, "sessions": 10 * n });
    ids.iter().enumerate().map(server).collect()
}

fn pending(world: &World, id: &str) -> u64 {
    let node = id.parse().expect("a name");
    let counts = world.pending.counts(|_| None);
    counts.get(&node).copied().unwrap_or_default()
}

#[tokio::test]
async fn a_start_that_fails_goes_to_the_next_server_and_all_of_it_is_in_the_trace() {
    let world = World::new(&servers(&["a", "b", "c", "d"]));
    let placed = world.placement.place(start()).await.expect("chosen");
    let id = placed.trace().to_owned();
    assert_eq!((placed.server().as_str(), pending(&world, "a")), ("a", 1));
    let placed = placed.failed("no display").await.expect("the next one");
    assert_eq!((pending(&world, "a"), pending(&world, "b")), (0, 1));
    let placed = placed.failed("no licence").await.expect("the next one");
    assert_eq!(placed.server().as_str(), "c");
    let error = placed.failed("no memory").await.expect_err("enough");
    assert_eq!(
        error.to_string(),
        "it failed on a (no display), b (no licence), c (no memory)"
    );
    assert_eq!(error.for_user(), "It could not be started: no memory");
    assert_eq!(pending(&world, "c"), 0);

    let trace = world.placement.traces().find(&id).expect("kept");
    let row = |attempt: &sallyport_placement::trace::Attempt| {
        let server = match &attempt.verdict {
            Verdict::Server { server, .. } => server.clone(),
            Verdict::Error { log, .. } => log.clone(),
        };
        (server, attempt.dropped.len(), attempt.failed.clone())
    };
    let rows: Vec<_> = trace.attempts.iter().map(row).collect();
    let failed = |text: &str| Some(text.to_owned());
    assert_eq!(
        rows,
        [
            ("a".to_owned(), 0, failed("no display")),
            ("b".to_owned(), 1, failed("no licence")),
            ("c".to_owned(), 2, failed("no memory")),
        ]
    );
    let replay = world.placement.replay(&id).await.expect("kept");
    assert!(replay.same && replay.attempts.len() == 3, "{replay:?}");
}

#[tokio::test]
async fn whoever_wants_one_server_hears_why_it_failed() {
    let world = World::new(&servers(&["a", "b"]));
    world.chain(&["() => 'a'"]);
    let placed = world.placement.place(start()).await.expect("chosen");
    let error = placed
        .failed("no display")
        .await
        .expect_err("there is no other");
    let tried = vec![("a".to_owned(), "no display".to_owned())];
    assert_eq!(error, PlacementError::Failed { tried });
}

#[tokio::test]
async fn what_is_on_its_way_is_seen_by_the_next_decision() {
    let world = World::new(&[
        json!({ "serverId": "a", "sessions": 1 }),
        json!({ "serverId": "b", "sessions": 2 }),
    ]);
    world.chain(&["fewest-sessions"]);
    let first = world.placement.place(start()).await.expect("chosen");
    assert_eq!(first.server().as_str(), "a");
    let second = world.placement.place(start()).await.expect("chosen");
    let third = world.placement.place(start()).await.expect("chosen");
    let mut both = [second.server().to_string(), third.server().to_string()];
    both.sort();
    assert_eq!(both, ["a", "b"]);
    drop((first, second, third));
    assert!(world.pending.counts(|_| None).is_empty());

    // of another relay
    let told = [("a".parse().expect("a name"), 9)].into();
    world.pending.told("r2".parse().expect("a name"), told);
    let next = world.placement.place(start()).await.expect("chosen");
    assert_eq!(next.server().as_str(), "b");
}
