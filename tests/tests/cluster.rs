//! Relays and their cluster's store: embedded without further ado, or a broker that `cluster init` has set up; named step
//! by step when it cannot be used, and never waited for.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::{Command, Output};

use sallyport_tests::broker::{NatsVersion, RedisServer};
use sallyport_tests::cluster::{Cluster, init};
use sallyport_tests::{Port, Relay, Site, eventually, eventually_some, program};
use serde_json::Value;

fn alone(site: &Site, node: &str) -> Relay {
    site.relay_stopped(node, &[], "")
}

/// What status shows of the store, once it is as wanted.
fn store_when(relay: &Relay, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually_some(what, || {
        let store = relay.status()?.get("store")?.clone();
        wanted(&store).then_some(store)
    })
}

fn wait_ready(relay: &Relay) {
    store_when(relay, "the store can be used", |store| {
        store["ready"] == true
    });
}

fn findings(output: &Output) -> Vec<Value> {
    serde_json::from_slice(&output.stdout).expect("an array")
}

fn of_broker(output: &Output) -> Vec<(String, String)> {
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings = findings(output).into_iter();
    findings
        .filter(|finding| word(finding, "gateway").starts_with("broker "))
        .map(|finding| (word(&finding, "step"), word(&finding, "verdict")))
        .collect()
}

#[test]
fn without_a_broker_each_relay_has_a_store_of_its_own() {
    let site = Site::new();
    let mut relay = alone(&site, "n1").started();
    wait_ready(&relay);
    let status = relay.status().expect("it runs");
    assert_eq!(status["store"]["transporter"], "embedded");
    assert!(relay.path().join("state/store.redb").exists());

    // a crash leaves nothing to mend
    relay.daemon().kill();
    relay.start();
    wait_ready(&relay);

    let mut second = Command::new(program("sallyport-relay"));
    let other = alone(&site, "n2");
    second.args(["run", "--config"]).arg(other.config());
    second.env("SALLYPORT_STATE_DIR", relay.path().join("state"));
    let refused = second.output().expect("it runs");
    let said = [refused.stdout, refused.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("in use by another process"), "{said}");
}

#[test]
fn what_init_writes_makes_a_cluster_as_it_stands() {
    for version in [NatsVersion::Debian, NatsVersion::Current] {
        let site = Site::new();
        let cluster = Cluster::single(site.path());
        let said = &cluster.said;
        assert!(
            said.contains("nft add rule") && said.contains("broker.json"),
            "{said}"
        );
        let server = cluster.serve(0, version);
        let relays = ["n1", "n2"].map(|node| {
            let relay = alone(&site, node);
            cluster.copy_to(&relay);
            relay
        });

        let doctor = relays[0].command(&["doctor", "--json"]);
        let steps = of_broker(&doctor);
        let good = ["dns", "tcp", "tls", "credentials", "storage", "namespace"];
        let good = good.map(|step| (step.to_owned(), "ok".to_owned()));
        assert_eq!(steps.get(..6), Some(&good[..]), "{steps:?}");

        for mut relay in relays {
            relay.start();
            wait_ready(&relay);
            assert_eq!(
                relay.status().expect("it runs")["store"]["transporter"],
                "nats"
            );
        }
        drop(server);
    }
}

/// The nodes that a relay shows, each with whether it is stale.
fn shown(relay: &Relay) -> Vec<(String, bool)> {
    let servers = relay.command(&["servers", "--json"]);
    let servers: Vec<Value> = serde_json::from_slice(&servers.stdout).unwrap_or_default();
    let row = |server: &Value| {
        let name = server["serverId"].as_str().unwrap_or_default().to_owned();
        (name, server["stale"] == true)
    };
    servers.iter().map(row).collect()
}

fn wait_shown(relay: &Relay, nodes: &[&str]) {
    let wanted: Vec<_> = nodes
        .iter()
        .map(|node| ((*node).to_owned(), false))
        .collect();
    let what = format!("{} shows {nodes:?}", relay.node());
    eventually(&what, || shown(relay) == wanted);
}

