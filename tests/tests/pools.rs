//! The same service on two nodes behind one name or raw port: balanced, sticky, and drained without a failure.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sallyport_tests::member::{connect, http_service, member, service, source, visit};
use sallyport_tests::{Gateway, Port, Relay, Site, eventually};
use serde_json::Value;

struct Pool {
    gateway: Gateway,
    port: Port,
    first: Relay,
    _rest: (Relay, Site),
}

fn pool(weights: [u32; 2]) -> Pool {
    let site = Site::new();
    let port = Port::reserve();
    let extra = format!(
        "[[tcp]]\nlisten = \"127.0.0.1:{}\"\npool = \"web\"\n",
        port.number()
    );
    let gateway = site.gateway_with("gw", "127.0.0.1", &extra);
    let [first, second] = [("a", weights[0]), ("b", weights[1])].map(|(name, weight)| {
        let session = format!(
            "[[session]]\nid = \"web-{name}\"\npool = \"web\"\nprotocol = \"tcp\"\naccess = \"public\"\n\
             target = \"127.0.0.1:{}\"\nweight = {weight}\n",
            service(name)
        );
        let relay = site.relay(&format!("node-{name}"), &gateway, &session);
        gateway.wait_session(&format!("web-{name}"));
        relay
    });
    // Each relay's second tunnel comes after the session is up.
    eventually("all tunnels are up", || tunnels_up(&gateway) == 4);
    Pool {
        gateway,
        port,
        first,
        _rest: (second, site),
    }
}

fn tunnels_up(gateway: &Gateway) -> usize {
    let status = gateway.status().unwrap_or_default();
    let tunnels = status.get("tunnels").and_then(Value::as_array).cloned();
    let up = |tunnel: &&Value| tunnel.get("up") == Some(&Value::Bool(true));
    tunnels.unwrap_or_default().iter().filter(up).count()
}

#[test]
fn open_connections_are_balanced_by_weight() {
    for (weights, expected) in [
        ([100, 100], [8, 8]),
        ([300, 100], [12, 4]),
        ([0, 100], [0, 16]),
    ] {
        let pool = pool(weights);
        let mut open = Vec::new();
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for number in 1..=16 {
            let mut stream = connect(pool.port.number(), source(number));
            *count.entry(member(&mut stream)).or_default() += 1;
            open.push(stream);
        }
        let count = ["a", "b"].map(|name| count.get(name).copied().unwrap_or(0));
        assert_eq!(count, expected, "weights {weights:?}");
    }
}

/// The names of the members that answer 40 requests, one after another.
fn asked(policy: &str, weights: [u32; 2]) -> String {
    let site = Site::new();
    let policy = format!("policy = \"{policy}\"\n");
    let gateway = site.gateway_with("gw", "127.0.0.1", &policy);
    let _relays = [("a", weights[0]), ("b", weights[1])].map(|(name, weight)| {
        let session = format!(
            "[[session]]\nid = \"web-{name}\"\npool = \"web\"\nprotocol = \"http\"\naccess = \"public\"\n\
             target = \"127.0.0.1:{}\"\nweight = {weight}\n",
            http_service(name)
        );
        let relay = site.relay(&format!("node-{name}"), &gateway, &session);
        gateway.wait_session(&format!("web-{name}"));
        relay
    });
    let url = gateway.session_url("web", "/");
    let ask = || gateway.curl().arg(&url).go().expect(200).text();
    (0..40).map(|_| ask()).collect()
}

#[test]
fn idle_members_share_requests_that_come_one_after_another() {
    let answers = asked("least-streams", [100, 100]);
    let first = answers.matches('a').count();
    assert!((15..=25).contains(&first), "{answers}");
}

#[test]
fn round_robin_takes_turns_and_sends_no_blocks() {
    for (weights, first, block) in [([100, 100], 20, "aa"), ([300, 100], 30, "aaaa")] {
        let answers = asked("round-robin", weights);
        assert_eq!(answers.matches('a').count(), first, "{answers}");
        assert!(!answers.contains(block), "{answers}");
        assert!(!answers.contains("bb"), "{answers}");
    }
}

