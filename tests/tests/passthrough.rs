//! TLS that the gateway never opens: the client sees the service's own certificate.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use sallyport_tests::service::{Certificate, Nginx};
use sallyport_tests::{Curl, Gateway, Port, Relay, Site, client, wait_read};

/// nginx that ends TLS itself behind SNI desk.example.org, and a session whose TLS the relay ends.
struct Blind {
    own: Certificate,
    relays: Certificate,
    gateway: Gateway,
    _services: (Nginx, Port, Relay),
    site: Site,
}

/// `limits` is added to the gateway's configuration.
fn blind(limits: &str) -> Blind {
    let site = Site::new();
    let own = Certificate::make(site.path(), "desk", "DNS:desk.example.org");
    let relays = Certificate::make(site.path(), "lab", "DNS:lab.example.org");
    let port = Port::reserve();
    let nginx = Nginx::start(
        site.path(),
        &format!(
            "listen 127.0.0.1:{} ssl; ssl_certificate {}; ssl_certificate_key {};",
            port.number(),
            own.cert.display(),
            own.key.display()
        ),
    );
    let mut gateway = site.gateway_init("gw", "127.0.0.1", &[]);
    gateway.extend(&format!(
        "[[passthrough]]\nsni = \"desk.example.org\"\nsession = \"desk\"\n\
         [[passthrough]]\nsni = \"lab.example.org\"\nsession = \"lab\"\n{limits}"
    ));
    gateway.start();
    gateway.wait_ready();
    let relay = site.relay(
        "node-a",
        &gateway,
        &format!(
            "[[session]]\nid = \"desk\"\nprotocol = \"tls\"\ntarget = \"127.0.0.1:{}\"\naccess = \"public\"\n\
             [[session]]\nid = \"lab\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{}\"\naccess = \"public\"\n\
             tls = {{ cert = \"{}\", key = \"{}\" }}\n",
            port.number(),
            nginx.port.number(),
            relays.cert.display(),
            relays.key.display(),
        ),
    );
    gateway.wait_session("desk");
    gateway.wait_session("lab");
    Blind {
        site,
        own,
        relays,
        gateway,
        _services: (nginx, port, relay),
    }
}

impl Blind {
    fn curl(&self, certificate: &Certificate, name: &str) -> Curl {
        let port = self.gateway.port();
        Curl::new(&certificate.cert, self.site.path())
            .args(&["--resolve", &format!("{name}:{port}:127.0.0.1")])
            .arg(format!("https://{name}:{port}/echo"))
    }
}

#[test]
fn the_service_ends_tls() {
    let blind = blind("");

    // curl trusts nothing but the service's own certificate.
    let answer = blind.curl(&blind.own, "desk.example.org").go().expect(200);

    assert!(
        answer.text().contains("host=desk.example.org"),
        "{}",
        answer.text()
    );
    let wrong = blind.curl(&blind.relays, "desk.example.org").go();
    assert_eq!(wrong.exit, Some(60), "another certificate must not do");
}

#[test]
fn the_relay_ends_tls() {
    let blind = blind("");

    for version in ["--http1.1", "--http2"] {
        let answer = blind
            .curl(&blind.relays, "lab.example.org")
            .arg(version)
            .go()
            .expect(200);
        assert!(answer.text().contains("proto=https"), "{}", answer.text());
        assert!(answer.text().contains("for=127.0.0.1"), "{}", answer.text());
    }
}

#[test]
fn no_sni_or_an_unknown_name_never_reaches_a_passthrough_session() {
    let blind = blind("");
    let gateways = Certificate {
        cert: blind.gateway.certificate().to_owned(),
        key: std::path::PathBuf::new(),
    };

    // The gateway's URL is an address, so its own certificate answers where no name is sent.
    let url = format!("{}/", blind.gateway.url());
    let none = Curl::new(&gateways.cert, blind.site.path())
        .arg(&url)
        .go()
        .expect(200);
    assert!(!none.text().contains("host="), "{}", none.text());

    let unknown = handshake(&blind.gateway, "unknown.example.org");
    assert!(!unknown.contains("desk"), "{unknown}");
    assert!(!unknown.contains("lab"), "{unknown}");
}

#[test]
fn a_gateway_with_a_name_refuses_unknown_ones() {
    let site = Site::new();
    let gateway = site.gateway_with("gw", "localhost", "");

    let told = handshake(&gateway, "unknown.example.org");

    assert!(told.contains("unrecognized name"), "{told}");
}

