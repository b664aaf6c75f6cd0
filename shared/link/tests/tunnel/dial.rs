//! The dialling side against networks as they are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sallyport_link::dial::{Cause, Choice, Dialer, Step};
use sallyport_link::{ProxyRules, Settings, Transport};
use sallyport_ops::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tracing::Span;

use crate::support::{GateOptions, Guest, address, dialer, gate, identity, soon};

#[tokio::test]
async fn quic_wins_where_it_can_and_only_one_hello_is_said() {
    let mut gate = gate(GateOptions::default()).await;
    let tasks = Tasks::new();
    let dialled = dialer(Settings::relay(), &tasks)
        .dial(&gate.address, Choice::Auto, &Guest)
        .await
        .expect("a tunnel");
    assert_eq!(dialled.tunnel.transport(), Transport::Quic);
    assert_eq!(dialled.welcome.gateway, "test");
    let first = soon(gate.came.recv()).await.expect("one came");
    first.expect("a tunnel");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(gate.came.try_recv().is_err(), "nobody else said anything");
}

#[tokio::test]
async fn where_udp_is_dropped_tls_does_not_wait_for_quic_to_give_up() {
    let gate = gate(GateOptions {
        udp: false,
        ..GateOptions::default()
    })
    .await;
    let tasks = Tasks::new();
    let begun = Instant::now();
    let dialled = dialer(Settings::relay(), &tasks)
        .dial(&gate.address, Choice::Auto, &Guest)
        .await
        .expect("a tunnel");
    assert_eq!(dialled.tunnel.transport(), Transport::Tls);
    let took = begun.elapsed();
    assert!(took < Settings::relay().handshake_within, "{took:?}");
}

#[tokio::test]
async fn another_key_is_told_apart() {
    let gate = gate(GateOptions::default()).await;
    let other = identity().pin().expect("a pin");
    let impostor = address(gate.socket, other);
    let tasks = Tasks::new();
    for choice in [Choice::Tls, Choice::Auto] {
        let dialled = dialer(Settings::relay(), &tasks)
            .dial(&impostor, choice, &Guest)
            .await;
        let error = dialled.expect_err("a mismatch");
        assert_eq!(error.step, Step::Tls, "{error}");
        let mismatch = error.pin_mismatch().expect("a pin mismatch");
        assert_eq!(mismatch.expected, [other]);
    }
    let quic = dialer(Settings::relay(), &tasks)
        .dial(&impostor, Choice::Quic, &Guest)
        .await;
    assert_eq!(quic.expect_err("a mismatch").step, Step::Quic);
}

#[tokio::test]
async fn each_step_says_that_it_failed() {
    let tasks = Tasks::new();
    let pin = identity().pin().expect("a pin");
    // Bound and not listening: it refuses, and nobody else gets the port.
    let held = TcpSocket::new_v4().expect("a socket");
    held.bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let nobody = held.local_addr().expect("an address");
    let dialer = dialer(
        Settings {
            handshake_within: Duration::from_millis(300),
            hello_within: Duration::from_millis(300),
            ..Settings::relay()
        },
        &tasks,
    );
    let refused = dialer
        .dial(&address(nobody, pin), Choice::Tls, &Guest)
        .await;
    assert_eq!(refused.expect_err("nobody there").step, Step::Tcp);

    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mute_at = address(mute.local_addr().expect("an address"), pin);
    let silent = dialer
        .dial(&mute_at, Choice::Tls, &Guest)
        .await
        .expect_err("silence");
    assert!(matches!(
        (silent.step, silent.cause),
        (Step::Tls, Cause::TooSlow(_))
    ));

    let web = gate(GateOptions {
        alpn: b"h2",
        ..GateOptions::default()
    })
    .await;
    let other = dialer.dial(&web.address, Choice::Tls, &Guest).await;
    assert_eq!(other.expect_err("a web server").step, Step::Tls);

    let mut nowhere = web.address.clone();
    nowhere.url = "https://gateway.invalid".parse().expect("a URL");
    let unknown = dialer.dial(&nowhere, Choice::Tls, &Guest).await;
    assert_eq!(unknown.expect_err("no such name").step, Step::Dns);
}

