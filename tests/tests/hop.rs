//! Sessions of nodes that no gateway has a tunnel of: reached over another node of the cluster.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use sallyport_tests::broker::NatsVersion;
use sallyport_tests::cluster::Cluster;
use sallyport_tests::service::Nginx;
use sallyport_tests::{Answer, Gateway, Port, Relay, Site, eventually, eventually_some};
use serde_json::Value;

fn session(id: &str, port: u16) -> String {
    format!(
        "[[session]]\nid = \"{id}\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{port}\"\naccess = \"public\"\n"
    )
}

fn listen(port: &Port) -> String {
    format!("[direct]\nlisten = \"127.0.0.1:{}\"\n", port.number())
}

fn peer(node: &str, port: &Port) -> String {
    format!(
        "[[peer]]\nnode = \"{node}\"\naddress = \"127.0.0.1:{}\"\n",
        port.number()
    )
}

/// Gives all of them the keys of the first, made now.
fn one_cluster(relays: &[&Relay]) {
    let (first, others) = relays.split_first().expect("at least one");
    let added = first.command(&["cluster-key", "add"]);
    assert!(added.status.success(), "{added:?}");
    others.iter().for_each(|other| copy_keys(first, other));
}

fn copy_keys(from: &Relay, to: &Relay) {
    let beside = to.path().join("cluster-keys.new");
    fs::copy(from.path().join("cluster-keys.json"), &beside).expect("copied");
    fs::rename(beside, to.path().join("cluster-keys.json")).expect("swapped");
}

fn peers(relay: &Relay) -> Vec<Value> {
    let status = relay.status().unwrap_or_default();
    let peers = status.get("peers").and_then(Value::as_array).cloned();
    peers.unwrap_or_default()
}

fn ask(gateway: &Gateway, id: &str) -> Answer {
    gateway.curl().arg(gateway.session_url(id, "/echo")).go()
}

/// A gateway whose key lets nodes offer ways, `near` with a tunnel to it, and `far` with a session and none.
struct Lan {
    far: Relay,
    near: Relay,
    gateway: Gateway,
    nginx: Nginx,
    site: Site,
    _port: Port,
}

fn lan() -> Lan {
    lan_with("")
}

/// With more about the node that is not reached by a gateway.
fn lan_with(of_peer: &str) -> Lan {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let gateway = site.gateway("gw");
    let added = gateway.command(&["key", "add", "--via"]);
    assert!(added.status.success(), "{added:?}");
    let port = Port::reserve();
    let web = nginx.port.number();
    let near = peer("far", &port) + of_peer + &session("near", web);
    let near = site.relay_stopped("near", &[&gateway], &near);
    let far = site.relay_stopped("far", &[], &(listen(&port) + &session("desk", web)));
    one_cluster(&[&near, &far]);
    let (near, far) = (near.started(), far.started());
    gateway.wait_session("desk");
    gateway.wait_session("near");
    Lan {
        far,
        near,
        gateway,
        nginx,
        site,
        _port: port,
    }
}

#[test]
fn a_session_of_a_node_without_a_gateway_is_reached_over_another_node() {
    let lan = lan();

    let answer = ask(&lan.gateway, "desk").expect(200);

    assert!(answer.text().contains("for=127.0.0.1"), "{}", answer.text());
    let directions: Vec<_> = [&lan.near, &lan.far]
        .into_iter()
        .flat_map(peers)
        .map(|row| (row["node"].clone(), row["direction"].clone()))
        .collect();
    let expected = [("far", "to"), ("near", "from")];
    assert_eq!(directions, expected.map(|(n, d)| (n.into(), d.into())));
    drop(ask(&lan.gateway, "elsewhere").expect(404));
}

#[test]
fn a_killed_node_is_missed_by_name_and_found_again() {
    let mut lan = lan();

    lan.far.daemon().kill();
    eventually("the session is told to be down", || {
        ask(&lan.gateway, "desk").status() == 503
    });
    drop(ask(&lan.gateway, "near").expect(200));
    lan.far.start();
    lan.gateway.wait_session("desk");
    drop(ask(&lan.gateway, "desk").expect(200));

    lan.near.daemon().kill();
    eventually("the way is missed", || {
        !lan.gateway.has_session("desk") && ask(&lan.gateway, "desk").status() == 503
    });
    lan.near.start();
    lan.gateway.wait_session("desk");
    drop(ask(&lan.gateway, "desk").expect(200));

    lan.gateway.daemon().kill();
    lan.gateway.start();
    lan.gateway.wait_ready();
    lan.gateway.wait_session("desk");
    drop(ask(&lan.gateway, "desk").expect(200));
}

