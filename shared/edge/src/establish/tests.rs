//! Real sockets on loopback, real TLS clients.

use std::net::IpAddr;

use proptest::prelude::*;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use sallyport_certs::{
    Identity, Reloading, SelfSigned, front_server_config, self_signed, tunnel_server_config,
};
use sallyport_ops::Slots;
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;

use super::*;
use crate::proxy_protocol::{Addresses, Version};
use crate::testing::client_hello;

/// Rules of a gateway whose URL is `https://gateway.example`, with its certificate.
fn rules() -> (Rules, SelfSigned) {
    let made = self_signed(&["gateway.example".into(), "*.sessions.example".into()], 1)
        .expect("a certificate");
    let identity =
        Identity::from_pem(made.cert_pem.as_bytes(), made.key_pem.as_bytes()).expect("an identity");
    let certs = Reloading::new(identity);
    let front = front_server_config(Arc::clone(&certs)).expect("a configuration");
    let tunnel = tunnel_server_config(certs, &[sallyport_wire::ALPN]).expect("a configuration");
    let rules = Rules {
        tunnel: Some(tunnel),
        passthrough: Arc::new(|name| name == "desk.example"),
        answers: Arc::new(|name| name == "gateway.example" || name.ends_with(".sessions.example")),
        answers_strangers: false,
        ..Rules::front_only(front, &Limits::default())
    };
    (rules, made)
}

fn slots() -> Slots {
    Slots::new(10, 10, Vec::new())
}

/// A connected pair: the client's end, and the accepted one.
async fn pair(slots: &Slots) -> (TcpStream, Accepted) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let local = listener.local_addr().expect("an address");
    let (client, accepted) = tokio::join!(TcpStream::connect(local), listener.accept());
    let (stream, peer) = accepted.expect("a connection");
    let slot = slots.take(peer.ip()).expect("a place");
    (
        client.expect("a connection"),
        Accepted {
            stream,
            peer,
            local,
            slot,
        },
    )
}

/// Sends `raw` and nothing more; gives what came of it, and what the client got until the end.
async fn send(raw: &[u8], rules: &Rules) -> (Result<Established, EstablishError>, Vec<u8>) {
    let slots = slots();
    let (mut client, accepted) = pair(&slots).await;
    client.write_all(raw).await.expect("open");
    let found = establish(accepted, rules).await.map(|(way, _slot)| way);
    let mut answer = Vec::new();
    if found.is_err() {
        assert_eq!(slots.in_use(), 0, "the place is given back");
        // A reset tells the client as little as an end.
        drop(client.read_to_end(&mut answer).await);
    }
    (found, answer)
}

/// A whole handshake as `name` with these protocols.
async fn shake(
    name: &str,
    alpn: &[&[u8]],
    rules: &Rules,
    made: &SelfSigned,
) -> Result<Established, EstablishError> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(made.cert_pem.as_bytes()).expect("PEM"))
        .expect("a root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let (client, accepted) = pair(&slots()).await;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connector = TlsConnector::from(Arc::new(config));
    let (_client, found) =
        tokio::join!(connector.connect(name, client), establish(accepted, rules));
    found.map(|(way, _slot)| way)
}

#[tokio::test]
async fn clients_of_the_front_get_its_certificate_and_their_protocol() {
    let (rules, made) = rules();
    let cases = [
        (&[&b"h2"[..], b"http/1.1"][..], HttpVersion::Two),
        (&[&b"http/1.1"[..]], HttpVersion::One),
        (&[], HttpVersion::One),
    ];
    for (alpn, http) in cases {
        let found = shake("gateway.example", alpn, &rules, &made)
            .await
            .expect("a front connection");
        let Established::Front { client, .. } = found else {
            panic!("{found:?}");
        };
        assert_eq!(
            (client.http, client.sni.as_deref()),
            (http, Some("gateway.example"))
        );
        assert_eq!((client.address, client.trusted), (client.peer, false));
        assert!(
            client.tls.starts_with("TLSv1.3 TLS13_AES_"),
            "{}",
            client.tls
        );
    }
    let found = shake("a.sessions.example", &[], &rules, &made).await;
    assert!(matches!(found, Ok(Established::Front { .. })), "{found:?}");
}

