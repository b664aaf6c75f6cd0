//! Streams over a real tunnel on loopback: who is let in, what is refused and why, and every limit reached.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sallyport_certs::{Identity, Pin, Reloading, TEN_YEARS, self_signed, tunnel_server_config};
use sallyport_link::dial::Introduce;
use sallyport_link::gate::accept_tls;
use sallyport_link::proxy::ProxyRules;
use sallyport_link::{
    Choice, Dialer, Gatekeeper, GatewayAddress, Settings, Transport, Tunnel, TunnelStream,
};
use sallyport_ops::{Metrics, Tasks};
use sallyport_relay::certificates;
use sallyport_relay::config::{Config, Limits};
use sallyport_relay::promote::Invitations;
use sallyport_relay::sessions::Sessions;
use sallyport_relay::streams::{Source, Streams};
use sallyport_wire::message::{Client, Head, Hello, Kind, Refused, Welcome};
use sallyport_wire::{ALPN, BINDING_LEN, Code, Refusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio_rustls::TlsAcceptor;
use tracing::Span;

struct Anyone;

impl Gatekeeper for Anyone {
    async fn admit(
        &self,
        _: &Hello,
        _: &[u8; BINDING_LEN],
        _: SocketAddr,
        _: Transport,
    ) -> Result<Welcome, Refused> {
        Ok(Welcome {
            version: 1,
            tunnel: 1,
            ..Welcome::default()
        })
    }
}

impl Introduce for Anyone {
    fn hello(&self, _: &str, _: &[u8; BINDING_LEN]) -> Result<Hello, String> {
        Ok(Hello {
            oldest: 1,
            newest: 1,
            node: "n".to_owned(),
            generation: 1,
            ..Hello::default()
        })
    }
}

/// The gateway's end of a tunnel whose other end serves sessions.
struct Bench {
    gateway: Tunnel,
    tasks: Tasks,
    _folder: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Bench {
    async fn new(sessions: &str, limits: Limits) -> Self {
        let (tasks, folder) = (Tasks::new(), tempfile::tempdir().expect("a folder"));
        let made = self_signed(&["127.0.0.1".to_owned()], TEN_YEARS).expect("a certificate");
        let write = |name, text: &str| {
            sallyport_ops::files::write_new(&folder.path().join(name), text.as_bytes(), 0o600)
        };
        write("cert.pem", &made.cert_pem).expect("written");
        write("key.pem", &made.key_pem).expect("written");
        let identity =
            Identity::from_pem(made.cert_pem.as_bytes(), made.key_pem.as_bytes()).expect("a pair");
        let (gateway, relay) = Box::pin(tunnel(identity, &tasks)).await;
        let config = config(sessions, folder.path());
        let (sessions, _served) = certificates::open(config.sessions).expect("usable");
        let sessions = Arc::new(Sessions::new(sessions));
        let streams = Arc::new(Streams::new(config.node, sessions, limits, &Metrics::new()));
        let invitations = Invitations::new(Arc::clone(streams.promotions()));
        tasks.spawn(
            Span::none(),
            streams.serve(Source {
                tunnel: relay,
                invitations,
                tasks: tasks.child(),
                hops: true,
            }),
        );
        Self {
            gateway,
            tasks,
            _folder: folder,
        }
    }

    async fn open(&self, kind: Kind, target: &str) -> TunnelStream {
        let client = Client {
            address: "127.0.0.2:5".to_owned(),
            ..Client::default()
        };
        let head = Head {
            kind: kind.into(),
            target: target.to_owned(),
            client: Some(client),
            ..Head::default()
        };
        self.gateway.open(head).await.expect("opened")
    }

    /// The code that a stream is refused with; `None` if it is taken.
    async fn refusal(&self, kind: Kind, target: &str) -> Option<Code> {
        let mut stream = self.open(kind, target).await;
        let answer = stream.answered().await;
        answer
            .err()
            .map(|error| Refusal::in_chain(&error).expect("a refusal").0)
    }
}

fn config(sessions: &str, folder: &Path) -> Config {
    let text = format!("node = \"n\"\n{sessions}");
    Config::parse(&text, &folder.join("relay.toml")).expect("loads")
}

async fn tunnel(identity: Identity, tasks: &Tasks) -> (Tunnel, Tunnel) {
    let settings = Arc::new(Settings::gateway());
    let pin = Pin::of(identity.leaf()).expect("a pin");
    let tls = tunnel_server_config(Reloading::new(identity), &[ALPN]).expect("a configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let accepted = async {
        let (stream, peer) = listener.accept().await.expect("accepted");
        let tls = TlsAcceptor::from(tls)
            .accept(stream)
            .await
            .expect("a handshake");
        accept_tls(tls, peer, &Anyone, &settings, tasks)
            .await
            .expect("a tunnel")
            .0
    };
    let address = GatewayAddress {
        url: format!("https://127.0.0.1:{port}").parse().expect("a URL"),
        pins: vec![pin],
    };
    let dialer = Dialer::new(
        Arc::new(Settings::relay()),
        ProxyRules::none(),
        tasks.child(),
    );
    let dialled = async {
        dialer
            .dial(&address, Choice::Tls, &Anyone)
            .await
            .expect("dialled")
            .tunnel
    };
    tokio::join!(accepted, dialled)
}

/// A service that sends back what it gets, and its port.
async fn echo(tasks: &Tasks) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let inner = tasks.clone();
    tasks.spawn(Span::none(), async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            inner.spawn(Span::none(), async move {
                let (mut read, mut write) = stream.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    port
}

fn session(id: &str, protocol: &str, port: u16, more: &str) -> String {
    format!(
        "[[session]]\nid = \"{id}\"\nprotocol = \"{protocol}\"\ntarget = \"127.0.0.1:{port}\"\n{more}\n"
    )
}

const PUBLIC: &str = "access = \"public\"";

#[tokio::test]
async fn bytes_reach_the_session_and_come_back_half_closed() {
    let tasks = Tasks::new();
    let bench = Bench::new(
        &session("raw", "tcp", echo(&tasks).await, PUBLIC),
        Limits::default(),
    )
    .await;
    let mut stream = bench.open(Kind::Tcp, "raw").await;
    stream.write_all(&[7; 100_000]).await.expect("written");
    stream.shutdown().await.expect("finished");

    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.expect("an orderly end");

    assert_eq!(back, [7; 100_000]);
    tasks.stop();
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    // Bound and not listening: it refuses, and nobody else gets the port.
    let held = TcpSocket::new_v4().expect("a socket");
    held.bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let closed = held.local_addr().expect("bound").port();
    let sessions = session("web", "http", closed, PUBLIC)
        + &session("private", "http", closed, "")
        + &session("staff", "http", closed, "access = { groups = [\"staff\"] }")
        + &session("far", "tcp", closed, "sources = [\"10.0.0.0/8\"]")
        + &session(
            "blind",
            "http",
            closed,
            "access = \"public\"\ntls = { cert = \"cert.pem\", key = \"key.pem\" }",
        );
    let bench = Bench::new(&sessions, Limits::default()).await;

    for (kind, target, code) in [
        (Kind::Http, "web", Code::SessionRefused),
        (Kind::Http, "private", Code::LoginRequired),
        (Kind::Http, "staff", Code::LoginRequired),
        (Kind::Tcp, "private", Code::LoginRequired),
        (Kind::Tcp, "far", Code::Forbidden),
        (Kind::Http, "blind", Code::Misdirected),
        (Kind::Tls, "web", Code::Misdirected),
        (Kind::Udp, "web", Code::Misdirected),
        (Kind::Http, "nobody", Code::UnknownSession),
        (Kind::Http, "127.0.0.1:22", Code::UnknownSession),
    ] {
        assert_eq!(
            bench.refusal(kind, target).await,
            Some(code),
            "{kind:?} {target}"
        );
    }
}

#[tokio::test]
async fn a_probe_comes_back() {
    let bench = Bench::new("", Limits::default()).await;
    let mut probe = bench.open(Kind::Probe, "").await;
    probe.write_all(b"12345678").await.expect("written");
    let mut back = [0; 8];
    probe.read_exact(&mut back).await.expect("echoed");
    assert_eq!(&back, b"12345678");
}

#[tokio::test]
async fn streams_beyond_the_limits_are_refused_and_places_are_given_back() {
    for limits in [
        Limits {
            streams_per_tunnel: 1,
            ..Limits::default()
        },
        Limits {
            streams: 1,
            ..Limits::default()
        },
    ] {
        let tasks = Tasks::new();
        let bench = Bench::new(&session("raw", "tcp", echo(&tasks).await, PUBLIC), limits).await;
        let mut first = bench.open(Kind::Tcp, "raw").await;
        first.answered().await.expect("taken");

        assert_eq!(bench.refusal(Kind::Tcp, "raw").await, Some(Code::Limit));

        first.abort(Code::ClientGone);
        drop(first);
        let again = async { while bench.refusal(Kind::Tcp, "raw").await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(10), again)
            .await
            .expect("a place is free again");
        tasks.stop();
    }
}

#[tokio::test]
async fn flows_carry_datagrams_and_are_bounded() {
    let service = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let port = service.local_addr().expect("an address").port();
    let limits = Limits {
        udp_flows: 1,
        ..Limits::default()
    };
    let bench = Bench::new(&session("dns", "udp", port, PUBLIC), limits).await;
    let head = Head {
        kind: Kind::Udp.into(),
        target: "dns".to_owned(),
        ..Head::default()
    };
    let flow = bench.gateway.open_flow(head).await.expect("opened");
    flow.send(b"question"[..].into()).await.expect("sent");
    let mut buffer = [0; 16];
    let (amount, from) = service.recv_from(&mut buffer).await.expect("received");
    service
        .send_to(&buffer[..amount], from)
        .await
        .expect("answered");
    assert_eq!(flow.recv().await.expect("an answer"), "question");

    assert_eq!(bench.refusal(Kind::Udp, "dns").await, Some(Code::Limit));
}

#[tokio::test]
async fn a_silent_stream_ends_as_idle() {
    let tasks = Tasks::new();
    let limits = Limits {
        idle: Duration::from_millis(50),
        ..Limits::default()
    };
    let bench = Bench::new(&session("raw", "tcp", echo(&tasks).await, PUBLIC), limits).await;
    let mut stream = bench.open(Kind::Tcp, "raw").await;
    stream.answered().await.expect("taken");

    let error = stream.read(&mut [0; 1]).await.expect_err("broken off");

    assert_eq!(Refusal::in_chain(&error), Some(Refusal(Code::Idle)));
    tasks.stop();
}

#[tokio::test]
async fn a_client_that_does_not_begin_tls_is_cut_off() {
    let limits = Limits {
        tls_handshake: Duration::from_millis(50),
        ..Limits::default()
    };
    let tls = "access = \"public\"\ntls = { cert = \"cert.pem\", key = \"key.pem\" }";
    let bench = Bench::new(&session("desk", "http", 1, tls), limits).await;
    let mut stream = bench.open(Kind::Tls, "desk").await;
    stream.answered().await.expect("taken");

    let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0; 1])).await;

    assert!(read.expect("in time").is_err(), "never an orderly end");
}