#[test]
fn a_source_stays_with_its_member_while_that_is_there() {
    let mut pool = pool([100, 100]);
    let port = pool.port.number();
    // Both members stay busy in turn, so that a free choice would change.
    let mut open: Vec<_> = (1..=6)
        .map(|number| connect(port, source(number)))
        .collect();
    let before: Vec<_> = open.iter_mut().map(member).collect();
    assert!(before.contains(&"a".to_owned()) && before.contains(&"b".to_owned()));

    for _ in 0..5 {
        for (number, name) in (1..).zip(&before) {
            assert_eq!(visit(port, source(number)), format!("{name} hello"));
        }
    }

    drop(open);
    assert!(pool.first.daemon().terminate().success());
    for number in 1..=6 {
        assert_eq!(visit(port, source(number)), "b hello");
    }
    pool.first.start();
    pool.gateway.wait_session("web-a");
    // Whoever moved stays where it is now.
    for number in 1..=6 {
        assert_eq!(visit(port, source(number)), "b hello");
    }
}

#[test]
fn a_drain_fails_no_connection() {
    let mut pool = pool([100, 100]);
    let port = pool.port.number();
    let done = AtomicBool::new(false);
    let mut open: Vec<_> = (1..=8)
        .map(|number| connect(port, source(number)))
        .collect();
    let held: Vec<_> = open.iter_mut().map(member).collect();
    assert!(held.contains(&"a".to_owned()));

    thread::scope(|scope| {
        let clients: Vec<_> = (0..4_u8)
            .map(|client| {
                let done = &done;
                scope.spawn(move || {
                    let mut visits = 0_u32;
                    for number in (1..=250).cycle() {
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                        let said = visit(port, Ipv4Addr::new(127, 0, 10 + client, number));
                        assert!(said == "a hello" || said == "b hello", "{said:?}");
                        visits += 1;
                    }
                    visits
                })
            })
            .collect();
        let first = pool.first.daemon();
        first.signal(rustix::process::Signal::TERM);
        eventually("both tunnels drain", || {
            let log = pool.gateway.log();
            log.matches("relay drains this tunnel").count() == 2
        });
        for number in 1..=50 {
            assert_eq!(visit(port, Ipv4Addr::new(127, 0, 20, number)), "b hello");
        }
        // What was open is still carried, and lets the relay go when it ends.
        for stream in &mut open {
            stream.write_all(b"still").expect("open");
            let mut back = [0; 5];
            stream.read_exact(&mut back).expect("open");
            assert_eq!(&back, b"still");
        }
        assert!(
            first.is_running().expect("known"),
            "it waits for its streams"
        );
        drop(open);
        assert!(first.wait().success());
        done.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().expect("no connection failed") > 0);
        }
    });
}

#[test]
fn a_node_that_drains_keeps_who_is_there_and_gets_nobody_new() {
    let mut pool = pool([100, 100]);
    let port = pool.port.number();
    let mut open: Vec<_> = (1..=8)
        .map(|number| connect(port, source(number)))
        .collect();
    let held = open
        .iter_mut()
        .map(member)
        .filter(|name| name == "a")
        .count();
    assert!(held > 0);

    let drained = pool
        .first
        .command(&["drain", "node-a", "--deadline", "1h", "--json"]);
    let drained: Value = serde_json::from_slice(&drained.stdout).expect("JSON");
    assert_eq!(
        (&drained["draining"], &drained["streams"]),
        (&true.into(), &held.into())
    );
    let visits =
        |from: u8| (1..=20).map(move |number| visit(port, Ipv4Addr::new(127, 0, from, number)));
    eventually("the gateway knows", || {
        visits(30).all(|said| said == "b hello")
    });
    for stream in &mut open {
        stream.write_all(b"still").expect("open");
        let mut back = [0; 5];
        stream.read_exact(&mut back).expect("open");
    }

    let late = pool
        .first
        .command(&["drain", "node-a", "--deadline", "0s", "--wait"]);
    let said = String::from_utf8_lossy(&late.stderr);
    assert!(
        !late.status.success() && said.contains(&format!("{held} streams are left")),
        "{said}"
    );
    thread::scope(|scope| {
        let first = &pool.first;
        let waiting = scope.spawn(|| first.command(&["drain", "node-a", "--wait"]));
        assert!(!waiting.is_finished(), "somebody is there");
        drop(open);
        assert!(waiting.join().expect("it ran").status.success());
    });

    assert!(pool.first.daemon().terminate().success());
    pool.first.start();
    pool.gateway.wait_session("web-a");
    eventually("all tunnels are up", || tunnels_up(&pool.gateway) == 4);
    assert!(
        visits(31).all(|said| said == "b hello"),
        "it drains after a restart"
    );
    assert!(pool.first.command(&["undrain", "node-a"]).status.success());
    eventually("it gets its share again", || {
        visits(32).any(|said| said == "a hello")
    });
}