#[tokio::test]
async fn a_relay_is_told_by_its_protocol() {
    let (rules, made) = rules();
    let found = shake("gateway.example", &[sallyport_wire::ALPN], &rules, &made).await;
    assert!(matches!(found, Ok(Established::Relay { .. })), "{found:?}");
}

#[tokio::test]
async fn names_that_nobody_answers_to_get_the_alert() {
    let (rules, _) = rules();
    for name in [
        None,
        Some("else.example"),
        Some("x.desk.example"),
        Some("desk.example.evil"),
        Some("sessions.example"),
    ] {
        let (found, answer) = send(&client_hello(name, &[b"h2"]), &rules).await;
        let fault = found.expect_err("nobody answers");
        assert!(matches!(fault, EstablishError::UnknownName(_)), "{fault}");
        assert!(!fault.is_hostile());
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 112], "{name:?}");
    }
}

#[tokio::test]
async fn where_the_url_is_an_address_the_front_answers_strangers() {
    let (mut rules, made) = rules();
    rules.answers_strangers = true;
    rules.deadline = Duration::from_millis(100);
    for name in [None, Some("else.example")] {
        let (found, _) = send(&client_hello(name, &[b"h2"]), &rules).await;
        assert!(
            matches!(found, Err(EstablishError::TooSlow(Step::Handshake))),
            "the front shakes hands: {found:?}"
        );
    }
    let (found, _) = send(&client_hello(Some("desk.example"), &[]), &rules).await;
    assert!(
        matches!(found, Ok(Established::Passthrough { .. })),
        "{found:?}"
    );
    drop(made);
}

#[tokio::test]
async fn what_is_not_tls_is_closed_without_a_word() {
    let (rules, _) = rules();
    for raw in [
        &b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..],
        b"\0",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"SSH-2.0-x\r\n",
    ] {
        let (found, answer) = send(raw, &rules).await;
        let fault = found.expect_err("garbage");
        assert!(
            matches!(fault, EstablishError::Hello(HelloError::NotTls)),
            "{fault}"
        );
        assert!(fault.is_hostile());
        assert_eq!(answer, b"");
    }
    let huge = [0x16, 3, 1, 0x40, 0, 1, 0, 0x40, 0];
    let (found, answer) = send(&huge, &rules).await;
    assert!(
        matches!(found, Err(EstablishError::Hello(HelloError::TooLarge))),
        "{found:?}"
    );
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn one_deadline_covers_every_step() {
    let (mut rules, _) = rules();
    rules.deadline = Duration::from_millis(100);
    rules.trusted = vec!["127.0.0.0/8".parse().expect("a network")];
    rules.proxy_header = ProxyHeader::Optional;
    let hello = client_hello(Some("gateway.example"), &[]);
    let cases = [
        (&b""[..], Step::ProxyHeader),
        (b"PROXY TCP4 ", Step::ProxyHeader),
        (&hello[..40], Step::Hello),
        (&hello[..], Step::Handshake),
    ];
    for (raw, step) in cases {
        let (found, _) = send(raw, &rules).await;
        let fault = found.expect_err("too slow");
        assert!(
            matches!(&fault, EstablishError::TooSlow(at) if *at == step),
            "{fault}"
        );
    }
}

#[tokio::test]
async fn a_client_that_goes_away_is_told_apart() {
    let (rules, _) = rules();
    let (client, accepted) = pair(&slots()).await;
    drop(client);
    let found = establish(accepted, &rules).await;
    assert!(matches!(
        found,
        Err(EstablishError::Gone {
            step: Step::Hello,
            ..
        })
    ));
}

