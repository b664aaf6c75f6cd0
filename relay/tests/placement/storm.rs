//! Many placements at once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use sallyport_placement::{PlacementError, Settings};
use serde_json::{Value, json};

use crate::{World, engine, start, unhurried};

fn servers(count: usize) -> Vec<Value> {
    let server = |n: usize| json!({ "serverId": format!("n{n}"), "sessions": 0 });
    (0..count).map(server).collect()
}

#[tokio::test]
async fn five_hundred_placements_spread_evenly_over_twenty_servers() {
    let world = World::new(&servers(20));
    let placed = join_all((0..500).map(|_| world.placement.place(start()))).await;
    let placed: Vec<_> = placed
        .into_iter()
        .map(|placed| placed.expect("chosen"))
        .collect();
    let mut counts = BTreeMap::<String, u32>::new();
    for placed in &placed {
        *counts.entry(placed.server().to_string()).or_default() += 1;
    }
    // 25 each, and a tenth more or less
    assert!(
        counts.len() == 20 && counts.values().all(|count| (23..=27).contains(count)),
        "{counts:?}"
    );
}

#[tokio::test]
async fn one_more_than_may_wait_is_told_to_come_again() {
    let settings = Settings {
        waiting: 2,
        ..Settings::default()
    };
    let world = World::with(&servers(2), engine(unhurried), settings);
    // the functions that run take until they are stopped
    world.chain(&["() => { const a = []; a.length = 2 ** 32 - 1; a.sort() }"]);
    let mut all = Vec::new();
    for _ in 0..64 {
        all.push(world.placement.place(start()));
    }
    let busy = async {
        let mut all = futures::stream::FuturesUnordered::from_iter(all);
        futures::StreamExt::next(&mut all).await
    };
    let first = tokio::time::timeout(Duration::from_secs(20), busy).await;
    let first = first
        .expect("nobody waits for those that hang")
        .expect("there are some");
    let error = first.expect_err("there are too many");
    assert_eq!(error, PlacementError::Busy(2));
    assert!(error.for_user().contains("Try again"));
}