#[test]
fn a_download_whose_far_node_dies_is_cut_and_not_complete() {
    let mut lan = lan();
    let whole = vec![b'x'; 64 << 20];
    fs::write(lan.nginx.root.join("large"), &whole).expect("writable");
    let got = lan.site.path().join("got");
    let mut curl = Command::new("curl")
        .args(["-sS", "--limit-rate", "2M", "--cacert"])
        .arg(lan.gateway.certificate())
        .arg("--output")
        .arg(&got)
        .arg(lan.gateway.session_url("desk", "/large"))
        .stderr(Stdio::null())
        .spawn()
        .expect("curl is installed");
    eventually("bytes come", || {
        fs::metadata(&got).is_ok_and(|f| f.len() > 0)
    });

    lan.far.daemon().kill();

    let ended = curl.wait().expect("it ends");
    assert!(!ended.success(), "a cut download is an error");
    assert!(fs::metadata(&got).expect("there").len() < whole.len() as u64);
}

#[test]
fn a_home_with_a_tunnel_of_its_own_needs_no_other_node() {
    let mut lan = lan();
    let file = lan.far.path().join("gateways/gw.json");
    fs::copy(lan.gateway.path().join("gateway.json"), file).expect("copied");
    drop(lan.gateway.wait_for_line(&["relay joined", "far"]));

    lan.near.daemon().kill();

    eventually("the node is gone", || !lan.gateway.has_session("near"));
    lan.gateway.wait_session("desk");
    drop(ask(&lan.gateway, "desk").expect(200));
}

#[test]
fn a_stream_from_another_node_goes_no_further() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let gateway = site.gateway("gw");
    assert!(gateway.command(&["key", "add", "--via"]).status.success());
    let (b, c) = (Port::reserve(), Port::reserve());
    let web = nginx.port.number();
    let first = site.relay_stopped("a", &[&gateway], &peer("b", &b));
    let middle = listen(&b) + &peer("c", &c) + &session("middle", web);
    let middle = site.relay_stopped("b", &[], &middle);
    let last = site.relay_stopped("c", &[], &(listen(&c) + &session("last", web)));
    one_cluster(&[&first, &middle, &last]);
    let _all = [first.started(), middle.started(), last.started()];

    gateway.wait_session("middle");
    drop(ask(&gateway, "middle").expect(200));
    drop(ask(&gateway, "last").expect(404));
}

#[test]
fn cluster_keys_are_rotated_under_requests_and_none_fails() {
    let lan = lan();
    let kids = |relay: &Relay| -> Vec<String> {
        let listed = relay.command(&["cluster-key", "list", "--json"]);
        let rows: Vec<Value> = serde_json::from_slice(&listed.stdout).expect("one array");
        let kid = |row: &Value| row["kid"].as_str().map(str::to_owned);
        rows.iter().filter_map(kid).collect()
    };
    let (stop, failed, done) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));

    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let fine = ask(&lan.gateway, "desk").status() == 200;
                let count = if fine { &done } else { &failed };
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let old = kids(&lan.near);
        assert!(lan.near.command(&["cluster-key", "add"]).status.success());
        copy_keys(&lan.near, &lan.far);
        let uses_new = |relay: &Relay| {
            let rows = peers(relay);
            let is_new = |row: &Value| row["kid"].as_str().is_some_and(|kid| kid != old[0]);
            !rows.is_empty() && rows.iter().all(is_new)
        };
        eventually("both ends show the new key", || {
            uses_new(&lan.near) && uses_new(&lan.far)
        });
        for relay in [&lan.near, &lan.far] {
            let revoked = relay.command(&["cluster-key", "revoke", &old[0]]);
            assert!(revoked.status.success(), "{revoked:?}");
            drop(relay.wait_for_line(&["cluster keys taken", "removed", &old[0]]));
        }
        let before = done.load(Ordering::Relaxed);
        eventually("requests go on", || {
            done.load(Ordering::Relaxed) > before + 50
        });
        stop.store(true, Ordering::Relaxed);
    });

    assert_eq!(failed.load(Ordering::Relaxed), 0);
    let ended = lan.near.log().matches("peer tunnel ended").count();
    assert_eq!(ended, 0, "the tunnel outlived its first key");
}

#[test]
fn without_the_clusters_key_nobody_comes_in_and_none_is_told_why() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let port = Port::reserve();
    let config = listen(&port) + &session("desk", nginx.port.number());
    let far = site.relay_stopped("far", &[], &config);
    let stranger = site.relay_stopped("stranger", &[], &peer("far", &port));
    one_cluster(&[&far]);
    one_cluster(&[&stranger]);
    let (far, stranger) = (far.started(), stranger.started());

    drop(far.wait_for_line(&["node refused", "stranger", "unauthorised"]));
    drop(stranger.wait_for_line(&["far", "refused: not authorised"]));
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port.number()));
    assert!(connect().is_ok(), "it listens");
    let browser = Command::new("curl")
        .args(["-sSk", "--max-time", "20"])
        .arg(format!("https://localhost:{}/s/desk/echo", port.number()))
        .output()
        .expect("curl is installed");
    assert_eq!(browser.status.code(), Some(35), "no handshake: {browser:?}");
    assert!(peers(&far).is_empty());
}

