//! What administrators of FastX 3 write, called as the relay calls it.

use sallyport_ops::Tasks;
use sallyport_scripts::{Choice, Fault, Moment, Script, Scripts, Step};
use serde_json::{Value, json};

use crate::{LONG, call, scripts, server, settings};

fn servers() -> Vec<Value> {
    vec![
        json!({ "serverId": "alpha", "hostname": "alpha.example.org", "login": true, "group": "physics",
            "loadavg": [4.0, 3.0, 2.0], "freemem": 1e9, "sessions": 7, "users": ["ada", "eve"] }),
        json!({ "serverId": "beta", "hostname": "beta.example.org", "gpu": true, "group": "physics",
            "loadavg": [0.5, 0.5, 0.5], "freemem": 8e9, "sessions": 2, "metrics": { "licences": 3 } }),
        json!({ "serverId": "gamma", "hostname": "gamma.example.org", "gpu": true, "group": "chemistry",
            "loadavg": [1.5, 1.0, 0.5], "freemem": 4e9, "sessions": 1, "metrics": { "licences": 0 } }),
    ]
}

fn input() -> Value {
    json!({
        "action": "session/start",
        "user": { "login": "eve", "serverId": "alpha", "sessions": [] },
        "userGroups": ["staff", "physics"],
        "isManager": false,
        "isAdmin": false,
        "local": { "serverId": "beta" },
        "data": { "command": "xterm -ls", "name": "My terminal" },
    })
}

async fn choose(chain: &[&str]) -> Vec<Step> {
    let servers: Vec<_> = servers().iter().map(server).collect();
    let named = |(n, function): (usize, &&str)| Script::new(format!("s{n}"), *function);
    let chain: Vec<_> = chain.iter().enumerate().map(named).collect();
    let mut settings = settings();
    settings.limits.kill = LONG;
    Scripts::start(settings, &Tasks::new())
        .choose(&chain, &input(), &servers, Moment { now: 0, seed: 1 })
        .await
}

async fn last(chain: &[&str]) -> Result<Choice, String> {
    let steps = choose(chain).await;
    let last = steps.last().expect("a step").outcome.clone();
    last.map_err(|error| error.to_string())
}

fn named(id: &str) -> Choice {
    Choice::Server(id.to_owned())
}

fn list(ids: &[&str]) -> Choice {
    Choice::Servers(ids.iter().map(|id| (*id).to_owned()).collect())
}

#[tokio::test]
async fn the_local_server() {
    let chosen = last(&["function(input) {  \n    return input.local.serverId;  \n}\n"]).await;
    assert_eq!(chosen, Ok(named("beta")));
}

#[tokio::test]
async fn static_data_divides_the_servers() {
    for (function, left) in [
        ("function(input) { return input.servers.filter(function(s) { return s.gpu; }); }", ["beta", "gamma"].as_slice()),
        ("function(input) { return input.servers.filter(s => s.login === true) }", &["alpha"]),
        ("function(input) { return input.servers.filter(s => !s.users || s.users.includes(input.user.login)) }", &["alpha", "beta", "gamma"]),
        ("function(input) { return input.servers.filter(s => input.userGroups.indexOf(s.group) >= 0) }", &["alpha", "beta"]),
        ("function(input) { var free = []; for (var i in input.servers) { var s = input.servers[i];
            if (s.metrics && s.metrics.licences > 0) free.push(s); } return free; }", &["beta"]),
    ] {
        assert_eq!(last(&[function]).await, Ok(list(left)), "{function}");
    }
}

#[tokio::test]
async fn a_chain_filters_sorts_and_selects() {
    let gpu = "function(input) { return input.servers.filter(s => s.gpu) }";
    let busy = "function(input) { input.servers.sort((a, b) => a.sessions - b.sessions); return input.servers }";
    let first = "function(input) { return input.servers[0].serverId; }";
    let steps = choose(&[gpu, busy, first, "() => 'never'"]).await;
    let choices: Vec<_> = steps
        .into_iter()
        .map(|step| step.outcome.map_err(|error| error.to_string()))
        .collect();
    assert_eq!(
        choices,
        [
            Ok(list(&["beta", "gamma"])),
            Ok(list(&["gamma", "beta"])),
            Ok(named("gamma"))
        ]
    );
}

