//! Requests that come before their relay does, and those that must not wait for one.

use std::time::Duration;

use sallyport_wire::Code;
use sallyport_wire::message::{Offer, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::bench::{BOUND, Gateway, Node, advertise, offer};
use crate::port::Port;

/// A wait that no test outlasts.
const LONG: &str = "[limits]\nrelay_wait = \"1h\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_a_relay_after_a_start() {
    let raw = Port::reserve();
    let mut gateway = Gateway::start(&format!(
        "{LONG}[[tcp]]\nlisten = \"127.0.0.1:{}\"\npool = \"shells\"\n",
        raw.number()
    ))
    .await;
    let node = Node::new("n1", &gateway);
    let offers = || {
        let shell = Offer {
            pool: "shells".to_owned(),
            ..offer("shell-1", Protocol::Tcp)
        };
        [offer("web", Protocol::Http), shell]
    };
    for generation in 1..=2 {
        let client = async {
            let mut client = TcpStream::connect(("127.0.0.1", raw.number()))
                .await
                .expect("it listens");
            client.shutdown().await.expect("half-closed");
            let mut said = String::new();
            client.read_to_string(&mut said).await.expect("the end");
            said
        };
        let relay = async {
            let waits = |name: &str| format!("{name}: no relay is connected");
            for name in ["web", "pool shells"] {
                gateway
                    .until_logged(&["waiting for a relay", &waits(name)])
                    .await;
            }
            node.serve(generation, &offers()).await
        };
        let (page, said, (tunnel, _)) = tokio::join!(gateway.get("/s/web/"), client, relay);
        assert_eq!(page, (200, "n1".to_owned()));
        assert_eq!(said, "n1");
        // The second time the gateway knows the node, and that it is missing.
        gateway.kill();
        tunnel.closed().await;
        std::fs::write(gateway.path("log"), "").expect("writable");
        gateway.run().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_the_first_probe_of_a_tunnel() {
    // However long the first probe takes here, it is not missed.
    let probes = "[tunnels]\nprobe_every = \"1h\"\n";
    let gateway = Gateway::start(&format!("{LONG}{probes}")).await;
    let node = Node::new("n1", &gateway);
    let tunnel = node.dial(1).await.expect("let in");
    advertise(&tunnel, &[offer("web", Protocol::Http)]).await;

    let answer = async {
        gateway.until_logged(&["waiting for a relay", "web"]).await;
        node.answer(&tunnel);
    };
    let (page, ()) = tokio::join!(gateway.get("/s/web/"), answer);
    assert_eq!(page, (200, "n1".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends() {
    let gateway = Gateway::start("[limits]\nrelay_wait = \"300ms\"\n").await;
    let start = Instant::now();
    assert_eq!(gateway.get("/s/web/").await.0, 503);
    assert!(start.elapsed() >= Duration::from_millis(300));
    gateway
        .until_logged(&["\"status\":503", "web: no relay is connected"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_wait_and_no_more() {
    let gateway = Gateway::start(&format!("{LONG}relay_waiting = 1\n")).await;
    let second = async {
        gateway.until_logged(&["waiting for a relay", "one"]).await;
        assert_eq!(gateway.get("/s/two/").await.0, 503);
        gateway
            .until_logged(&["two: no relay is connected, and 1 requests wait already"])
            .await;
    };
    // The first one is given up, and leaves room.
    tokio::select! {
        (status, _) = gateway.get("/s/one/") => panic!("{status} before there was a relay"),
        () = second => {}
    }
    let node = Node::new("n1", &gateway);
    let relay = async {
        gateway
            .until_logged(&["waiting for a relay", "three"])
            .await;
        node.serve(1, &[offer("three", Protocol::Http)]).await
    };
    let (page, _tunnel) = tokio::join!(
        async {
            loop {
                let page = gateway.get("/s/three/").await;
                if page.0 != 503 {
                    return page;
                }
            }
        },
        relay
    );
    assert_eq!(page, (200, "n1".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_what_was_lost_or_is_unknown() {
    let gateway = Gateway::start(LONG).await;
    let node = Node::new("n1", &gateway);
    let pooled = Offer {
        pool: "pooled".to_owned(),
        ..offer("web", Protocol::Http)
    };
    let (tunnel, _) = node.serve(1, &[pooled]).await;
    gateway.until_session("web", true).await;
    let at_once = async |path: &str| {
        let answer = tokio::time::timeout(BOUND, gateway.get(path)).await;
        answer.expect("at once").0
    };
    assert_eq!(at_once("/s/nowhere/").await, 404);

    tunnel.close(Code::Closed);
    gateway.until_session("web", false).await;
    for path in ["/s/web/", "/s/pooled/", "/s/nowhere/"] {
        assert_eq!(at_once(path).await, 503, "{path}");
    }
    gateway
        .until_logged(&["\"code\":\"home_lost\"", "its home n1 was lost lately"])
        .await;
}