/// What openssl says of a handshake with this SNI.
fn handshake(gateway: &Gateway, name: &str) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args([
        "s_client",
        "-connect",
        &format!("127.0.0.1:{}", gateway.port()),
        "-servername",
        name,
    ]);
    let output = client::run(&mut openssl);
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_client_hello_in_pieces_still_routes() {
    let blind = blind("[limits]\nestablish = \"60s\"\n");
    let hello = client_hello("desk.example.org", &[b"h2", b"http/1.1"]);

    for cut in 1..hello.len() {
        let (first, rest) = hello.split_at(cut);
        assert!(
            server_hello_comes(&blind.gateway, &[first, rest]),
            "cut at {cut} of {}",
            hello.len()
        );
    }
    let bytes: Vec<&[u8]> = hello.chunks(1).collect();
    assert!(server_hello_comes(&blind.gateway, &bytes), "byte by byte");
    // One handshake message spread over many records, each of five bytes and each by itself.
    let body = hello.get(5..).expect("longer than a record header");
    let records: Vec<Vec<u8>> = body.chunks(5).map(record).collect();
    let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    assert!(
        server_hello_comes(&blind.gateway, &records),
        "five a record"
    );
    let _still = blind.curl(&blind.own, "desk.example.org").go().expect(200);
}

#[test]
fn a_client_hello_longer_than_a_record_routes_where_it_may_be_so_long() {
    let names: Vec<Vec<u8>> = (0..80_u8).map(|n| vec![b'a' + n % 26; 250]).collect();
    let mut alpn: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    alpn.push(b"http/1.1");
    let hello = client_hello("desk.example.org", &alpn);
    assert!(
        hello.len() > 16_384 + 5 && hello.len() < 32_768,
        "{}",
        hello.len()
    );
    let pieces: Vec<&[u8]> = hello.chunks(4_096).collect();

    let by_default = blind("");
    let roomy = blind("[limits]\nclient_hello_bytes = 32768\n");

    assert!(server_hello_comes(&roomy.gateway, &pieces));
    assert!(!server_hello_comes(&by_default.gateway, &pieces));
    let refused = r#"sallyport_handshakes_failed_total{cause="garbage"}"#;
    assert_eq!(by_default.gateway.metric(refused), 1);
}

/// Sends pieces, each when the gateway has read the one before, and tells whether a ServerHello comes back.
fn server_hello_comes(gateway: &Gateway, pieces: &[&[u8]]) -> bool {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, gateway.port())).expect("listens");
    stream.set_nodelay(true).expect("a socket option");
    for piece in pieces {
        // It may have closed by now.
        let _refused = stream.write_all(piece);
        wait_read(&stream);
    }
    let mut header = [0; 6];
    stream.read_exact(&mut header).is_ok()
        && header.first() == Some(&22)
        && header.last() == Some(&2)
}

fn record(body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).expect("short").to_be_bytes();
    [&[22, 3, 1], &len[..], body].concat()
}

/// A ClientHello as a real TLS stack writes it, short: without a post-quantum key share.
fn client_hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
    let provider = CryptoProvider {
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    };
    let mut config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("the provider's versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = name.to_owned().try_into().expect("a DNS name");
    let mut connection = rustls::ClientConnection::new(config.into(), name).expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("into memory");
    hello
}

#[test]
fn the_gateways_key_is_never_used() {
    let blind = blind("");
    let established = |kind: &str| {
        let name = format!("sallyport_connections_established_total{{kind=\"{kind}\"}}");
        blind.gateway.metric(&name)
    };
    // Made by the key that belongs to the certificate: whoever has only the gateway's could not.
    let visit = |certificate, name| blind.curl(certificate, name).go().expect(200);
    assert_eq!((established("front"), established("passthrough")), (0, 0));

    for _ in 0..5 {
        let _by_the_service = visit(&blind.own, "desk.example.org");
        let _by_the_relay = visit(&blind.relays, "lab.example.org");
    }
    let seen = handshake(&blind.gateway, "desk.example.org");
    assert!(
        seen.contains("CN = desk") || seen.contains("CN=desk"),
        "{seen}"
    );

    assert_eq!((established("front"), established("passthrough")), (0, 11));
    let own = format!("{}/", blind.gateway.url());
    drop(blind.gateway.curl().arg(own).go().expect(200));
    assert_eq!((established("front"), established("passthrough")), (1, 11));
}
