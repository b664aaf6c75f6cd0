//! The gateway's own limits, each reached with a small value: what is beyond is refused, what is within goes on.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use sallyport_link::Choice;
use sallyport_wire::Code;
use sallyport_wire::message::{ControlKind, Protocol};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::bench::{BOUND, Gateway, Node, advertise, eventually, offer};
use crate::port::Port;

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_would_refuse_everybody_are_refused_at_start() {
    for (more, key) in [
        ("[limits]\nhead = 0", "`head`"),
        ("[limits]\nhandshakes = 0", "`handshakes`"),
        ("[limits]\nfield_bytes = 65536", "`head_bytes`"),
        ("[tunnels]\nprobe_misses = 0", "`tunnels.probe_misses`"),
        (
            "[tunnels]\nprove_address_at = 101",
            "`tunnels.prove_address_at`",
        ),
        ("[flows]\nqueue = 0", "`flows.queue`"),
    ] {
        let ended = Gateway::prepare(more).run_to_its_end();

        assert_eq!(ended.status.code(), Some(78), "{more}: {ended:?}");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(told.contains(key), "{more}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_taken_without_a_signal_and_a_useless_limit_is_not() {
    let gateway = Gateway::start("").await;
    let fair = std::fs::read_to_string(gateway.config()).expect("its configuration");

    std::fs::write(gateway.config(), format!("{fair}\n[limits]\nhead = 0\n")).expect("writable");
    gateway.until_logged(&["not taken", "`head` is 0"]).await;
    assert!(!gateway.log().contains("configuration taken"));
    std::fs::write(gateway.config(), format!("{fair}\n[limits]\nhead = 3\n")).expect("writable");
    gateway.until_logged(&["configuration taken"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_on_disk_before_its_node_is_welcome() {
    let gateway = Gateway::start("").await;
    let names = gateway.path("state/names.json");
    for (choice, name) in [(Choice::Tls, "over-tls"), (Choice::Quic, "over-quic")] {
        let node = Node::new(name, &gateway);
        let _tunnel = node.dial_over(choice, 1, 0).await.expect("let in");

        let saved = std::fs::read_to_string(&names).unwrap_or_default();
        assert!(saved.contains(name), "{saved}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_name_cannot_be_saved_is_not_welcome() {
    let gateway = Gateway::start("").await;
    let names = gateway.path("state/names.json");
    std::fs::create_dir_all(&names).expect("in the way of the file");
    let node = Node::new("n1", &gateway);

    for _known_from_the_second_time_on in 0..2 {
        let refused = node.dial(1).await.expect_err("its name would be lost");
        assert_eq!(refused, Code::Internal);
    }
    gateway
        .until_logged(&["relay refused", "n1", "is not saved"])
        .await;
    std::fs::remove_dir(&names).expect("empty");
    let _tunnel = node.dial(1).await.expect("it can be saved now");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_remembered_up_to_a_number_and_then_none_is_taken() {
    // One in all; and four, of which each key may have one.
    for (tokens, cause) in [(1, "no more can be remembered"), (4, "of this key")] {
        let more = format!("[tunnels]\ntokens = {tokens}\nprobe_every = \"100ms\"\n");
        let gateway = Gateway::start(&more).await;
        let node = Node::new("n1", &gateway);
        let (tunnel, _) = node.serve(1, &[offer("web", Protocol::Http)]).await;
        gateway.until_session("web", true).await;

        let rotate = ControlKind::Rotate(node.rotate(&tunnel));
        tunnel.send(rotate).await.expect("it is up");

        // The tunnel's last token is good for as long as it was; whoever comes now has to wait.
        gateway
            .until_logged(&["fresh token not taken", cause])
            .await;
        let refused = Node::new("n2", &gateway).dial(1).await;
        assert_eq!(refused.expect_err("full"), Code::Limit);
        gateway.until_logged(&["relay refused", "n2", cause]).await;
        assert_eq!(gateway.get("/s/web/").await.0, 200);
    }
}

/// Connects from `source` and waits for the session's greeting; none if the gateway has no room.
async fn reach(port: u16, source: &str) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    let source: SocketAddr = format!("{source}:0").parse().expect("an address");
    socket.bind(source).expect("loopback");
    let port = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = match socket.connect(port).await {
        Ok(stream) => stream,
        // It was taken and dropped before the client looked.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
        Err(error) => panic!("it listens: {error}"),
    };
    let mut greeting = [0; 2];
    let greeted = timeout(BOUND, stream.read_exact(&mut greeting)).await;
    let greeted = greeted.expect("neither greeted nor refused");
    greeted.ok().map(|_length| stream)
}

/// A gateway with a raw TCP port to a session, and whatever must live as long.
async fn shell(more: &str) -> (u16, Gateway, impl Sized) {
    let port = Port::reserve();
    let tcp = port.number();
    let raw = format!("[[tcp]]\nlisten = \"127.0.0.1:{tcp}\"\nsession = \"shell\"\n{more}\n");
    let gateway = Gateway::start(&raw).await;
    let node = Node::new("n1", &gateway);
    let (tunnel, _) = node.serve(1, &[offer("shell", Protocol::Tcp)]).await;
    gateway.until_session("shell", true).await;
    (tcp, gateway, (node, tunnel, port))
}

/// Two connections find room, a third one does not, until one of them is gone.
async fn two_find_room(port: u16) -> [TcpStream; 2] {
    let first = reach(port, "127.0.0.1").await.expect("room");
    let second = reach(port, "127.0.0.1").await.expect("room");
    assert!(reach(port, "127.0.0.1").await.is_none(), "one too many");
    drop(first);
    let again = timeout(BOUND, eventually(async || reach(port, "127.0.0.1").await));
    [second, again.await.expect("its place is given back")]
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_limited() {
    let (port, _gateway, _rest) = shell("[limits]\nconnections = 2").await;
    let _open = two_find_room(port).await;

    assert!(reach(port, "127.0.0.2").await.is_none(), "whoever asks");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_one_source_are_limited() {
    let (port, _gateway, _rest) = shell("[limits]\nconnections_per_source = 2").await;
    let _open = two_find_room(port).await;

    assert!(reach(port, "127.0.0.2").await.is_some(), "another source");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_tunnel_are_limited_and_one_is_left_for_probes() {
    let (port, gateway, _rest) = shell("[tunnels]\nstreams = 3\nprobe_every = \"100ms\"").await;
    let _open = two_find_room(port).await;

    assert!(reach(port, "127.0.0.2").await.is_none(), "whoever asks");
    gateway.until_session("shell", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_source_are_limited() {
    let (port, _gateway, _rest) = shell("[tunnels]\nstreams_per_source = 2").await;
    let _open = two_find_room(port).await;

    assert!(reach(port, "127.0.0.2").await.is_some(), "another source");
}

/// A gateway with a raw UDP port to a session that echoes, and whatever must live as long.
async fn echo(flows: &str) -> (u16, Gateway, impl Sized) {
    let port = Port::reserve();
    let udp = port.number();
    let raw =
        format!("[[udp]]\nlisten = \"127.0.0.1:{udp}\"\nsession = \"names\"\n[flows]\n{flows}\n");
    let gateway = Gateway::start(&raw).await;
    let node = Node::new("n1", &gateway);
    let tunnel = node.dial(1).await.expect("let in");
    node.answer(&tunnel);
    assert!(
        advertise(&tunnel, &[offer("names", Protocol::Udp)])
            .await
            .is_empty()
    );
    gateway.until_session("names", true).await;
    (udp, gateway, (node, tunnel, port))
}

async fn say(socket: &UdpSocket, port: u16, what: &[u8]) {
    let sent = socket.send_to(what, ("127.0.0.1", port)).await;
    assert_eq!(sent.expect("sent"), what.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_limited_whatever_their_source() {
    let (port, gateway, _rest) = echo("most = 1\nidle = \"1s\"").await;
    let first = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let second = UdpSocket::bind("127.0.0.2:0").await.expect("a port");
    let mut back = [0; 8];
    say(&first, port, b"one").await;
    first.recv(&mut back).await.expect("it comes back");

    say(&second, port, b"two").await;
    gateway.until_logged(&["flow refused", "127.0.0.2"]).await;
    gateway.until_logged(&["flow ended", "idle"]).await;
    say(&second, port, b"two").await;
    let heard = timeout(BOUND, second.recv(&mut back)).await;
    assert_eq!(heard.expect("there is room again").expect("heard"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_that_wait_in_a_flow_are_limited() {
    let (port, gateway, _rest) = echo("queue = 1").await;
    let client = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let mut back = [0; 8];

    // Bursts far shorter than the default queue, each of them over before the next one.
    let dropped = eventually(async || {
        for _ in 0..16 {
            say(&client, port, b"x").await;
        }
        let quiet = Duration::from_millis(100);
        while timeout(quiet, client.recv(&mut back)).await.is_ok() {}
        gateway
            .log()
            .contains("a datagram was dropped")
            .then_some(())
    });
    timeout(BOUND, dropped).await.expect("the queue holds one");
}
