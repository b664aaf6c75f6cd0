//! What scripts may return, and what users are told.

use std::time::Duration;

use sallyport_placement::trace::{Outcome, Verdict};
use sallyport_placement::{Action, Request};
use serde_json::{Value, json};

use crate::{World, engine, request, start};

fn two() -> [Value; 2] {
    [
        json!({ "serverId": "alpha", "sessions": 5 }),
        json!({ "serverId": "beta", "sessions": 1 }),
    ]
}

async fn told(world: &World, chain: &[&str]) -> String {
    world.chain(chain);
    world.choice(start()).await.expect_err("no server")
}

#[tokio::test]
async fn a_text_names_any_server_that_may_be_used_and_nothing_else() {
    let world = World::new(&two());
    world.chain(&["i => i.servers.slice(1)", "() => 'alpha'"]);
    let trace = world.traced(start()).await;
    assert_eq!(
        trace.server(),
        Some("alpha"),
        "also one that a script took from the list"
    );
    assert_eq!(
        trace.attempts[0].steps[0].outcome,
        Outcome::Servers(vec!["beta".to_owned()])
    );

    assert_eq!(
        told(&world, &["() => 'omega'"]).await,
        "No server could be chosen: `s0` chose the server `omega`, which is not there"
    );
    let mut servers = two();
    servers[0]["draining"] = json!(true);
    world.servers(&servers);
    assert_eq!(
        told(&world, &["() => 'alpha'"]).await,
        "No server could be chosen: `s0` chose the server `alpha`: it drains"
    );
    let wish = json!({ "serverId": "alpha" });
    world.chain(&["user-selection"]);
    let said = world
        .choice(request(Action::Start, &wish))
        .await
        .expect_err("it drains");
    assert!(
        said.contains("`user-selection` chose the server `alpha`: it drains"),
        "{said}"
    );
}

#[tokio::test]
async fn what_is_thrown_is_for_the_user_and_ends_the_chain() {
    let world = World::new(&two());
    let full = "() => { console.log('full'); throw new Error('All GPU servers are in use') }";
    world.chain(&["() => null", full, "random-server"]);
    let trace = world.traced(start()).await;
    let attempt = &trace.attempts[0];
    assert_eq!(attempt.steps.len(), 2);
    assert_eq!(attempt.steps[1].log, ["full"]);
    let verdict = Verdict::Error {
        user: "All GPU servers are in use".to_owned(),
        log: "`s1` threw: All GPU servers are in use".to_owned(),
    };
    assert_eq!(attempt.verdict, verdict);
}

#[tokio::test]
async fn nobody_chose_or_nobody_was_there_are_told_apart() {
    let world = World::new(&two());
    assert_eq!(
        told(&world, &["() => undefined", "i => i.servers"]).await,
        "No server could be chosen: none of the scripts of the chain `start` chose a server: let the last one always choose"
    );
    let mut servers = two();
    servers[0]["startEnabled"] = json!(false);
    servers[1]["draining"] = json!(true);
    world.servers(&servers);
    assert_eq!(
        told(&world, &["fewest-sessions"]).await,
        "No server is available: none of 2 servers can be used for session/start now: it drains; starts are switched off there"
    );
    let trace = world.traced(start()).await;
    let why: Vec<_> = trace.attempts[0]
        .dropped
        .iter()
        .map(|dropped| dropped.server.as_str())
        .collect();
    assert_eq!(why, ["alpha", "beta"]);
    assert_eq!(
        world.choice(Request::new(Action::Login)).await,
        Ok("alpha".to_owned())
    );
}

#[tokio::test]
async fn a_script_that_fails_is_told_or_stood_in_for() {
    let world = World::with(
        &two(),
        engine(|settings| settings.limits.kill = Duration::from_secs(60)),
        sallyport_placement::Settings::default(),
    );
    let fails = json!({ "kind": "javascript", "source": "() => { for (;;); }" });
    let objects = |word: &str| {
        json!({
            "scripts": { "endless": fails },
            "chains": { "start": { "scripts": ["endless"] } },
            "settings": { "placement": { "on_script_failure": word } },
        })
    };
    world.configure(&objects("error"));
    let said = world.choice(start()).await.expect_err("it is stopped");
    assert_eq!(
        said,
        "No server could be chosen: `endless` timed out: it ran for more than 50 ms"
    );

    world.configure(&objects("builtin"));
    let trace = world.traced(start()).await;
    let verdict = Verdict::Server {
        server: "beta".to_owned(),
        by: "fewest-sessions".to_owned(),
        instead_of: Some("endless".to_owned()),
    };
    assert_eq!(trace.attempts[0].verdict, verdict);

    // what scripts before it have taken away stays away
    let mut filtered = objects("builtin");
    filtered["chains"]["start"]["scripts"] = json!(["filter", "endless"]);
    for (left, came) in [("i.servers.slice(0, 1)", Some("alpha")), ("[]", None)] {
        let source = format!("i => {left}");
        filtered["scripts"]["filter"] = json!({ "kind": "javascript", "source": source });
        world.configure(&filtered);
        assert_eq!(world.traced(start()).await.server(), came, "{left}");
    }

    // a message for the user is no failure
    let mut thrown = objects("builtin");
    thrown["scripts"]["endless"]["source"] = json!("() => { throw 'not today' }");
    world.configure(&thrown);
    assert_eq!(world.choice(start()).await, Err("not today".to_owned()));
}

#[tokio::test]
async fn a_request_has_its_bound() {
    let world = World::new(&two());
    let request = request(Action::Start, &json!({ "command": "x".repeat(65 << 10) }));
    let error = world.placement.place(request).await.expect_err("too large");
    assert!(error.to_string().contains("may have 65536"), "{error}");
}
