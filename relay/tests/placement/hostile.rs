//! Scripts that harm, in a chain beside others.

use std::time::{Duration, Instant};

use futures::future::join;
use sallyport_placement::{Action, Settings};
use serde_json::json;

use crate::{World, engine, request, start};

const LONG: Duration = Duration::from_secs(60);

fn world() -> World {
    let servers = ["a", "b"].map(|id| json!({ "serverId": id }));
    let world = World::with(&servers, engine(|_| {}), Settings::default());
    let function = |source: &str| json!({ "kind": "javascript", "source": source });
    world.configure(&json!({
        "scripts": {
            "sorts": function("() => { const a = []; a.length = 2 ** 32 - 1; a.sort() }"),
            "spoils": function("i => { Array.prototype.filter = () => []; Math.random = () => 0.999; \
                i.servers.forEach(s => { s.sessions = 99 }); i.user.login = 'root' }"),
        },
        "chains": { "start": { "scripts": ["spoils", "sorts"] }, "login": { "scripts": ["fewest-sessions"] } },
    }));
    world
}

#[tokio::test]
async fn others_are_served_while_one_hangs_and_nothing_of_it_reaches_them() {
    let world = world();
    let login = || request(Action::Login, &json!({}));
    // the workers are there
    world.choice(login()).await.expect("chosen");
    let hangs = world.choice(start());
    let others = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let begun = Instant::now();
            let server = world.choice(login()).await.expect("chosen");
            assert!(["a", "b"].contains(&server.as_str()));
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    };
    let (said, slowest) = join(hangs, others).await;
    assert_eq!(
        said.expect_err("it is killed"),
        "No server could be chosen: `sorts` did not stop when it was interrupted and was killed after 200 ms"
    );
    assert!(slowest < LONG, "{slowest:?}");
}

/// Figures of a quiet machine, so it is run by name: cargo nextest run -p sallyport-relay --run-ignored only
#[tokio::test]
#[ignore = "figures need a machine that does nothing else"]
async fn a_hanging_script_costs_others_five_milliseconds_at_most() {
    let world = world();
    let login = || request(Action::Login, &json!({}));
    let time = async |count: usize| {
        let mut times = Vec::new();
        for _ in 0..count {
            let begun = Instant::now();
            world.choice(login()).await.expect("chosen");
            times.push(begun.elapsed());
        }
        times.sort();
        times[count * 99 / 100]
    };
    time(50).await;
    let alone = time(200).await;
    let begun = Instant::now();
    let (said, beside) = join(world.choice(start()), time(200)).await;
    assert!(
        said.expect_err("killed")
            .contains("was killed after 200 ms")
    );
    assert!(begun.elapsed() < LONG);
    assert!(
        beside < alone + Duration::from_millis(5),
        "{beside:?} beside it, {alone:?} alone"
    );
}