#[test]
fn another_node_key_than_the_configured_one_is_not_believed() {
    let site = Site::new();
    let port = Port::reserve();
    let id = "0123456789abcdef0123456789abcdef";
    let far = site.relay_stopped("far", &[], &listen(&port));
    let near = peer("far", &port) + &format!("id = \"{id}\"\n");
    let near = site.relay_stopped("near", &[], &near);
    one_cluster(&[&near, &far]);
    let (_far, near) = (far.started(), near.started());

    drop(near.wait_for_line(&["did not prove to be node far", id]));
    assert!(peers(&near).iter().all(|row| row["direction"] != "to"));
}

#[test]
fn a_node_that_is_not_kept_is_dialled_when_a_stream_wants_it() {
    let mut lan = lan_with("keep = false\n[limits]\npeer_idle = \"1s\"\n");
    let rests = |lan: &Lan| peers(&lan.near).is_empty() && peers(&lan.far).is_empty();
    eventually("nobody needs the tunnel", || rests(&lan));
    assert!(lan.gateway.has_session("desk"), "it is known still");

    drop(ask(&lan.gateway, "desk").expect(200));
    let up = peers(&lan.near);
    assert_eq!(up[0]["direction"], "to", "{up:?}");

    // What moves bytes is needed, however long it takes.
    let whole = vec![b'x'; 6 << 20];
    fs::write(lan.nginx.root.join("slow"), &whole).expect("writable");
    let url = lan.gateway.session_url("desk", "/slow");
    let slow = lan.gateway.curl().args(&["--limit-rate", "1M"]).arg(url);
    assert_eq!(slow.go().expect(200).body.len(), whole.len());
    let ended = |lan: &Lan| lan.near.log().matches("peer tunnel ended").count();
    assert_eq!(ended(&lan), 1, "the tunnel before alone");
    eventually("nobody needs it any more", || rests(&lan));

    // A node that died while it was not needed is missed by who wants it.
    lan.far.daemon().kill();
    let missed = ask(&lan.gateway, "desk");
    assert_eq!(missed.status(), 503, "{missed:?}");
    lan.far.start();
    eventually("it is reached again", || {
        ask(&lan.gateway, "desk").status() == 200
    });
}

