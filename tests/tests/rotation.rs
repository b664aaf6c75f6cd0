//! Keys change while people work.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use sallyport_tests::service::Nginx;
use sallyport_tests::{Gateway, Site, eventually};
use serde_json::Value;

fn key_ids(gateway: &Gateway) -> Vec<String> {
    let output = gateway.command(&["key", "list", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let keys: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let id = |key: &Value| key.get("kid").and_then(Value::as_str).map(str::to_owned);
    keys.as_array()
        .expect("one array")
        .iter()
        .filter_map(id)
        .collect()
}

/// The key that the gateway's tunnels are authenticated with just now.
fn used(gateway: &Gateway) -> Vec<String> {
    let status = gateway.status().unwrap_or_default();
    let tunnels = status
        .get("tunnels")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let kid = |tunnel: &Value| tunnel.get("kid").and_then(Value::as_str).map(str::to_owned);
    tunnels.iter().filter_map(kid).collect()
}

#[test]
fn add_copy_revoke_under_load_fails_no_request() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let gateway = site.gateway("gw");
    let relay = site.relay(
        "node-a",
        &gateway,
        &format!("[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{}\"\naccess = \"public\"\n",
            nginx.port.number()),
    );
    gateway.wait_session("web");
    let (stop, failed, done) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));

    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let answer = gateway.curl().arg(gateway.session_url("web", "/echo")).go();
                    let count = if answer.status() == 200 {
                        &done
                    } else {
                        &failed
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let old = key_ids(&gateway);
        let out = site.path().join("new.json");
        let added = gateway.command(&["key", "add", "--out", &out.display().to_string()]);
        assert!(added.status.success(), "{added:?}");
        let new: Vec<String> = key_ids(&gateway)
            .into_iter()
            .filter(|kid| !old.contains(kid))
            .collect();
        assert_eq!(new.len(), 1);

        let copy = relay
            .path()
            .join(format!("gateways/{}.json", gateway.port()));
        let beside = copy.with_extension("new");
        fs::copy(&out, &beside).expect("copied");
        fs::rename(&beside, &copy).expect("swapped");
        eventually("the tunnels use the new key", || {
            let used = used(&gateway);
            !used.is_empty() && used.iter().all(|kid| new.contains(kid))
        });
        for kid in &old {
            assert!(gateway.command(&["key", "revoke", kid]).status.success());
            drop(gateway.wait_for_line(&["keys taken", "removed", kid]));
        }
        let before = done.load(Ordering::Relaxed);
        eventually("requests go on", || {
            done.load(Ordering::Relaxed) > before + 50
        });
        stop.store(true, Ordering::Relaxed);
    });

    assert_eq!(failed.load(Ordering::Relaxed), 0);
    assert!(gateway.has_session("web"));
}

#[test]
fn a_certificate_that_relays_would_refuse_is_not_taken() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let other = site.gateway_init("other", "127.0.0.1", &[]);
    for file in ["cert.pem", "key.pem"] {
        fs::copy(other.path().join(file), gateway.path().join(file)).expect("copied");
    }

    drop(gateway.wait_for_line(&["not taken", "pin", "Keep the private key"]));
    let checked = gateway.command(&["check"]);
    let said = String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(78), "{said}");
    assert!(said.contains("first add its pin"), "{said}");

    let read = |gateway: &Gateway| -> Value {
        let text = fs::read(gateway.path().join("gateway.json")).expect("there");
        serde_json::from_slice(&text).expect("JSON")
    };
    let pin = read(&other)["gateways"][0]["pins"][0].clone();
    let mut file = read(&gateway);
    file["gateways"][0]["pins"]
        .as_array_mut()
        .expect("pins")
        .push(pin);
    fs::write(gateway.path().join("gateway.json"), file.to_string()).expect("writable");
    drop(gateway.wait_for_line(&["certificate taken"]));
    assert!(gateway.command(&["check"]).status.success());
}

#[test]
fn a_key_that_one_of_two_gateways_lacks_ends_no_tunnel() {
    let site = Site::new();
    let first = site.gateway("gw-1");
    let joined = first.path().join("gateway.json").display().to_string();
    let mut second = site.gateway_init("gw-2", "127.0.0.1", &["--join", &joined]);
    second.start();
    second.wait_ready();
    let relay = site
        .relay_stopped(
            "node-a",
            &[&second],
            "[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:9\"\naccess = \"public\"\n",
        )
        .started();
    first.wait_session("web");
    second.wait_session("web");
    let old = used(&first);

    let out = site.path().join("new.json");
    let added = second.command(&["key", "add", "--out", &out.display().to_string()]);
    let said = String::from_utf8_lossy(&added.stdout);
    assert!(added.status.success(), "{added:?}");
    assert!(said.contains("over the gateway.json of each"), "{said}");
    let copy = relay
        .path()
        .join(format!("gateways/{}.json", second.port()));
    let beside = copy.with_extension("new");
    fs::copy(&out, &beside).expect("copied");
    fs::rename(&beside, &copy).expect("swapped");

    drop(relay.wait_for_line(&["does not know this key yet"]));
    drop(first.wait_for_line(&["fresh token not taken"]));
    eventually("the other one takes it", || {
        let used = used(&second);
        !used.is_empty() && used.iter().all(|kid| !old.contains(kid))
    });
    assert!(used(&first).iter().all(|kid| old.contains(kid)));
}

#[test]
fn a_revoked_key_ends_its_tunnels() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let _relay = site.relay(
        "node-a",
        &gateway,
        "[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:9\"\naccess = \"public\"\n",
    );
    gateway.wait_session("web");
    let old = key_ids(&gateway);
    assert!(
        gateway
            .command(&[
                "key",
                "add",
                "--out",
                &site.path().join("k.json").display().to_string()
            ])
            .status
            .success()
    );

    assert!(
        gateway
            .command(&["key", "revoke", old.first().expect("one key")])
            .status
            .success()
    );

    eventually("the tunnels are closed", || !gateway.has_session("web"));
    drop(gateway.wait_for_line(&["unauthorised", "node-a"]));
}
