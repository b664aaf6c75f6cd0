//! Nodes of one cluster that do not share a store: each says so, and which broker.json is to be copied where.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;

use sallyport_tests::broker::NatsVersion;
use sallyport_tests::cluster::Cluster;
use sallyport_tests::{Port, Relay, Site, eventually, eventually_some};
use serde_json::Value;

/// Node `near`, which dials `far`.
struct Two {
    near: Relay,
    far: Relay,
    _port: Port,
    site: Site,
}

fn two() -> Two {
    let (site, port) = (Site::new(), Port::reserve());
    let number = port.number();
    let near = format!("[[peer]]\nnode = \"far\"\naddress = \"127.0.0.1:{number}\"\n");
    let near = site.relay_stopped("near", &[], &near);
    let far = format!("[direct]\nlisten = \"127.0.0.1:{number}\"\n");
    let far = site.relay_stopped("far", &[], &far);
    Two {
        near,
        far,
        _port: port,
        site,
    }
}

fn copy_keys(from: &Relay, to: &Relay) {
    let keys = "cluster-keys.json";
    fs::copy(from.path().join(keys), to.path().join(keys)).expect("copied");
}

/// The stores that a relay says others have.
fn others(relay: &Relay) -> Option<Vec<Value>> {
    relay.status()?["store"]["others"].as_array().cloned()
}

/// The one other store, once the relay has heard of it: who has it, and what to do.
fn other(relay: &Relay) -> (Value, String) {
    eventually_some("it hears of the other store", || {
        let other = others(relay)?.pop()?;
        let cure = other["cure"].as_str()?.to_owned();
        Some((other["nodes"].clone(), cure))
    })
}

/// What doctor finds of other stores.
fn doctor(relay: &Relay) -> Vec<(String, String)> {
    let found = relay.command(&["doctor", "--json"]).stdout;
    let found: Vec<Value> = serde_json::from_slice(&found).expect("an array");
    let is_other = |seen: &Value| {
        seen.as_str()
            .is_some_and(|seen| seen.contains("another store"))
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let others = found.iter().filter(|finding| is_other(&finding["seen"]));
    others
        .map(|finding| (text(&finding["verdict"]), text(&finding["cure"])))
        .collect()
}

#[test]
fn a_node_without_the_broker_of_the_others_is_named_until_it_has_it() {
    let Two {
        mut near,
        far,
        _port,
        site,
    } = two();
    let cluster = Cluster::single(site.path());
    let _server = cluster.serve(0, NatsVersion::Debian);
    cluster.copy_to(&far);
    copy_keys(&far, &near);
    let far = far.started();
    near.start();

    let (here, there) = (other(&near), other(&far));

    assert_eq!(
        (&here.0, &there.0),
        (&serde_json::json!(["far"]), &serde_json::json!(["near"]))
    );
    assert!(here.1.contains("from node far here"), "{here:?}");
    assert!(there.1.contains("from here to near"), "{there:?}");
    for (relay, (_, cure)) in [(&near, &here), (&far, &there)] {
        assert_eq!(doctor(relay), [("fail".to_owned(), cure.clone())]);
        drop(relay.wait_for_line(&["WARN", "have another store", cure]));
        let status = relay.command(&["status"]).stdout;
        let status = String::from_utf8_lossy(&status).into_owned();
        assert!(status.contains(cure.as_str()), "{status}");
    }

    assert!(near.daemon().terminate().success());
    cluster.copy_to(&near);
    near.start();
    for relay in [&near, &far] {
        eventually("both have one store", || {
            let status = relay.status().unwrap_or_default();
            let is_linked = status["peers"][0]["direction"].is_string();
            is_linked && status["store"]["id"].is_string() && others(relay) == Some(Vec::new())
        });
        assert_eq!(doctor(relay), []);
    }
    let ids = [&near, &far].map(|relay| relay.status().expect("it runs")["store"]["id"].clone());
    assert_eq!(ids[0], ids[1]);
    drop(far.wait_for_line(&["INFO", "this other store any more"]));
    assert_eq!(far.log().matches("have another store").count(), 1);
}

#[test]
fn nodes_without_any_broker_hear_that_one_would_make_them_share() {
    let Two {
        near,
        far,
        _port,
        site: _site,
    } = two();
    assert!(near.command(&["cluster-key", "add"]).status.success());
    copy_keys(&near, &far);
    let (near, far) = (near.started(), far.started());
    for relay in [&near, &far] {
        let (_, cure) = other(relay);
        assert!(cure.contains("cluster init"), "{cure}");
        assert_eq!(doctor(relay), [("warn".to_owned(), cure)]);
        assert!(!relay.log().contains("have another store"));
    }
}
