//! What administrators of FastX 3 write, decided with as it stands: the guides' example, and their use cases of static data.

use sallyport_placement::{Action, Request};
use serde_json::{Value, json};

use crate::{World, request, start};

/// The guides' example of a load-balancing function.
const EXAMPLE: &str = "function(input) {  \n    return input.local.serverId;  \n}";

fn servers() -> Vec<Value> {
    let server = |id: &str, sessions: u64, data: Value| json!({ "serverId": id, "sessions": sessions, "staticData": data });
    vec![
        server("alpha", 0, json!({ "login": true })),
        server(
            "beta",
            5,
            json!({ "gpu": true, "group": "physics", "users": ["eve"] }),
        ),
        server("gamma", 6, json!({ "gpu": true, "group": "chemistry" })),
        server("local", 1, json!({ "users": ["ada", "bob"] })),
    ]
}

#[tokio::test]
async fn the_example_chooses_the_server_that_the_user_is_connected_to() {
    let world = World::new(&servers());
    world.chain(&[EXAMPLE]);
    assert_eq!(world.choice(start()).await, Ok("local".to_owned()));
}

#[tokio::test]
async fn the_input_object_has_what_the_guides_say() {
    let world = World::new(&servers()[..1]);
    world.chain(&["function(input) {
        delete input.servers[0].staticData; input.servers = input.servers.map(s => s.serverId);
        throw new Error(JSON.stringify(input, Object.keys(input).concat(Object.keys(input.user), Object.keys(input.local), Object.keys(input.data)))) }"]);
    let data = json!({ "command": "xterm" });
    let said = world
        .choice(request(Action::Login, &data))
        .await
        .expect_err("thrown");
    let input: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        input,
        json!({
            "action": "user/login",
            "user": { "login": "ada", "serverId": "alpha", "sessions": [], "name": "Ada" },
            "userGroups": ["staff", "physics"],
            "isManager": false,
            "isAdmin": false,
            "local": { "serverId": "local" },
            "servers": ["alpha"],
            "data": { "command": "xterm" },
        })
    );
}

#[tokio::test]
async fn static_data_divides_the_servers() {
    let gpu =
        "function(input) { return input.servers.filter(function(server) { return server.gpu }) }";
    let users = "function(input) {
        return input.servers.filter(server => !server.users || server.users.includes(input.user.login)) }";
    let group = "function(input) {
        return input.servers.filter(function(s) { return input.userGroups.indexOf(s.staticData.group) != -1 }) }";
    let logins = "function(input) {
        if (input.action == 'user/login') return input.servers.filter(s => s.login) }";
    let world = World::new(&servers());
    for (chain, request, chosen) in [
        (vec![gpu, "fewest-sessions"], start(), "beta"),
        (vec![gpu, users, "fewest-sessions"], start(), "gamma"),
        (vec![group, "fewest-sessions"], start(), "beta"),
        (
            vec![logins, "most-free-memory"],
            request(Action::Login, &json!({})),
            "alpha",
        ),
    ] {
        world.chain(&chain);
        assert_eq!(
            world.choice(request).await,
            Ok(chosen.to_owned()),
            "{chain:?}"
        );
    }
    world.chain(&[group, "fewest-sessions"]);
    let stranger = world.choice(Request::new(Action::Start)).await;
    assert_eq!(
        stranger,
        Err("No server could be chosen: none of the scripts of the chain `start` chose a server: let the last one always choose".to_owned())
    );
}
