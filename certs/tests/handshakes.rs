//! What the configurations agree on, let through and refuse, shown by whole handshakes.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{CipherSuite, ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sallyport_certs::{
    Identity, Pin, PinMismatch, Reloading, SelfSigned, Trust, client_config, front_server_config,
    mutual_server_config, self_signed, tunnel_client_config, tunnel_server_config,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const ALPN: &[&[u8]] = &[b"sallyport/1"];

fn make(name: &str) -> SelfSigned {
    self_signed(&[name.to_owned()], 30).unwrap()
}

fn identity(made: &SelfSigned) -> Identity {
    Identity::from_pem(made.cert_pem.as_bytes(), made.key_pem.as_bytes()).unwrap()
}

/// A server's certificates and a pin of them.
fn server() -> (Arc<Reloading>, Pin) {
    let identity = identity(&make("gateway.example"));
    let pin = identity.pin().unwrap();
    (Reloading::new(identity), pin)
}

/// A client that has read one byte of the server's, so that tickets have come too.
async fn connect(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> io::Result<TlsStream<DuplexStream>> {
    let (near, far) = duplex(64 * 1_024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let dial = async {
        let mut tls = TlsConnector::from(Arc::clone(client))
            .connect(name, near)
            .await?;
        tls.read_u8().await?;
        Ok(tls)
    };
    let serve = async {
        let mut tls = TlsAcceptor::from(Arc::clone(server)).accept(far).await?;
        tls.write_u8(1).await?;
        tls.flush().await
    };
    let (dialled, _served) = tokio::join!(dial, serve);
    dialled
}

fn kind(tls: &TlsStream<DuplexStream>) -> HandshakeKind {
    tls.get_ref().1.handshake_kind().unwrap()
}

#[tokio::test]
async fn a_tunnel_is_tls_13_with_aes_128_and_its_alpn() {
    let (certs, pin) = server();
    let client = tunnel_client_config(&Trust::Pins(vec![pin]), ALPN).unwrap();
    let server = tunnel_server_config(certs, ALPN).unwrap();

    let tls = connect(&client, &server, "192.0.2.7").await.unwrap();

    let (_, session) = tls.get_ref();
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let suite = session.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(session.alpn_protocol(), Some(ALPN[0]));
}

#[tokio::test]
async fn a_tunnel_refuses_tls_12_which_the_front_speaks() {
    let made = make("gateway.example");
    let certs = Reloading::new(identity(&made));
    let tunnel = tunnel_server_config(Arc::clone(&certs), ALPN).unwrap();
    let front = front_server_config(certs).unwrap();
    let old = only_tls_12(&made);

    let tls = connect(&old, &front, "gateway.example").await.unwrap();
    let version = tls.get_ref().1.protocol_version();
    assert_eq!(version, Some(ProtocolVersion::TLSv1_2));
    assert!(connect(&old, &tunnel, "gateway.example").await.is_err());
}

/// A client that knows nothing newer and trusts that certificate.
fn only_tls_12(trusted: &SelfSigned) -> Arc<ClientConfig> {
    let Trust::Roots(roots) = Trust::from_pem(trusted.cert_pem.as_bytes()).unwrap() else {
        panic!("PEM gives roots");
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[tokio::test]
async fn a_tunnel_refuses_a_foreign_alpn() {
    let (certs, pin) = server();
    let server = tunnel_server_config(certs, ALPN).unwrap();
    let client = tunnel_client_config(&Trust::Pins(vec![pin]), &[b"h2"]).unwrap();

    let refused = connect(&client, &server, "gateway.example")
        .await
        .unwrap_err();

    assert!(
        refused.to_string().contains("NoApplicationProtocol"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_tunnel_is_never_resumed_and_a_front_is() {
    let (certs, pin) = server();
    let trust = Trust::Pins(vec![pin]);
    let eager = |client: Arc<ClientConfig>| {
        let mut eager = (*client).clone();
        eager.resumption = Resumption::in_memory_sessions(8);
        eager.enable_early_data = true;
        Arc::new(eager)
    };
    let to_tunnel = eager(tunnel_client_config(&trust, ALPN).unwrap());
    let to_front = eager(client_config(&trust, &[b"h2"]).unwrap());
    let tunnel = tunnel_server_config(Arc::clone(&certs), ALPN).unwrap();
    let front = front_server_config(certs).unwrap();

    let mut kinds = Vec::new();
    for (client, server) in [(&to_tunnel, &tunnel), (&to_front, &front)] {
        for _ in 0..2 {
            kinds.push(kind(
                &connect(client, server, "gateway.example").await.unwrap(),
            ));
        }
    }

    use HandshakeKind::{Full, Resumed};
    assert_eq!(kinds, [Full, Full, Full, Resumed]);
}

#[tokio::test]
async fn a_ticket_of_one_listener_is_worth_nothing_at_another() {
    let (certs, pin) = server();
    let client = client_config(&Trust::Pins(vec![pin]), &[b"h2"]).unwrap();
    let first = front_server_config(Arc::clone(&certs)).unwrap();
    let second = front_server_config(certs).unwrap();

    connect(&client, &first, "gateway.example").await.unwrap();
    let tls = connect(&client, &second, "gateway.example").await.unwrap();

    assert_eq!(kind(&tls), HandshakeKind::Full);
}

#[tokio::test]
async fn the_front_prefers_http_2() {
    let (certs, pin) = server();
    let front = front_server_config(certs).unwrap();
    let trust = Trust::Pins(vec![pin]);

    for (offered, chosen) in [
        (&[&b"http/1.1"[..], b"h2"][..], &b"h2"[..]),
        (&[b"http/1.1"], b"http/1.1"),
        (&[b"http/1.0"], b"http/1.0"),
    ] {
        let client = client_config(&trust, offered).unwrap();
        let tls = connect(&client, &front, "gateway.example").await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(chosen));
    }
}

#[tokio::test]
async fn a_pin_that_differs_is_named_with_what_was_seen() {
    let (certs, seen) = server();
    let (_, other) = server();
    let server = tunnel_server_config(certs, ALPN).unwrap();
    let client = tunnel_client_config(&Trust::Pins(vec![other]), ALPN).unwrap();

    let refused = connect(&client, &server, "gateway.example")
        .await
        .unwrap_err();

    let mismatch = PinMismatch::in_chain(&refused).unwrap();
    assert_eq!(mismatch.expected, [other]);
    assert_eq!(mismatch.seen, seen);
    let text = refused.to_string();
    assert!(
        text.contains(&seen.to_string()) && text.contains(&other.to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn any_one_of_several_pins_will_do_and_none_will_not() {
    let (certs, pin) = server();
    let (_, other) = server();
    let server = tunnel_server_config(certs, ALPN).unwrap();
    let several = tunnel_client_config(&Trust::Pins(vec![other, pin]), ALPN).unwrap();
    let none = tunnel_client_config(&Trust::Pins(Vec::new()), ALPN).unwrap();

    connect(&several, &server, "gateway.example").await.unwrap();
    let refused = connect(&none, &server, "gateway.example")
        .await
        .unwrap_err();

    assert_eq!(PinMismatch::in_chain(&refused).unwrap().expected, []);
}

/// Shows a certificate whose private key it does not have.
#[derive(Debug)]
struct Thief(Arc<rustls::sign::CertifiedKey>);

impl rustls::server::ResolvesServerCert for Thief {
    fn resolve(
        &self,
        _hello: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[tokio::test]
async fn a_pinned_certificate_without_its_key_is_refused() {
    let (victim, own) = (make("gateway.example"), make("thief.example"));
    let pin = identity(&victim).pin().unwrap();
    let client = tunnel_client_config(&Trust::Pins(vec![pin]), ALPN).unwrap();
    let provider = client.crypto_provider();
    let stolen = CertificateDer::from_pem_slice(victim.cert_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let thief = Thief(Arc::new(rustls::sign::CertifiedKey::new(vec![stolen], key)));
    let mut server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(thief));
    server.alpn_protocols = vec![ALPN[0].to_vec()];

    let refused = connect(&client, &Arc::new(server), "gateway.example")
        .await
        .unwrap_err();

    assert!(refused.to_string().contains("BadSignature"), "{refused}");
    assert!(PinMismatch::in_chain(&refused).is_none());
}

#[tokio::test]
async fn roots_look_at_the_name_and_pins_do_not() {
    let made = make("gateway.example");
    let certs = Reloading::new(identity(&made));
    let server = tunnel_server_config(certs, ALPN).unwrap();
    let roots = Trust::from_pem(made.cert_pem.as_bytes()).unwrap();
    let pins = Trust::Pins(vec![identity(&made).pin().unwrap()]);

    let by_roots = tunnel_client_config(&roots, ALPN).unwrap();
    connect(&by_roots, &server, "gateway.example")
        .await
        .unwrap();
    assert!(connect(&by_roots, &server, "else.example").await.is_err());

    let by_pins = tunnel_client_config(&pins, ALPN).unwrap();
    connect(&by_pins, &server, "else.example").await.unwrap();
}

#[tokio::test]
async fn a_replaced_certificate_is_shown_to_the_next_client() {
    let (certs, old) = server();
    let server = tunnel_server_config(Arc::clone(&certs), ALPN).unwrap();
    let next = identity(&make("next.example"));
    let new = next.pin().unwrap();
    let knows = |pin| tunnel_client_config(&Trust::Pins(vec![pin]), ALPN).unwrap();
    connect(&knows(old), &server, "gateway.example")
        .await
        .unwrap();

    certs.replace(next);

    connect(&knows(new), &server, "gateway.example")
        .await
        .unwrap();
    assert!(
        connect(&knows(old), &server, "gateway.example")
            .await
            .is_err()
    );
    assert_eq!(certs.names(), ["next.example"]);
}

#[tokio::test]
async fn a_mutual_listener_wants_a_certificate_of_its_authority() {
    let (certs, pin) = server();
    let (member, stranger) = (client_identity(), client_identity());
    let server = mutual_server_config(certs, member.0.as_bytes(), &[b"h2"]).unwrap();
    let plain = client_config(&Trust::Pins(vec![pin]), &[b"h2"]).unwrap();

    let with = |(cert, key): &(String, String)| {
        let mut config = (*plain).clone();
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let key = plain
            .crypto_provider()
            .key_provider
            .load_private_key(key)
            .unwrap();
        let shown = rustls::sign::CertifiedKey::new(chain, key);
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(shown));
        Arc::new(config)
    };
    connect(&with(&member), &server, "gateway.example")
        .await
        .unwrap();
    assert!(
        connect(&with(&stranger), &server, "gateway.example")
            .await
            .is_err()
    );
    assert!(connect(&plain, &server, "gateway.example").await.is_err());
}

/// A client's certificate that vouches for itself, and its key.
fn client_identity() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let cert = params.self_signed(&key).unwrap();
    (cert.pem(), key.serialize_pem())
}
