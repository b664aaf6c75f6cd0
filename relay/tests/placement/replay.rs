//! Placements repeated.

use std::time::Duration;

use sallyport_placement::replay::replay;
use sallyport_placement::trace::Trace;
use sallyport_placement::{Action, Settings, traces};
use serde_json::{Value, json};

use crate::{World, engine, request, start, unhurried};

fn servers(count: usize) -> Vec<Value> {
    let server = |n: usize| json!({ "serverId": format!("n{n}"), "sessions": n % 7, "loadavg": [0.1 + 0.3, 1.0, 1.0] });
    (0..count).map(server).collect()
}

/// Answers that depend on time and on chance.
const LUCK: &str = "input => { console.log(Date.now(), Math.random());
    return input.servers.filter(() => Math.random() < 0.5) }";

#[tokio::test]
async fn a_thousand_recorded_decisions_are_a_thousand_times_the_same() {
    let room = traces::Room {
        traces: 1_000,
        bytes: 1 << 30,
    };
    let settings = Settings {
        room,
        ..Settings::default()
    };
    let world = World::with(&servers(20), engine(unhurried), settings);
    world.chain(&[LUCK, "fewest-sessions"]);
    for round in 0..1_000 {
        if round % 100 == 0 {
            world.servers(&servers(20 + round / 100));
        }
        world
            .placement
            .place(start())
            .await
            .expect("chosen")
            .started();
    }
    let kept = world.placement.traces().newest(usize::MAX);
    assert_eq!(kept.len(), 1_000);
    for trace in kept {
        let replay = world.placement.replay(&trace.id).await.expect("it is kept");
        assert!(replay.same, "{replay:?}");
    }
}

#[tokio::test]
async fn a_trace_is_all_that_is_needed_and_a_change_is_seen() {
    let world = World::new(&servers(5));
    world.chain(&[LUCK, "random-server"]);
    let trace = world.traced(start()).await;
    let text = serde_json::to_string(&*trace).expect("JSON");
    let mut read: Trace = serde_json::from_str(&text).expect("ours");
    assert_eq!(read, *trace);

    let elsewhere = engine(unhurried);
    let same = replay(&elsewhere, &read).await;
    assert!(same.same, "{same:?}");

    read.attempts[0].moment.seed ^= 1;
    let other = replay(&elsewhere, &read).await;
    assert!(!other.same && !other.attempts[0].steps[0].same, "{other:?}");
    assert_eq!(world.placement.replay("nobody").await, None);
}

#[tokio::test]
async fn replays_and_dry_runs_take_no_script_away_and_miss_none_that_was() {
    let engine = engine(|settings| settings.limits.kill = Duration::from_secs(60));
    let world = World::with(&servers(2), engine, Settings::default());
    world.chain(&["input => { if (input.data.loop) for (;;); return 'n0' }"]);
    let looping = || request(Action::Start, &json!({ "loop": true }));
    let good = world.traced(start()).await;
    let stopped = world.traced(looping()).await;
    let same = async |trace: &Trace| {
        let replay = world.placement.replay(&trace.id).await;
        replay.expect("it is kept").same
    };
    for _ in 0..4 {
        assert!(same(&stopped).await);
        world.traced(looping()).await;
    }
    let placed = world.placement.place(start()).await;
    placed.expect("it is not suspended").started();

    for _ in 0..3 {
        drop(
            world
                .placement
                .place(looping())
                .await
                .expect_err("it is stopped"),
        );
    }
    let suspended = world.placement.place(start()).await.expect_err("suspended");
    assert!(
        suspended.to_string().contains("is not run again"),
        "{suspended}"
    );
    let suspended = world.placement.traces().newest(1);

    assert_eq!(world.traced(start()).await.server(), Some("n0"));
    assert!(same(&good).await && same(&stopped).await && same(&suspended[0]).await);
}