fn proxied(rules: &mut Rules, wanted: ProxyHeader) {
    rules.trusted = vec!["127.0.0.0/8".parse().expect("a network")];
    rules.proxy_header = wanted;
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is() {
    let (mut rules, _) = rules();
    proxied(&mut rules, ProxyHeader::Required);
    let hello = client_hello(Some("desk.example"), &[]);
    for (source, destination) in [
        ("192.0.2.7:1234", "192.0.2.8:443"),
        ("[2001:db8::7]:1", "[2001:db8::8]:443"),
    ] {
        for version in [Version::One, Version::Two] {
            let ends = Addresses {
                source: source.parse().expect("an address"),
                destination: destination.parse().expect("an address"),
            };
            let raw = [proxy_protocol::write(version, ends), hello.clone()].concat();
            let (found, _) = send(&raw, &rules).await;
            let Ok(Established::Passthrough { mut io, client, .. }) = found else {
                panic!("{found:?}");
            };
            assert_eq!(
                (client.address, client.local, client.trusted),
                (ends.source, ends.destination, true)
            );
            assert_eq!(client.peer.ip(), IpAddr::from([127, 0, 0, 1]));
            let mut seen = vec![0; hello.len()];
            io.read_exact(&mut seen).await.expect("the hello");
            assert_eq!(seen, hello, "the header is not part of the client's bytes");
        }
    }
}

#[tokio::test]
async fn the_header_is_required_optional_or_garbage() {
    let (mut rules, _) = rules();
    let hello = client_hello(Some("desk.example"), &[]);
    let header = b"PROXY UNKNOWN\r\n".to_vec();

    proxied(&mut rules, ProxyHeader::Required);
    let (found, _) = send(&hello, &rules).await;
    assert!(
        matches!(found, Err(EstablishError::Proxy(ProxyError::Absent))),
        "{found:?}"
    );
    let (found, _) = send(b"PROXY TCP9 x\r\n", &rules).await;
    assert!(
        matches!(found, Err(EstablishError::Proxy(ProxyError::Malformed))),
        "{found:?}"
    );

    proxied(&mut rules, ProxyHeader::Optional);
    for raw in [hello.clone(), [header.clone(), hello.clone()].concat()] {
        let (found, _) = send(&raw, &rules).await;
        let Ok(Established::Passthrough { client, .. }) = found else {
            panic!("{found:?}");
        };
        assert_eq!(client.address, client.peer);
    }

    rules.trusted = vec!["192.0.2.0/24".parse().expect("a network")];
    let (found, _) = send(&[header, hello].concat(), &rules).await;
    assert!(
        matches!(found, Err(EstablishError::Hello(HelloError::NotTls))),
        "{found:?}"
    );
}

#[tokio::test]
async fn where_clients_must_send_the_header_relays_need_not() {
    let (mut rules, _) = rules();
    proxied(&mut rules, ProxyHeader::OfClients);
    for name in ["desk.example", "gateway.example"] {
        let (found, _) = send(&client_hello(Some(name), &[]), &rules).await;
        assert!(
            matches!(found, Err(EstablishError::Proxy(ProxyError::Absent))),
            "{found:?}"
        );
    }

    let header = b"PROXY UNKNOWN\r\n".to_vec();
    let behind = [header, client_hello(Some("desk.example"), &[])].concat();
    let (found, _) = send(&behind, &rules).await;
    assert!(
        matches!(found, Ok(Established::Passthrough { .. })),
        "{found:?}"
    );

    rules.deadline = Duration::from_millis(100);
    let (found, _) = send(&client_hello(None, &[sallyport_wire::ALPN]), &rules).await;
    assert!(
        matches!(found, Err(EstablishError::TooSlow(Step::Handshake))),
        "{found:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_passthrough_session_gets_exactly_what_the_client_sent(
        after in prop::collection::vec(any::<u8>(), 0..5_000),
        pieces in prop::collection::vec(1_usize..700, 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sent = [client_hello(Some("desk.example"), &[b"h2"]), after].concat();
        let got = runtime.block_on(pass_through(&sent, &pieces));
        prop_assert!(got == sent);
    }
}

async fn pass_through(sent: &[u8], pieces: &[usize]) -> Vec<u8> {
    let (rules, _) = rules();
    let (mut client, accepted) = pair(&slots()).await;
    let sending = async {
        let mut rest = sent;
        for piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            client.write_all(now).await.expect("open");
            tokio::task::yield_now().await;
            if later.is_empty() {
                break;
            }
            rest = later;
        }
        client.shutdown().await.expect("open");
    };
    let receiving = async {
        let (found, _slot) = establish(accepted, &rules).await.expect("established");
        let Established::Passthrough { mut io, sni, .. } = found else {
            panic!("not passed through");
        };
        assert_eq!(sni, "desk.example");
        let mut got = Vec::new();
        io.read_to_end(&mut got).await.expect("the end");
        got
    };
    tokio::join!(sending, receiving).1
}
