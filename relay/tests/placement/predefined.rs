//! Each predefined script on small lists: what it chooses, keeps, passes on or says.

use sallyport_placement::Action;
use sallyport_placement::predefined::ALL;
use sallyport_placement::trace::Outcome;
use serde_json::{Value, json};

use crate::{World, request};

fn servers() -> Vec<Value> {
    vec![
        json!({ "serverId": "alpha", "loggedInUsers": ["ada", "eve"], "sessions": 7, "memAvailable": 1_u64 << 30 }),
        json!({ "serverId": "beta", "loggedInUsers": ["eve"], "sessions": 2, "memAvailable": 8_u64 << 30,
            "staticData": { "gpu": true, "vnode": true } }),
        json!({ "serverId": "gamma", "sessions": 3, "memAvailable": 4_u64 << 30, "gpus": [
            { "index": 0, "uuid": "g0", "name": "A40", "utilization": 80.0 },
            { "index": 1, "uuid": "g1", "name": "A40", "utilization": 10.0 }] }),
        json!({ "serverId": "local", "sessions": 2, "pending": 1, "memAvailable": 2_u64 << 30 }),
    ]
}

/// A script, who is there, the data of the request, and what comes of it.
const ROWS: [(&str, &str, &str, &str); 27] = [
    (
        "user-selection",
        ALL_OF_THEM,
        r#"{"serverId": "gamma"}"#,
        r#"{"server": "gamma"}"#,
    ),
    (
        "user-selection",
        ALL_OF_THEM,
        r#"{"serverId": ""}"#,
        r#""pass""#,
    ),
    (
        "user-selection",
        ALL_OF_THEM,
        r#"{"serverId": 7}"#,
        r#""pass""#,
    ),
    ("user-selection", ALL_OF_THEM, "{}", r#""pass""#),
    (
        "find-logged-in",
        ALL_OF_THEM,
        "{}",
        r#"{"servers": ["alpha"]}"#,
    ),
    ("find-logged-in", "beta gamma local", "{}", r#""pass""#),
    (
        "users-logged-in-server",
        ALL_OF_THEM,
        "{}",
        r#"{"server": "alpha"}"#,
    ),
    (
        "users-logged-in-server",
        "beta gamma local",
        "{}",
        r#""pass""#,
    ),
    (
        "filter-not-logged-in",
        ALL_OF_THEM,
        "{}",
        r#"{"servers": ["alpha"]}"#,
    ),
    (
        "filter-not-logged-in",
        "beta gamma local",
        "{}",
        r#"{"servers": []}"#,
    ),
    (
        "filter-vnode",
        ALL_OF_THEM,
        "{}",
        r#"{"servers": ["alpha", "gamma", "local"]}"#,
    ),
    (
        "needs-gpu",
        ALL_OF_THEM,
        r#"{"gpu": true}"#,
        r#"{"servers": ["beta", "gamma"]}"#,
    ),
    ("needs-gpu", ALL_OF_THEM, r#"{"gpu": false}"#, r#""pass""#),
    ("needs-gpu", ALL_OF_THEM, "{}", r#""pass""#),
    (
        "use-gpu-system",
        ALL_OF_THEM,
        "{}",
        r#"{"servers": ["beta", "gamma"]}"#,
    ),
    ("use-gpu-system", "alpha", "{}", r#"{"servers": []}"#),
    ("get-gpu", ALL_OF_THEM, "{}", r#"{"server": "beta"}"#),
    ("get-gpu", "alpha gamma", "{}", r#"{"server": "gamma"}"#),
    (
        "get-gpu",
        "alpha",
        "{}",
        r#"{"threw": "No server with a GPU is free"}"#,
    ),
    (
        "most-free-memory",
        ALL_OF_THEM,
        "{}",
        r#"{"server": "beta"}"#,
    ),
    ("most-free-memory", "", "{}", r#""pass""#),
    (
        "fewest-sessions",
        ALL_OF_THEM,
        "{}",
        r#"{"server": "beta"}"#,
    ),
    ("fewest-sessions", "", "{}", r#""pass""#),
    ("local-server", ALL_OF_THEM, "{}", r#"{"server": "local"}"#),
    ("local-server", "alpha", "{}", r#""pass""#),
    ("random-server", "gamma", "{}", r#"{"server": "gamma"}"#),
    ("random-server", "", "{}", r#""pass""#),
];

const ALL_OF_THEM: &str = "alpha beta gamma local";

fn those(names: &str) -> Vec<Value> {
    let mut servers = servers();
    servers.retain(|server| names.split(' ').any(|name| server["serverId"] == name));
    servers
}

#[tokio::test]
async fn each_does_what_its_title_says() {
    let world = World::new(&[]);
    for predefined in ALL {
        let name = predefined.name;
        assert!(ROWS.iter().any(|(row, ..)| *row == name), "{name}");
    }
    for (name, there, data, expected) in ROWS {
        world.servers(&those(there));
        world.chain(&[name]);
        let data: Value = serde_json::from_str(data).expect("JSON");
        let expected: Outcome = serde_json::from_str(expected).expect("an outcome");
        let trace = world.traced(request(Action::Start, &data)).await;
        let step = &trace.attempts[0].steps[0];
        assert_eq!(step.outcome, expected, "{name} with {data} and {there}");
    }
}

#[tokio::test]
async fn equals_are_chosen_by_lot() {
    let world = World::new(&["a", "b", "c"].map(|id| json!({ "serverId": id, "sessions": 1 })));
    for name in ["fewest-sessions", "random-server"] {
        world.chain(&[name]);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            seen.insert(world.choice(crate::start()).await.expect("one of three"));
        }
        // one of them is missed in less than one of 10^17 runs
        assert_eq!(seen.len(), 3, "{name}");
    }
}

#[tokio::test]
async fn where_nothing_is_configured_the_usual_chains_decide() {
    let world = World::new(&servers());
    let login = |data: &Value| request(Action::Login, data);
    assert_eq!(
        world.choice(login(&json!({ "serverId": "beta" }))).await,
        Ok("beta".to_owned())
    );
    assert_eq!(
        world.choice(login(&json!({}))).await,
        Ok("alpha".to_owned()),
        "ada is there"
    );
    assert_eq!(
        world.choice(crate::start()).await,
        Ok("alpha".to_owned()),
        "her login's server"
    );
    world.servers(&those("beta gamma local"));
    assert_eq!(
        world.choice(login(&json!({}))).await,
        Ok("beta".to_owned()),
        "the fewest sessions"
    );
    assert_eq!(world.choice(crate::start()).await, Ok("beta".to_owned()));
    let trace = world.traced(crate::start()).await;
    let chain: Vec<_> = trace.chain.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(
        chain,
        [
            "user-selection",
            "users-logged-in-server",
            "fewest-sessions"
        ]
    );
    assert_eq!(trace.epoch, 0);
}