/// What a command that must succeed prints.
fn told(relay: &Relay, args: &[&str]) -> String {
    let output = relay.command(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn nodes_see_each_other_come_change_and_go() {
    let site = Site::new();
    let cluster = Cluster::single(site.path());
    let mut server = cluster.serve(0, NatsVersion::Debian);
    let unobserving = "[cluster]\nobserve = false\n";
    let configs = [("n1", ""), ("n2", ""), ("n3", unobserving)];
    let mut relays = configs.map(|(node, config)| {
        let relay = site.relay_stopped(node, &[], config);
        cluster.copy_to(&relay);
        relay.started()
    });
    for relay in &relays {
        wait_shown(relay, &["n1", "n2", "n3"]);
    }
    let [one, two, three] = &mut relays;
    let status = told(one, &["status"]);
    assert!(status.contains("cluster of 3 nodes"), "{status}");

    // a change is told, and so is the end of a process, in order or not
    told(two, &["set", "login-enabled", "off"]);
    eventually("n1 sees what n2 switched off", || {
        let said = one.command(&["servers", "--json"]).stdout;
        let servers: Vec<Value> = serde_json::from_slice(&said).unwrap_or_default();
        let off = |server: &Value| server["serverId"] == "n2" && server["loginEnabled"] == false;
        servers.iter().any(off)
    });
    two.daemon().terminate();
    wait_shown(one, &["n1", "n3"]);
    three.daemon().kill();
    wait_shown(one, &["n1"]);
    two.start();
    three.start();
    wait_shown(one, &["n1", "n2", "n3"]);

    // without the broker what was known stays, and says that it may be old
    server.kill();
    let stale = ["n1", "n2", "n3"].map(|node| (node.to_owned(), node != "n1"));
    eventually("n1 knows that it may be wrong", || shown(one) == stale);
    let doctor = one.command(&["doctor", "--json"]);
    assert!(
        !findings(&doctor)
            .iter()
            .any(|finding| finding["step"] == "peers")
    );
    let _server = cluster.serve(0, NatsVersion::Debian);
    wait_shown(one, &["n1", "n2", "n3"]);
    let doctor = one.command(&["doctor", "--json"]);
    let findings = findings(&doctor);
    let peers = findings.iter().find(|finding| finding["step"] == "peers");
    let peers = peers.expect("it is looked who is heard");
    assert_eq!(
        (&peers["verdict"], &peers["seen"]),
        (&"ok".into(), &"2: n2, n3".into())
    );
}

#[test]
fn nodes_that_share_a_redis_server_see_each_other() {
    let site = Site::new();
    let cluster = Cluster::single(site.path());
    let mut server = RedisServer::start(&site.path().join("redis"), "appendonly no\n");
    let broker = format!(
        "{{\"transporterType\": \"redis\", \"host\": \"{}\"}}",
        server.address()
    );
    let relays = ["n1", "n2"].map(|node| {
        let relay = alone(&site, node);
        cluster.copy_to(&relay);
        fs::write(relay.path().join("broker.json"), &broker).expect("our own file");
        relay.started()
    });
    for relay in &relays {
        wait_ready(relay);
        wait_shown(relay, &["n1", "n2"]);
    }
    let [mut one, mut two] = relays;
    let status = one.status().expect("it runs");
    assert_eq!(status["store"]["transporter"], "redis");

    let doctor = one.command(&["doctor", "--json"]);
    let steps = of_broker(&doctor);
    let good = ["dns", "tcp", "tls", "credentials", "storage", "namespace"];
    let good = good.map(|step| {
        // plain Redis is not asked for TLS
        let verdict = if step == "tls" { "skip" } else { "ok" };
        (step.to_owned(), verdict.to_owned())
    });
    assert_eq!(steps.get(..6), Some(&good[..]), "{steps:?}");
    assert_eq!(
        steps.get(6),
        Some(&("durability".to_owned(), "warn".to_owned()))
    );

    two.daemon().kill();
    wait_shown(&one, &["n1"]);
    server.kill();
    let at_tcp = |store: &Value| store["ready"] == false && store["step"] == "tcp";
    store_when(&one, "status names the step", at_tcp);
    two.start();
    server.resume();
    for relay in [&one, &two] {
        wait_shown(relay, &["n1", "n2"]);
    }
    one.daemon().terminate();
    wait_shown(&two, &["n2"]);
}

#[test]
fn a_node_with_other_keys_is_none_and_is_named() {
    let site = Site::new();
    let cluster = Cluster::single(site.path());
    let _server = cluster.serve(0, NatsVersion::Debian);
    let relays = ["n1", "n2"].map(|node| {
        let relay = alone(&site, node);
        cluster.copy_to(&relay);
        relay
    });
    let [one, two] = relays;
    fs::remove_file(two.path().join("cluster-keys.json")).expect("it was copied");
    told(&two, &["cluster-key", "add"]);
    let (one, two) = (one.started(), two.started());

    for (relay, other) in [(&one, "n2"), (&two, "n1")] {
        let what = format!("{} does not believe {other}", relay.node());
        let said = eventually_some(&what, || {
            let status = relay.status()?;
            status["cluster"]["distrusted"].as_str().map(str::to_owned)
        });
        assert!(
            said.contains(other) && said.contains("cluster key"),
            "{said}"
        );
        wait_shown(relay, &[relay.node()]);
    }
    let doctor = one.command(&["doctor", "--json"]);
    let findings = findings(&doctor);
    let peers = findings.iter().find(|finding| finding["step"] == "peers");
    assert_eq!(peers.expect("looked")["verdict"], "fail");
}

#[test]
fn another_service_in_the_place_of_nats_is_told_from_none() {
    let site = Site::new();
    let server = RedisServer::start(&site.path().join("redis"), "");
    let relay = alone(&site, "n1");
    Cluster::single(site.path()).copy_to(&relay);
    let broker = format!("{{\"host\": \"{}\"}}", server.address());
    fs::write(relay.path().join("broker.json"), broker).expect("our own file");

    let doctor = relay.command(&["doctor", "--json"]);

    let findings = findings(&doctor);
    let tcp = findings.iter().find(|finding| finding["step"] == "tcp");
    let tcp = tcp.expect("it was tried");
    let seen = tcp["seen"].as_str().unwrap_or_default();
    assert!(
        tcp["verdict"] == "fail" && seen.contains("another service"),
        "{tcp}"
    );
}

#[test]
fn a_broker_that_is_away_is_named_and_nobody_waits_for_it() {
    let site = Site::new();
    let cluster = Cluster::single(site.path());
    let relay = alone(&site, "n1");
    cluster.copy_to(&relay);

    let relay = relay.started();

    let at_tcp = |store: &Value| store["ready"] == false && store["step"] == "tcp";
    let store = store_when(&relay, "status names the step", at_tcp);
    assert!(
        store["host"]
            .as_str()
            .is_some_and(|host| host.contains("127.0.0.1")),
        "{store}"
    );
    let text = relay.command(&["status"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("store (nats): 127.0.0.1") && text.contains("fails at tcp"),
        "{text}"
    );
    let doctor = relay.command(&["doctor", "--json"]);
    assert_eq!(
        of_broker(&doctor).last(),
        Some(&("tcp".to_owned(), "fail".to_owned()))
    );

    let mut server = cluster.serve(0, NatsVersion::Debian);
    wait_ready(&relay);
    server.kill();
    let refused = |store: &Value| {
        at_tcp(store)
            && store["cause"]
                .as_str()
                .is_some_and(|cause| cause.contains("refused"))
    };
    store_when(&relay, "status names the cause", refused);
    let _server = cluster.serve(0, NatsVersion::Debian);
    wait_ready(&relay);
}

#[test]
fn readiness_names_the_store() {
    let site = Site::new();
    let cluster = Cluster::single(site.path());
    let relay = alone(&site, "n1");
    cluster.copy_to(&relay);
    let relay = relay.started();
    let readyz = || {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "--unix-socket"]);
        let asked = curl
            .arg(relay.path().join("relay.sock"))
            .arg("http://admin/readyz");
        let said = asked.output().expect("curl is installed").stdout;
        String::from_utf8_lossy(&said).into_owned()
    };
    eventually("readiness names the step", || {
        let said = readyz();
        said.contains("store") && said.contains("tcp")
    });
}

#[test]
fn a_wrong_file_is_refused_with_the_fix() {
    let site = Site::new();
    let cluster = Cluster::single(site.path());
    let relay = alone(&site, "n1");
    cluster.copy_to(&relay);
    let broker = relay.path().join("broker.json");
    let right = fs::read_to_string(&broker).expect("init wrote it");

    for (wrong, part) in [
        (right.replace("hosts", "hots"), "hots"),
        (right.replace("cluster-ca.pem", "other.pem"), "other.pem"),
        (right.replace("\"nats\"", "\"rabbit\""), "rabbit"),
    ] {
        fs::write(&broker, wrong).expect("our own file");
        for command in ["run", "check"] {
            let refused = relay.command(&[command]);
            let said = [refused.stdout, refused.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert_eq!(refused.status.code(), Some(78), "{command}: {said}");
            assert!(said.contains(part), "{command}: {said}");
        }
    }
}

#[test]
fn init_never_overwrites_and_refuses_what_makes_no_cluster() {
    let site = Site::new();
    let cluster = Cluster::single(site.path());
    let before = fs::read(cluster.folder.join("broker.json")).expect("init wrote it");

    let again = init(&cluster.folder, &["127.0.0.1".to_owned()]).output();
    let again = again.expect("it runs");
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("never overwrites"));
    assert_eq!(
        fs::read(cluster.folder.join("broker.json")).expect("it is there"),
        before
    );

    let two = ["n1", "n2"].map(str::to_owned);
    let refused = init(&site.path().join("two"), &two).output();
    assert_eq!(refused.expect("it runs").status.code(), Some(64));
    assert!(!site.path().join("two").exists());
}

#[test]
fn three_servers_take_what_init_writes() {
    let site = Site::new();
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    let hosts = ports
        .each_ref()
        .map(|port| format!("127.0.0.1:{}", port.number()));
    let cluster = Cluster::of(site.path(), &hosts);

    for host in 0..hosts.len() {
        let mut check = Command::new(NatsVersion::Debian.program());
        check
            .args(["-t", "-c", "nats-server.conf"])
            .current_dir(cluster.folder_of(host));
        let said = check.output().expect("it runs");
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(
            said.status.success(),
            "the server takes what was written: {text}"
        );
    }
}
