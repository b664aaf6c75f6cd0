//! Connections that nobody knows yet: however many come, and whatever they do, others get in.

use std::io::ErrorKind;
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use sallyport_certs::{Trust, tunnel_client_config};
use sallyport_link::Choice;
use sallyport_wire::message::Protocol;
use sallyport_wire::{ALPN, Code};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::bench::{BOUND, Gateway, Node, eventually, offer};

/// Strangers who shake hands over QUIC and then say nothing, all from one address.
struct Strangers {
    endpoint: quinn::Endpoint,
    gateway: std::net::SocketAddr,
}

impl Strangers {
    fn from(source: &str, gateway: &Gateway) -> Self {
        let file = gateway.file();
        let pins = file.gateways.first().expect("itself").pins.clone();
        let tls = tunnel_client_config(&Trust::Pins(pins), &[ALPN]).expect("TLS");
        let crypto = QuicClientConfig::try_from(tls).expect("QUIC");
        let source = format!("{source}:0").parse().expect("an address");
        let mut endpoint = quinn::Endpoint::client(source).expect("a socket");
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
        let gateway = gateway.address();
        Self { endpoint, gateway }
    }

    /// One more, unless it is told to go before its handshake is done.
    async fn come(&self) -> Option<quinn::Connection> {
        let connecting = self.endpoint.connect(self.gateway, "127.0.0.1");
        connecting.expect("a try").await.ok()
    }
}

/// A silent TCP connection, unless it is told to go at once.
async fn silent_tcp(source: &str, gateway: &Gateway) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    let source = format!("{source}:0").parse().expect("an address");
    socket.bind(source).expect("loopback");
    match socket.connect(gateway.address()).await {
        Ok(stream) => Some(stream),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("it listens: {error}"),
    }
}

/// A gateway whose silent connections stay, with a session that can be reached.
async fn patient(limits: &str) -> (Gateway, impl Sized) {
    let gateway = Gateway::start(&format!("[limits]\nestablish = \"1h\"\n{limits}\n")).await;
    let node = Node::new("n1", &gateway);
    let (tunnel, _) = node.serve(1, &[offer("web", Protocol::Http)]).await;
    gateway.until_session("web", true).await;
    (gateway, (node, tunnel))
}

/// The session is reached while silent connections hold all that they can.
async fn reached(gateway: &Gateway) {
    let reached = eventually(async || (gateway.get("/s/web/").await.0 == 200).then_some(()));
    timeout(BOUND, reached).await.expect("nobody is kept out");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_strangers_keep_nobody_out() {
    let (gateway, _rest) = patient("handshakes = 8").await;
    let mut strangers = Vec::new();
    for number in 0..32 {
        // Spread over sources: it is the total that is reached.
        strangers.extend(silent_tcp(&format!("127.0.1.{number}"), &gateway).await);
    }

    reached(&gateway).await;
    gateway.until_logged(&["too many handshakes"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_has_its_share_of_handshakes_over_tls() {
    let (gateway, _rest) = patient("handshakes_per_source = 4").await;
    let mut strangers = Vec::new();
    for _ in 0..16 {
        strangers.extend(silent_tcp("127.0.0.9", &gateway).await);
    }

    gateway
        .until_logged(&["too many handshakes", "127.0.0.9"])
        .await;
    reached(&gateway).await;
    let log = gateway.log();
    let mut dropped = log
        .lines()
        .filter(|line| line.contains("too many handshakes"));
    assert!(dropped.all(|line| line.contains("127.0.0.9")), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_has_its_share_of_handshakes_over_quic() {
    let gateway = Gateway::start("[limits]\nhandshakes_per_source = 4\n").await;
    let strangers = Strangers::from("127.0.0.9", &gateway);
    let mut held = Vec::new();

    // They have 5 s for their hello, so that a slow machine may need another round.
    let dropped = eventually(async || {
        for _ in 0..8 {
            held.extend(strangers.come().await);
        }
        let log = gateway.log();
        let mut lines = log.lines();
        lines.find(|line| line.contains("too many handshakes") && line.contains("127.0.0.9"))?;
        Some(())
    });
    timeout(BOUND, dropped).await.expect("its share is four");

    let node = Node::new("n1", &gateway);
    let _tunnel = node.dial_over(Choice::Quic, 1, 0).await.expect("let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_over_quic_prove_their_address_while_others_shake_hands() {
    let asked = "asked to prove its address";
    for limit in ["handshakes", "handshakes_per_source"] {
        let more = format!("[limits]\n{limit} = 4\n[tunnels]\nprove_address_at = 25\n");
        let gateway = Gateway::start(&more).await;
        let node = Node::new("n1", &gateway);
        let _first = node.dial_over(Choice::Quic, 1, 0).await.expect("let in");
        assert!(!gateway.log().contains(asked), "nobody else is there");

        let strangers = Strangers::from("127.0.0.1", &gateway);
        let _held = strangers.come().await.expect("it shook hands");

        let _second = node.dial_over(Choice::Quic, 1, 0).await.expect("let in");
        gateway.until_logged(&[asked, "127.0.0.1"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datagram_before_the_welcome_ends_the_connection() {
    let gateway = Gateway::start("").await;
    let stranger = Strangers::from("127.0.0.9", &gateway).come().await;
    let stranger = stranger.expect("it shook hands");

    stranger
        .send_datagram(bytes::Bytes::from_static(b"early"))
        .expect("sent");

    let closed = timeout(BOUND, stranger.closed()).await.expect("at once");
    let quinn::ConnectionError::ApplicationClosed(close) = closed else {
        panic!("{closed:?}");
    };
    assert_eq!(
        close.error_code,
        quinn::VarInt::from_u32(Code::Protocol.number())
    );
    gateway
        .until_logged(&["a datagram before the welcome"])
        .await;
}