/// A proxy for one connection: HTTP CONNECT or SOCKS5, told apart by the first byte.
async fn tiny_proxy(allow: bool) -> (std::net::SocketAddr, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let tasks = Tasks::new();
    tasks.spawn(Span::none(), async move {
        let (mut client, _) = listener.accept().await.expect("a connection");
        let target = if client.read_u8().await.expect("a byte") == b'C' {
            connect(&mut client, allow).await
        } else {
            socks(&mut client, allow).await
        };
        if let Some(target) = target {
            let mut server = TcpStream::connect(target).await.expect("the gate");
            let (mut client_read, mut client_write) = client.split();
            let (mut server_read, mut server_write) = server.split();
            let up = tokio::io::copy(&mut client_read, &mut server_write);
            let down = tokio::io::copy(&mut server_read, &mut client_write);
            drop(tokio::join!(up, down));
        }
    });
    (address, tasks)
}

async fn connect(client: &mut TcpStream, allow: bool) -> Option<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(client.read_u8().await.expect("a byte"));
    }
    let answer: &[u8] = if allow {
        b"HTTP/1.1 200 OK\r\n\r\n"
    } else {
        b"HTTP/1.1 403 No\r\n\r\n"
    };
    client.write_all(answer).await.expect("a client");
    let request = String::from_utf8(request).expect("text");
    let target = request
        .strip_prefix("ONNECT ")
        .expect("CONNECT")
        .split(' ')
        .next();
    allow.then(|| target.expect("a target").to_owned())
}

async fn socks(client: &mut TcpStream, allow: bool) -> Option<String> {
    client.read_exact(&mut [0; 2]).await.expect("a greeting");
    client.write_all(&[5, 0]).await.expect("a client");
    let mut request = [0; 10];
    client.read_exact(&mut request).await.expect("a request");
    let reply = if allow { 0 } else { 2 };
    client
        .write_all(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0])
        .await
        .expect("a client");
    let [_, _, _, _, a, b, c, d, port @ ..] = request;
    allow.then(|| format!("{a}.{b}.{c}.{d}:{}", u16::from_be_bytes(port)))
}

#[tokio::test]
async fn proxies_lead_to_the_gateway() {
    for scheme in ["http", "socks5"] {
        let gate = gate(GateOptions::default()).await;
        let (proxy, _tasks) = tiny_proxy(true).await;
        let tasks = Tasks::new();
        let rules = ProxyRules::always(format!("{scheme}://{proxy}").parse().expect("a proxy"));
        let dialer = Dialer::new(Arc::new(Settings::relay()), rules, tasks);
        let quic = dialer.dial(&gate.address, Choice::Quic, &Guest).await;
        assert_eq!(quic.expect_err("no QUIC here").step, Step::Proxy);
        let dialled = soon(dialer.dial(&gate.address, Choice::Auto, &Guest)).await;
        assert_eq!(
            dialled.expect("a tunnel").tunnel.transport(),
            Transport::Tls
        );
    }
}

#[tokio::test]
async fn a_proxy_that_says_no_is_named() {
    for scheme in ["http", "socks5"] {
        let gate = gate(GateOptions::default()).await;
        let (proxy, _tasks) = tiny_proxy(false).await;
        let rules = ProxyRules::always(format!("{scheme}://{proxy}").parse().expect("a proxy"));
        let dialer = Dialer::new(Arc::new(Settings::relay()), rules, Tasks::new());
        let dialled = soon(dialer.dial(&gate.address, Choice::Auto, &Guest)).await;
        assert_eq!(dialled.expect_err("a refusal").step, Step::Proxy);
    }
}
