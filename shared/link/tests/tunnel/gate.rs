//! The accepting side against strangers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sallyport_certs::{Trust, tunnel_client_config};
use sallyport_link::gate::AcceptError;
use sallyport_link::{Settings, Transport};
use sallyport_wire::message::Refused;
use sallyport_wire::{ALPN, Code};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{BOTH, Gate, GateOptions, Guest, choice, dialer, gate, soon};

async fn stranger(gate: &Gate) -> TlsStream<TcpStream> {
    let trust = Trust::Pins(gate.address.pins.clone());
    let config = tunnel_client_config(&trust, &[ALPN]).expect("TLS");
    let tcp = TcpStream::connect(gate.socket).await.expect("the gate");
    let name = gate.address.url.server_name().expect("a name");
    let connecting = TlsConnector::from(Arc::clone(&config)).connect(name, tcp);
    soon(connecting).await.expect("a handshake")
}

async fn over_quic(gate: &Gate) -> quinn::Connection {
    let trust = Trust::Pins(gate.address.pins.clone());
    let tls = tunnel_client_config(&trust, &[ALPN]).expect("TLS");
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("QUIC");
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connecting = endpoint
        .connect_with(config, gate.socket, "127.0.0.1")
        .expect("a try");
    soon(connecting).await.expect("a handshake")
}

async fn verdict(gate: &mut Gate) -> AcceptError {
    let came = soon(gate.came.recv()).await.expect("a verdict");
    came.expect_err("no tunnel")
}

#[tokio::test]
async fn a_refusal_is_held_back_and_told() {
    for transport in BOTH {
        let mut gate = gate(GateOptions {
            refuse: Some(Refused {
                code: Code::Unauthorised.number(),
                retry_after_ms: 1_500,
            }),
            ..GateOptions::default()
        })
        .await;
        let tasks = sallyport_ops::Tasks::new();
        let begun = Instant::now();
        let dialled = dialer(Settings::relay(), &tasks)
            .dial(&gate.address, choice(transport), &Guest)
            .await;

        let told = dialled.expect_err("a refusal");
        let expected = (Code::Unauthorised, Some(Duration::from_millis(1_500)));
        assert_eq!(told.refused(), Some(expected), "{transport}: {told}");
        assert!(begun.elapsed() >= Duration::from_millis(50));
        let verdict = verdict(&mut gate).await;
        assert!(
            matches!(verdict, AcceptError::Refused(Code::Unauthorised)),
            "{verdict:?}"
        );
    }
}

#[tokio::test]
async fn silence_and_drips_end_at_the_deadline() {
    let mut gate = gate(GateOptions {
        settings: Settings {
            hello_within: Duration::from_millis(200),
            ..Settings::gateway()
        },
        ..GateOptions::default()
    })
    .await;
    let mut silent = stranger(&gate).await;
    assert!(matches!(verdict(&mut gate).await, AcceptError::TooSlow));
    assert_eq!(
        soon(silent.read_to_end(&mut Vec::new())).await.unwrap_or(0),
        0
    );

    let mut dripping = stranger(&gate).await;
    let dripped = async {
        for byte in [0_u8, 100].into_iter().chain(std::iter::repeat_n(8, 1_000)) {
            if dripping.write_u8(byte).await.is_err() || dripping.flush().await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ((), verdict) = tokio::join!(dripped, verdict(&mut gate));
    assert!(matches!(verdict, AcceptError::TooSlow), "{verdict:?}");
}

#[tokio::test]
async fn garbage_and_long_messages_are_no_hello() {
    let mut gate = gate(GateOptions::default()).await;
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x20, 0x01],
        &[0, 2, 0xff, 0xff],
    ] {
        let mut stranger = stranger(&gate).await;
        stranger.write_all(bytes).await.expect("a connection");
        let verdict = verdict(&mut gate).await;
        assert!(matches!(verdict, AcceptError::Hello(_)), "{verdict:?}");
    }
}

#[tokio::test]
async fn a_stranger_on_quic_has_one_stream_and_no_time() {
    let mut gate = gate(GateOptions {
        settings: Settings {
            hello_within: Duration::from_secs(2),
            ..Settings::gateway()
        },
        ..GateOptions::default()
    })
    .await;
    let connection = over_quic(&gate).await;

    let _first = connection.open_bi().await.expect("one stream");
    let second = tokio::time::timeout(Duration::from_millis(100), connection.open_bi()).await;
    let uni = tokio::time::timeout(Duration::from_millis(50), connection.open_uni()).await;

    assert!(!matches!(second, Ok(Ok(_))), "no second one");
    assert!(!matches!(uni, Ok(Ok(_))), "nor one of the other kind");
    assert!(matches!(verdict(&mut gate).await, AcceptError::TooSlow));
    let closed = soon(connection.closed()).await;
    assert!(
        matches!(closed, quinn::ConnectionError::ApplicationClosed(_)),
        "{closed:?}"
    );
}

#[tokio::test]
async fn a_datagram_before_the_welcome_is_none_too() {
    let mut gate = gate(GateOptions::default()).await;
    let stranger = over_quic(&gate).await;

    let datagram = bytes::Bytes::from_static(b"early");
    stranger.send_datagram(datagram).expect("sent");

    assert!(matches!(verdict(&mut gate).await, AcceptError::Datagram));
    let closed = soon(stranger.closed()).await;
    let code = quinn::VarInt::from_u32(Code::Protocol.number());
    assert!(
        matches!(&closed, quinn::ConnectionError::ApplicationClosed(close) if close.error_code == code),
        "{closed:?}"
    );
}

#[tokio::test]
async fn a_peer_without_a_control_stream_is_dropped() {
    let mut gate = gate(GateOptions {
        settings: Settings {
            hello_within: Duration::from_millis(200),
            ..Settings::gateway()
        },
        ..GateOptions::default()
    })
    .await;
    let mut silent = stranger(&gate).await;
    silent.write_all(&[0, 0]).await.expect("an empty hello");
    let (tunnel, _hello) = soon(gate.came.recv())
        .await
        .expect("one")
        .expect("a tunnel");
    assert_eq!(tunnel.transport(), Transport::Tls);
    assert_eq!(soon(tunnel.closed()).await.code, Code::Protocol);
}
