//! Two machines that are configured as one node: the first keeps the name, and the second is told what to change.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;

use sallyport_tests::broker::NatsVersion;
use sallyport_tests::cluster::Cluster;
use sallyport_tests::{Relay, Site, eventually};
use serde_json::Value;

fn relay(site: &Site, cluster: &Cluster, node: &str) -> Relay {
    let relay = site.relay_stopped(node, &[], "");
    cluster.copy_to(&relay);
    relay.started()
}

/// Which process of a node another node sees, if it sees it and is not told that it may be gone.
fn sees(relay: &Relay, node: &str) -> Option<u64> {
    let servers = relay.command(&["servers", "--json"]).stdout;
    let servers: Vec<Value> = serde_json::from_slice(&servers).ok()?;
    let server = servers.iter().find(|server| server["serverId"] == node)?;
    server["generation"]
        .as_u64()
        .filter(|_| server["stale"] == false)
}

fn generation(relay: &Relay) -> Option<u64> {
    relay.status()?["generation"].as_u64()
}

fn wait_seen(by: &Relay, relay: &Relay) {
    let what = format!("{} sees {}", by.node(), relay.node());
    eventually(&what, || {
        let seen = sees(by, relay.node());
        seen.is_some() && seen == generation(relay)
    });
}

/// What doctor finds of the name: verdict, and what to do.
fn doctor(relay: &Relay) -> Option<(String, String)> {
    let found = relay.command(&["doctor", "--json"]).stdout;
    let found: Vec<Value> = serde_json::from_slice(&found).expect("an array");
    assert!(!found.iter().any(|finding| {
        finding["cure"]
            .as_str()
            .is_some_and(|cure| cure.contains("cluster-keys"))
    }));
    let finding = found.iter().find(|finding| finding["step"] == "name")?;
    let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    Some((text("verdict"), text("cure")))
}

fn said(relay: &Relay) -> String {
    String::from_utf8_lossy(&relay.command(&["status"]).stdout).into_owned()
}

#[test]
fn a_relay_under_a_taken_name_hides_nobody_and_hears_what_to_change() {
    let site = Site::new();
    let cluster = Cluster::single(site.path());
    let _server = cluster.serve(0, NatsVersion::Debian);
    let other = relay(&site, &cluster, "n2");
    let mut first = relay(&site, &cluster, "n1");
    wait_seen(&other, &first);
    let elsewhere = Site::within(site.path());

    let mut second = relay(&elsewhere, &cluster, "n1");

    drop(second.wait_for_line(&["ERROR", "has the name of this node", "node = "]));
    drop(first.wait_for_line(&["WARN", "was refused the name of this node"]));
    assert_eq!(sees(&other, "n1"), generation(&first));
    let (verdict, cure) = doctor(&second).expect("it is told");
    assert!(
        verdict == "fail" && cure.contains("in relay.toml here"),
        "{cure}"
    );
    assert!(said(&second).contains("the name of this node is taken"));
    let (verdict, cure) = doctor(&first).expect("it is told");
    assert!(
        verdict == "warn" && cure.contains("in relay.toml there"),
        "{cure}"
    );
    assert!(said(&first).contains("was refused the name of this node"));

    // the first has its name again at once, also after a crash
    first.daemon().kill();
    first.start();
    wait_seen(&other, &first);
    let log = other.log();
    assert!(
        !log.contains("a node is gone") && !log.contains("not believed"),
        "{log}"
    );

    assert!(second.daemon().terminate().success());
    rename(second.config(), "n3");
    second.start();
    eventually("it is seen under another name", || {
        sees(&other, "n3").is_some()
    });
    assert_eq!(
        (doctor(&second), sees(&other, "n1")),
        (None, generation(&first))
    );
}

fn rename(config: &Path, node: &str) {
    let text = std::fs::read_to_string(config).expect("its configuration");
    let text = text.replacen("\"n1\"", &format!("{node:?}"), 1);
    std::fs::write(config, text).expect("writable");
}
