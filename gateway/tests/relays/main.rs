//! What relays and clients see of a gateway: the real program, with relays made of the link crate alone.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, outside `#[test]` functions"
)]

mod bench;
mod limits;
mod newcomers;
#[path = "../../../tests/src/port.rs"]
#[expect(unreachable_pub, reason = "the file belongs to a library")]
mod port;
mod waiting;

use std::time::{Duration, Instant};

use bench::{Gateway, Node, advertise, eventually, offer};
use port::Port;
use sallyport_link::Choice;
use sallyport_wire::Code;
use sallyport_wire::message::{ControlKind, Offer, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_reached_over_tls_and_over_quic() {
    let gateway = Gateway::start("").await;
    for (choice, name) in [(Choice::Tls, "over-tls"), (Choice::Quic, "over-quic")] {
        let node = Node::new(name, &gateway);
        let tunnel = node.dial_over(choice, 1, 0).await.expect("let in");
        node.answer(&tunnel);
        assert!(
            advertise(&tunnel, &[offer(name, Protocol::Http)])
                .await
                .is_empty()
        );
        gateway.until_session(name, true).await;

        assert_eq!(
            gateway.get(&format!("/s/{name}/")).await,
            (200, name.to_owned())
        );
    }
    assert!(gateway.ask(&["status"]).contains("over-quic"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_process_puts_the_older_one_out_and_an_older_one_is_refused() {
    let gateway = Gateway::start("").await;
    let node = Node::new("n1", &gateway);
    let (older, _) = node.serve(10, &[offer("web", Protocol::Http)]).await;

    let (_newer, refused) = node.serve(11, &[offer("web", Protocol::Http)]).await;
    assert!(refused.is_empty(), "its own session is not taken");
    assert_eq!(older.closed().await.code, Code::Superseded);
    assert_eq!(node.dial(10).await.expect_err("older"), Code::Superseded);
    gateway.until_session("web", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_homes_are_not_stolen() {
    let gateway = Gateway::start("").await;
    let node = Node::new("n1", &gateway);
    let (_tunnel, _) = node.serve(10, &[offer("web", Protocol::Http)]).await;

    let rival = Node::new("n2", &gateway);
    let (_tunnel, refused) = rival.serve(10, &[offer("web", Protocol::Http)]).await;
    assert_eq!(refused, [Code::HomeTaken]);
    let thief = Node::new("n1", &gateway);
    assert_eq!(
        thief.dial(99).await.expect_err("another key"),
        Code::NameTaken
    );
    gateway.until_logged(&["home_taken", "web", "n2"]).await;
    gateway.until_logged(&["name_taken", "n1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_name_is_free_and_a_bound_one_survives_a_crash() {
    let mut gateway = Gateway::start("").await;
    let node = Node::new("n1", &gateway);
    let tunnel = node.dial(10).await.expect("let in");
    gateway.until_bound("n1").await;
    gateway.kill();
    tunnel.closed().await;
    gateway.run().await;

    let other = Node::new("n1", &gateway);
    assert_eq!(
        other.dial(11).await.expect_err("another key"),
        Code::NameTaken
    );
    gateway.ask(&["relays", "forget", "n1"]);
    let tunnel = other.dial(11).await.expect("the name is free");
    assert_eq!(
        node.dial(12).await.expect_err("not any more"),
        Code::NameTaken
    );
    drop(tunnel);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_without_a_data_plane_is_never_up_and_ends() {
    let probes = "[tunnels]\nprobe_every = \"200ms\"\nprobe_misses = 2\n";
    let gateway = Gateway::start(probes).await;
    let node = Node::new("n1", &gateway);
    let tunnel = node.dial(10).await.expect("let in");
    advertise(&tunnel, &[offer("web", Protocol::Http)]).await;

    assert_eq!(gateway.get("/s/web/").await.0, 503);
    assert_eq!(tunnel.closed().await.code, Code::TunnelLost);
    assert_eq!(
        gateway.get("/s/web/").await.0,
        503,
        "its home was lost lately"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_private_and_dead_sessions_are_told_apart() {
    let gateway = Gateway::start("").await;
    assert_eq!(gateway.get("/s/web/").await.0, 503, "no relay is connected");
    let node = Node::new("n1", &gateway);
    let private = Offer {
        anonymous: false,
        ..offer("private", Protocol::Http)
    };
    let dead = Offer {
        down: true,
        ..offer("dead", Protocol::Http)
    };
    let shell = offer("shell", Protocol::Tcp);
    let blind = Offer {
        blind: true,
        ..offer("blind", Protocol::Http)
    };
    let (_tunnel, _) = node
        .serve(
            1,
            &[offer("web", Protocol::Http), private, dead, shell, blind],
        )
        .await;
    gateway.until_session("web", true).await;

    for (id, status) in [
        ("nowhere", 404),
        ("private", 401),
        ("dead", 503),
        ("shell", 404),
        ("blind", 421),
    ] {
        assert_eq!(gateway.get(&format!("/s/{id}/")).await.0, status, "{id}");
    }
    let (status, page) = gateway.get("/").await;
    assert!(status == 200 && !page.contains("n1"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_ports_carry_bytes_and_datagrams_and_keep_half_closes() {
    let ports = [Port::reserve(), Port::reserve()];
    let [tcp, udp] = ports.each_ref().map(Port::number);
    let gateway = Gateway::start(&format!(
        "[[tcp]]\nlisten = \"127.0.0.1:{tcp}\"\npool = \"shells\"\n\
         [[udp]]\nlisten = \"127.0.0.1:{udp}\"\nsession = \"names\"\n"
    ))
    .await;
    let node = Node::new("n1", &gateway);
    let shell = Offer {
        pool: "shells".to_owned(),
        ..offer("shell-1", Protocol::Tcp)
    };
    let (_tunnel, _) = node.serve(1, &[shell, offer("names", Protocol::Udp)]).await;
    gateway.until_session("names", true).await;

    let mut client = TcpStream::connect(("127.0.0.1", tcp))
        .await
        .expect("it listens");
    client.write_all(b"and back").await.expect("open");
    client.shutdown().await.expect("half-closed");
    let mut answer = String::new();
    client
        .read_to_string(&mut answer)
        .await
        .expect("an orderly end");
    assert_eq!(answer, "n1and back");

    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let sent = [7; 1_200];
    socket
        .send_to(&sent, ("127.0.0.1", udp))
        .await
        .expect("sent");
    let mut back = [0; 2_000];
    let length = socket.recv(&mut back).await.expect("it comes back");
    assert_eq!(back.get(..length), Some(&sent[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_its_tunnels_within_five_seconds() {
    let gateway = Gateway::start("").await;
    let node = Node::new("n1", &gateway);
    let tunnel = node.dial(1).await.expect("let in");
    node.answer(&tunnel);
    let kid = gateway.file().keys.first().expect("one key").kid.clone();
    gateway.ask(&["key", "add"]);
    let start = Instant::now();
    gateway.ask(&["key", "revoke", &kid]);

    assert_eq!(tunnel.closed().await.code, Code::Unauthorised);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(
        node.dial(2).await.expect_err("its key is gone"),
        Code::Unauthorised
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_lives_as_long_as_fresh_tokens_are_presented() {
    let gateway = Gateway::start("[tunnels]\ntoken_age = \"4s\"\nrotate_every = \"500ms\"\n").await;
    let node = Node::new("n1", &gateway);
    let (kept, stale) = (
        node.dial(1).await.expect("in"),
        node.dial(1).await.expect("in"),
    );
    node.answer(&kept);
    node.answer(&stale);
    let renewing = async {
        loop {
            // Longer than `rotate_every`, and four times shorter than `token_age`.
            tokio::time::sleep(Duration::from_secs(1)).await;
            kept.send(ControlKind::Rotate(node.rotate(&kept)))
                .await
                .expect("it is up");
        }
    };
    let ended = tokio::select! {
        ended = stale.closed() => ended,
        () = renewing => panic!("renewing never ends"),
    };

    assert_eq!(ended.code, Code::Unauthorised);
    gateway
        .until(|status| {
            status["tunnels"]
                .as_array()
                .is_some_and(|all| all.len() == 1)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_floods_the_gateway_with_tokens_loses_its_tunnel() {
    let gateway = Gateway::start("").await;
    let node = Node::new("n1", &gateway);
    let (loud, quiet) = (
        node.dial(1).await.expect("in"),
        node.dial(1).await.expect("in"),
    );
    node.answer(&loud);
    node.answer(&quiet);
    for tunnel in [&quiet, &loud, &loud] {
        let rotate = ControlKind::Rotate(node.rotate(tunnel));
        tunnel.send(rotate).await.expect("it is up");
    }

    assert_eq!(loud.closed().await.code, Code::Limit);
    gateway
        .until(|status| {
            status["tunnels"]
                .as_array()
                .is_some_and(|all| all.len() == 1)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_presented_twice_ends_its_tunnel() {
    let gateway = Gateway::start("[tunnels]\nrotate_every = \"1ms\"\n").await;
    let node = Node::new("n1", &gateway);
    let tunnel = node.dial(1).await.expect("in");
    node.answer(&tunnel);
    let rotate = ControlKind::Rotate(node.rotate(&tunnel));

    tunnel.send(rotate.clone()).await.expect("it is up");
    gateway.until_logged(&["token renewed"]).await;
    tunnel.send(rotate).await.expect("it is up");

    assert_eq!(tunnel.closed().await.code, Code::Unauthorised);
    gateway
        .until_logged(&["tunnel ended by the gateway", "the token was used before"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_may_not_join_binds_no_name() {
    let gateway = Gateway::start("[tunnels]\nmost = 1\n").await;
    let _first = Node::new("n1", &gateway).dial(1).await.expect("in");

    let second = Node::new("n2", &gateway).dial(1).await;
    assert_eq!(second.expect_err("full"), Code::Limit);
    let bound = gateway.ask(&["relays", "--json"]);
    assert!(bound.contains("n1") && !bound.contains("n2"), "{bound}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_tells_relays_and_lets_a_transfer_finish() {
    let port = Port::reserve();
    let tcp = port.number();
    let mut gateway = Gateway::start(&format!(
        "[[tcp]]\nlisten = \"127.0.0.1:{tcp}\"\nsession = \"shell\"\n"
    ))
    .await;
    let node = Node::new("n1", &gateway);
    let (tunnel, _) = node.serve(1, &[offer("shell", Protocol::Tcp)]).await;
    gateway.until_session("shell", true).await;
    let mut client = TcpStream::connect(("127.0.0.1", tcp))
        .await
        .expect("it listens");
    let mut greeting = [0; 2];
    client.read_exact(&mut greeting).await.expect("under way");
    gateway.terminate();

    assert!(matches!(
        tunnel.control().await,
        Some(ControlKind::Drain(_))
    ));
    // Relays are told first, and the ports close a moment later.
    eventually(async || TcpStream::connect(("127.0.0.1", tcp)).await.err()).await;
    client.write_all(b"the rest").await.expect("still open");
    client.shutdown().await.expect("still open");
    let mut rest = String::new();
    client
        .read_to_string(&mut rest)
        .await
        .expect("an orderly end");
    assert_eq!(rest, "the rest");
    gateway.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_takes_too_long_is_cut_short() {
    let port = Port::reserve();
    let tcp = port.number();
    let mut gateway = Gateway::start(&format!(
        "[[tcp]]\nlisten = \"127.0.0.1:{tcp}\"\nsession = \"shell\"\n"
    ))
    .await;
    gateway.kill();
    let text = std::fs::read_to_string(gateway.config()).expect("its configuration");
    std::fs::write(gateway.config(), format!("drain = \"1s\"\n{text}")).expect("writable");
    gateway.run().await;
    let node = Node::new("n1", &gateway);
    let (_tunnel, _) = node.serve(1, &[offer("shell", Protocol::Tcp)]).await;
    gateway.until_session("shell", true).await;
    let mut client = TcpStream::connect(("127.0.0.1", tcp))
        .await
        .expect("it listens");
    let mut greeting = [0; 2];
    client.read_exact(&mut greeting).await.expect("under way");

    let told = Instant::now();
    gateway.terminate();
    gateway.ended().await;

    assert!(told.elapsed() >= Duration::from_secs(1), "it waited");
    let rest = client.read(&mut greeting).await;
    assert!(!matches!(rest, Ok(1..)), "cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_disk_comes_back_with_another_key() {
    let gateway = Gateway::start("").await;
    let file = gateway.path("ephemeral.json");
    let path = file.to_str().expect("UTF-8");
    gateway.ask(&["key", "add", "--ephemeral", "--nodes", "n1", "--out", path]);
    let first = Node::new("n1", &gateway).with_key_of(&file);
    gateway.until_logged(&["keys taken"]).await;
    let tunnel = first.dial(10).await.expect("let in");
    first.answer(&tunnel);
    gateway
        .until(|status| status["relays"][0]["up"] == true)
        .await;

    let again = Node::new("n1", &gateway).with_key_of(&file);
    assert_eq!(
        again.dial(11).await.expect_err("it is alive"),
        Code::NameTaken
    );
    tunnel.close(Code::Closed);
    gateway
        .until(|status| status["tunnels"] == serde_json::json!([]))
        .await;
    let plain = Node::new("n1", &gateway);
    assert_eq!(
        plain.dial(11).await.expect_err("its key has a disk"),
        Code::NameTaken
    );
    let _tunnel = again.dial(11).await.expect("the old one is gone");
    gateway.until_logged(&["node_rekeyed", "n1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_sessions_of_missing_nodes_count_as_lost_for_a_while() {
    let mut gateway = Gateway::start("[tunnels]\nsettle = \"4s\"\n").await;
    let (away, here) = (Node::new("away", &gateway), Node::new("here", &gateway));
    drop((
        away.dial(1).await.expect("in"),
        here.dial(1).await.expect("in"),
    ));
    gateway.until_bound("away").await;
    gateway.until_bound("here").await;
    gateway.kill();
    gateway.run().await;
    let start = Instant::now();
    let (_tunnel, _) = here.serve(2, &[offer("web", Protocol::Http)]).await;
    gateway.until_session("web", true).await;

    assert_eq!(gateway.get("/s/desk/").await.0, 503, "it may be on `away`");
    eventually(async || (gateway.get("/s/desk/").await.0 == 404).then_some(())).await;
    assert!(
        start.elapsed() > Duration::from_secs(2),
        "not before it had settled"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_limited_by_source_and_end_when_idle() {
    let port = Port::reserve();
    let udp = port.number();
    let gateway = Gateway::start(&format!(
        "[[udp]]\nlisten = \"127.0.0.1:{udp}\"\nsession = \"names\"\n\
         [flows]\nper_source = 1\nidle = \"1s\"\n"
    ))
    .await;
    let node = Node::new("n1", &gateway);
    let (_tunnel, _) = node.serve(1, &[offer("names", Protocol::Udp)]).await;
    gateway.until_session("names", true).await;
    let first = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let second = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let mut back = [0; 8];
    first
        .send_to(b"one", ("127.0.0.1", udp))
        .await
        .expect("sent");
    first.recv(&mut back).await.expect("it comes back");

    second
        .send_to(b"two", ("127.0.0.1", udp))
        .await
        .expect("sent");
    gateway.until_logged(&["flow refused"]).await;
    gateway.until_logged(&["flow ended", "idle"]).await;
    second
        .send_to(b"two", ("127.0.0.1", udp))
        .await
        .expect("sent");
    second.recv(&mut back).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_says_who_the_client_of_a_raw_port_is() {
    let port = Port::reserve();
    let tcp = port.number();
    let gateway = Gateway::start(&format!(
        "[[tcp]]\nlisten = \"127.0.0.1:{tcp}\"\nsession = \"shell\"\n"
    ))
    .await;
    gateway
        .reconfigure("proxy_protocol = true\ntrusted_proxies = [\"127.0.0.2/32\"]\n")
        .await;
    let node = Node::new("n1", &gateway);
    let (_tunnel, _) = node.serve(1, &[offer("shell", Protocol::Tcp)]).await;
    gateway.until_session("shell", true).await;

    let proxy = TcpSocket::new_v4().expect("a socket");
    proxy
        .bind("127.0.0.2:0".parse().expect("an address"))
        .expect("loopback");
    let address = format!("127.0.0.1:{tcp}").parse().expect("an address");
    let mut client = proxy.connect(address).await.expect("it listens");
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 22\r\nhello";
    client.write_all(header).await.expect("open");
    client.shutdown().await.expect("half-closed");
    let mut answer = String::new();
    client
        .read_to_string(&mut answer)
        .await
        .expect("an orderly end");
    assert_eq!(answer, "n1hello");
    gateway
        .until_logged(&["stream ended", "192.0.2.7:4000", "\"up\":5"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_raw_port_are_limited_by_source_also_behind_a_proxy() {
    let port = Port::reserve();
    let tcp = port.number();
    let gateway = Gateway::start(&format!(
        "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.2/32\"]\n[[tcp]]\nlisten = \"127.0.0.1:{tcp}\"\nsession = \"shell\"\n[limits]\nconnections_per_source = 2\n"
    ))
    .await;
    let node = Node::new("n1", &gateway);
    let (_tunnel, _) = node.serve(1, &[offer("shell", Protocol::Tcp)]).await;
    gateway.until_session("shell", true).await;
    let connect = async |source: &str| {
        let proxy = TcpSocket::new_v4().expect("a socket");
        proxy
            .bind("127.0.0.2:0".parse().expect("an address"))
            .expect("loopback");
        let address = format!("127.0.0.1:{tcp}").parse().expect("an address");
        let mut client = proxy.connect(address).await.expect("it listens");
        let header = format!("PROXY TCP4 {source} 192.0.2.1 4000 22\r\n");
        client.write_all(header.as_bytes()).await.expect("open");
        let mut greeting = [0; 2];
        client.read_exact(&mut greeting).await.ok().map(|_| client)
    };

    let first = connect("192.0.2.7").await;
    let second = connect("192.0.2.7").await;
    assert!(first.is_some() && second.is_some());
    assert!(connect("192.0.2.7").await.is_none(), "one too many");
    assert!(connect("192.0.2.8").await.is_some(), "another source");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_what_is_valid_and_keeps_the_last_good_rest() {
    let gateway = Gateway::start("").await;
    let node = Node::new("n1", &gateway);
    let (_tunnel, _) = node.serve(1, &[offer("web", Protocol::Http)]).await;
    gateway.until_session("web", true).await;

    gateway.reconfigure("polisy = \"random\"\n").await;
    gateway.until_logged(&["not taken", "polisy"]).await;
    std::fs::write(gateway.path("gw/cert.pem"), "no certificate").expect("writable");
    gateway.until_logged(&["not taken", "cert.pem"]).await;
    assert_eq!(gateway.get("/s/web/").await.0, 200);
}