#[tokio::test]
async fn something_falsy_passes_the_same_input_on() {
    let nothing = "function(input) { if (input.action === 'user/login') return 'alpha'; }";
    let count = "function(input) { return '' + input.servers.length }";
    let steps = choose(&[nothing, nothing, count]).await;
    assert_eq!(steps.len(), 3);
    assert_eq!(
        steps.last().expect("a step").outcome,
        Ok(Choice::Server("3".to_owned()))
    );
    assert_eq!(last(&[nothing]).await, Ok(Choice::Pass), "exhausted");
}

#[tokio::test]
async fn an_error_ends_the_chain_and_speaks_to_the_user() {
    let full = "function(input) { throw new Error('All GPU servers are in use'); }";
    let steps = choose(&["() => null", full, "() => 'never'"]).await;
    assert_eq!(steps.len(), 2);
    let error = steps
        .last()
        .expect("a step")
        .outcome
        .clone()
        .expect_err("thrown");
    assert_eq!(error.name, "s1");
    assert_eq!(
        error.fault,
        Fault::Threw("All GPU servers are in use".to_owned())
    );
    let steps = choose(&["() => { for (;;); }", "() => 'never'"]).await;
    let error = steps
        .first()
        .expect("a step")
        .outcome
        .clone()
        .expect_err("stopped");
    assert_eq!(
        error.to_string(),
        "`s0` timed out: it ran for more than 50 ms"
    );
}

#[tokio::test]
async fn a_job_function_returns_its_template() {
    let function = r#"function(input) {
  return "bsub \
    sallyport-relay start \
    --command ${ start.command } --name ${ start.name } \
    > /dev/null; \
    echo Scheduled"
}"#;
    let template = call(
        &scripts(),
        function,
        &json!({ "user": {}, "admin": false, "start": {} }),
    )
    .await;
    let expected = "bsub     sallyport-relay start     --command ${ start.command } --name ${ start.name }     > /dev/null;     echo Scheduled";
    assert_eq!(template, Ok(json!(expected)));
    let now = call(
        &scripts(),
        "function(input) { return input.admin && 'x' }",
        &json!({ "admin": false }),
    )
    .await;
    assert_eq!(now, Ok(json!(false)));
}

#[tokio::test]
async fn a_recorded_call_is_repeated_exactly() {
    let random = Script::new(
        "random",
        "input => input.servers[Math.floor(Math.random() * input.servers.length)].serverId + Date.now() + Math.random()",
    );
    let list: Vec<_> = (0..100)
        .map(|n| server(&json!({ "serverId": format!("n{n}") })))
        .collect();
    let scripts = scripts();
    let chain = [random];
    for seed in 0..50 {
        let moment = Moment {
            now: 1_000 * seed,
            seed,
        };
        let mut choices = Vec::new();
        for _ in 0..2 {
            let steps = scripts.choose(&chain, &json!({}), &list, moment).await;
            choices.push(
                steps
                    .into_iter()
                    .map(|step| step.outcome)
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(choices.first(), choices.last());
    }
}

#[tokio::test]
async fn a_worker_follows_a_list_that_changes() {
    let mut settings = settings();
    settings.workers = 1;
    let scripts = Scripts::start(settings, &Tasks::new());
    let chain = [Script::new(
        "sum",
        "i => 'x' + i.servers.reduce((sum, s) => sum + s.n, 0)",
    )];
    let one = |n: u64| server(&json!({ "serverId": format!("n{n}"), "n": n }));
    let mut list: Vec<_> = (0..300).map(one).collect();
    for round in 0..30 {
        list.push(one(1_000 * round));
        list.remove(usize::try_from(7 * round).expect("small"));
        let sum: u64 = list
            .iter()
            .filter_map(|server| {
                serde_json::from_str::<Value>(server.json())
                    .ok()?
                    .get("n")?
                    .as_u64()
            })
            .sum();
        let steps = scripts
            .choose(&chain, &json!({}), &list, Moment { now: 0, seed: 0 })
            .await;
        let chosen = steps.first().expect("a step").outcome.clone();
        assert_eq!(
            chosen,
            Ok(Choice::Server(format!("x{sum}"))),
            "round {round}"
        );
    }
}