#[test]
fn a_name_belongs_to_the_node_key_that_came_first() {
    let site = Site::new();
    let port = Port::reserve();
    let far = listen(&port) + "[limits]\npeer_names = 1\n";
    let far = site.relay_stopped("far", &[], &far);
    let [near, other] =
        ["near", "other"].map(|node| site.relay_stopped(node, &[], &peer("far", &port)));
    one_cluster(&[&far, &near, &other]);
    let (mut far, mut near) = (far.started(), near.started());
    drop(near.wait_for_line(&["peer tunnel up", "far"]));
    let other = other.started();
    drop(far.wait_for_line(&["node refused", "other", "limits.peer_names"]));
    drop(other);
    let is_up = |near: &Relay| peers(near).iter().any(|row| row["direction"] == "to");

    // Another machine that has the keys of the cluster comes under the name of one that is away.
    near.daemon().kill();
    far.daemon().kill();
    fs::remove_file(near.path().join("state/identity.json")).expect("there");
    far.start();
    near.start();
    drop(far.wait_for_line(&["node refused", "near", "peers forget near"]));
    assert!(!is_up(&near));
    let forgotten = far.command(&["peers", "forget", "near"]);
    assert!(forgotten.status.success(), "{forgotten:?}");
    eventually("the name is its own", || is_up(&near));

    // Such a machine answers at the address of another.
    far.daemon().kill();
    fs::remove_file(far.path().join("state/identity.json")).expect("there");
    far.start();
    drop(near.wait_for_line(&["did not prove to be node far", "peers forget far"]));
    assert!(!is_up(&near));
    let forgotten = near.command(&["peers", "forget", "far"]);
    assert!(forgotten.status.success(), "{forgotten:?}");
    eventually("it is believed", || is_up(&near));
    let listed = near.command(&["peers", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let id = far.status().and_then(|status| status.get("id").cloned());
    assert_eq!(Some(&listed[0]["id"]), id.as_ref());
}

#[test]
fn all_names_that_a_revoked_key_has_taken_are_released_together() {
    let site = Site::new();
    let port = Port::reserve();
    let far = site.relay_stopped("far", &[], &listen(&port));
    let others = ["near", "other"].map(|node| site.relay_stopped(node, &[], &peer("far", &port)));
    let [near, other] = &others;
    one_cluster(&[&far, near, other]);
    let far = far.started();
    let names = || -> Vec<(String, String)> {
        let listed = far.command(&["peers", "--json"]).stdout;
        let listed: Vec<Value> = serde_json::from_slice(&listed).unwrap_or_default();
        let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
        let pair = |row: &Value| (text(row, "node"), text(row, "kid"));
        listed.iter().map(pair).collect()
    };
    let [near, other] = others.map(Relay::started);
    eventually("both names are taken", || names().len() == 2);
    let old = names()[0].1.clone();
    let forget = || far.command(&["peers", "forget", "--key", &old]);

    let live = forget();
    let said = String::from_utf8_lossy(&live.stderr).into_owned();
    assert!(
        live.status.code() == Some(1) && said.contains("is live"),
        "{said}"
    );

    for args in [
        &["cluster-key", "add"][..],
        &["cluster-key", "revoke", &old],
    ] {
        assert!(far.command(args).status.success(), "{args:?}");
        copy_keys(&far, &near);
        copy_keys(&far, &other);
    }
    let freed = eventually_some("the key is not live any more", || {
        let freed = far.command(&["peers", "forget", "--key", &old, "--json"]);
        freed.status.success().then_some(freed.stdout)
    });
    let freed: Value = serde_json::from_slice(&freed).expect("JSON");
    assert_eq!(freed["names"], 2, "{freed}");
    eventually("their nodes have them again, by the new key", || {
        let names = names();
        names.len() == 2 && names.iter().all(|(_, kid)| *kid != old)
    });
    let none = forget();
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(said.contains("no name was taken by the key"), "{said}");
    for args in [
        &["peers", "forget"][..],
        &["peers", "forget", "near", "--key", &old],
    ] {
        assert_eq!(far.command(args).status.code(), Some(64), "{args:?}");
    }
}

#[test]
fn the_port_holds_so_many_and_no_more() {
    let site = Site::new();
    for limit in ["handshakes", "handshakes_per_source"] {
        let port = Port::reserve();
        let config = listen(&port) + &format!("[limits]\n{limit} = 1\n");
        let far = site.relay_stopped(&limit.replace('_', "-"), &[], &config);
        let far = far.started();
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port.number()));
        let first = eventually_some("it listens", || connect().ok());
        let _second = connect().expect("it listens");
        drop(far.wait_for_line(&["dropped: too many handshakes in progress"]));
        drop(first);
    }

    let port = Port::reserve();
    let config = listen(&port) + "[limits]\npeer_tunnels = 1\n";
    let far = site.relay_stopped("far", &[], &config);
    let dialling = ["one", "two"].map(|node| site.relay_stopped(node, &[], &peer("far", &port)));
    one_cluster(&[&far, &dialling[0], &dialling[1]]);
    let (far, _dialling) = (far.started(), dialling.map(Relay::started));
    drop(far.wait_for_line(&["node refused", "limits.peer_tunnels"]));
    assert_eq!(peers(&far).len(), 1);
}

#[test]
fn nodes_that_the_cluster_tells_of_are_reached_without_being_named() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let cluster = Cluster::single(site.path());
    let _broker = cluster.serve(0, NatsVersion::Debian);
    let gateway = site.gateway("gw");
    let added = gateway.command(&["key", "add", "--via"]);
    assert!(added.status.success(), "{added:?}");
    let ports = [Port::reserve(), Port::reserve()];
    let web = nginx.port.number();
    let near = site.relay_stopped("near", &[&gateway], &session("near", web));
    let far = ["far-1", "far-2"].map(|node| (node, format!("desk-{node}")));
    let mut far: Vec<_> = far
        .iter()
        .zip(&ports)
        .map(|((node, desk), port)| {
            site.relay_stopped(node, &[], &(listen(port) + &session(desk, web)))
        })
        .collect();
    for relay in far.iter().chain([&near]) {
        cluster.copy_to(relay);
    }
    let near = near.started();
    far.iter_mut().for_each(|relay| relay.start());

    for id in ["desk-far-1", "desk-far-2", "near"] {
        gateway.wait_session(id);
        drop(ask(&gateway, id).expect(200));
    }
    assert_eq!(peers(&near).len(), 2);

    // a node that is gone is told so, and is there again when it is
    far[0].daemon().kill();
    eventually("the session is down", || {
        let answer = gateway
            .curl()
            .arg(gateway.session_url("desk-far-1", "/echo"));
        answer.go().status() == 503
    });
    drop(ask(&gateway, "desk-far-2").expect(200));
    far[0].start();
    eventually("the session is there again", || {
        let answer = gateway
            .curl()
            .arg(gateway.session_url("desk-far-1", "/echo"));
        answer.go().status() == 200
    });
}
