//! A gate on loopback and a pair of tunnel ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sallyport_certs::{Identity, Pin, Reloading, self_signed, tunnel_server_config};
use sallyport_link::dial::{Choice, Dialer, Dialled, Introduce};
use sallyport_link::gate::{AcceptError, Gatekeeper, accept_quic, accept_tls, quic_endpoint};
use sallyport_link::{GatewayAddress, ProxyRules, Settings, Transport, Tunnel, TunnelStream};
use sallyport_ops::Tasks;
use sallyport_wire::message::{Head, Hello, Refused, Welcome};
use sallyport_wire::{ALPN, BINDING_LEN, Code, Refusal};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::Span;

pub(crate) const BOTH: [Transport; 2] = [Transport::Tls, Transport::Quic];

/// Long enough for anything on loopback, short enough to see a hang.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Waits, but not for ever.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(SOON, Box::pin(future)).await.expect("it ends soon")
}

/// Admits everyone, or refuses everyone.
pub(crate) struct Doorman {
    pub(crate) refuse: Option<Refused>,
    features: Vec<String>,
    numbers: AtomicU64,
}

impl Gatekeeper for Doorman {
    async fn admit(
        &self,
        _hello: &Hello,
        _binding: &[u8; BINDING_LEN],
        _peer: SocketAddr,
        _transport: Transport,
    ) -> Result<Welcome, Refused> {
        match self.refuse {
            Some(refused) => Err(refused),
            None => Ok(Welcome {
                version: 1,
                gateway: "test".to_owned(),
                tunnel: self.numbers.fetch_add(1, Ordering::Relaxed),
                features: self.features.clone(),
                ..Welcome::default()
            }),
        }
    }
}

pub(crate) type Came = Result<(Tunnel, Hello), AcceptError>;

/// A gate that listens on one port of loopback, TCP and UDP.
pub(crate) struct Gate {
    pub(crate) address: GatewayAddress,
    pub(crate) socket: SocketAddr,
    pub(crate) came: mpsc::Receiver<Came>,
    pub(crate) tasks: Tasks,
}

/// How a gate is set up.
pub(crate) struct GateOptions {
    pub(crate) settings: Settings,
    pub(crate) refuse: Option<Refused>,
    /// What both sides are said to have named.
    pub(crate) features: Vec<String>,
    /// Whether UDP is answered; else it falls into a hole.
    pub(crate) udp: bool,
    pub(crate) alpn: &'static [u8],
}

impl Default for GateOptions {
    fn default() -> Self {
        Self {
            settings: Settings::gateway(),
            refuse: None,
            features: Vec::new(),
            udp: true,
            alpn: ALPN,
        }
    }
}

pub(crate) fn identity() -> Identity {
    let made = self_signed(&["127.0.0.1".to_owned()], 1).expect("a certificate");
    Identity::from_pem(made.cert_pem.as_bytes(), made.key_pem.as_bytes()).expect("an identity")
}

pub(crate) async fn gate(options: GateOptions) -> Gate {
    let identity = identity();
    let pin = identity.pin().expect("a pin");
    let tls = tunnel_server_config(Reloading::new(identity), &[options.alpn]).expect("TLS");
    let (listener, udp, socket) = port().await;
    let settings = Arc::new(options.settings);
    let tasks = Tasks::new();
    let doorman = Arc::new(Doorman {
        refuse: options.refuse,
        features: options.features,
        numbers: AtomicU64::new(1),
    });
    let (into, came) = mpsc::channel(64);
    if options.udp {
        udp.set_nonblocking(true).expect("a socket");
        let endpoint = quic_endpoint(udp, Arc::clone(&tls), &[7; 32], &settings).expect("QUIC");
        let wiring = (
            Arc::clone(&doorman),
            Arc::clone(&settings),
            tasks.clone(),
            into.clone(),
        );
        tasks.spawn(Span::none(), serve_quic(endpoint, wiring));
    } else {
        tasks.spawn(Span::none(), async move {
            let _hole = udp;
            std::future::pending().await
        });
    }
    let wiring = (doorman, settings, tasks.clone(), into);
    tasks.spawn(
        Span::none(),
        serve_tls(listener, TlsAcceptor::from(tls), wiring),
    );
    Gate {
        address: address(socket, pin),
        socket,
        came,
        tasks,
    }
}

/// A port that is free for TCP and UDP alike: others may hold the UDP half of a free TCP port.
async fn port() -> (TcpListener, std::net::UdpSocket, SocketAddr) {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let socket = listener.local_addr().expect("an address");
        if let Ok(udp) = std::net::UdpSocket::bind(socket) {
            return (listener, udp, socket);
        }
    }
}

pub(crate) fn address(socket: SocketAddr, pin: Pin) -> GatewayAddress {
    GatewayAddress {
        url: format!("https://{socket}").parse().expect("a URL"),
        pins: vec![pin],
    }
}

type Wiring = (Arc<Doorman>, Arc<Settings>, Tasks, mpsc::Sender<Came>);

async fn serve_quic(endpoint: quinn::Endpoint, (doorman, settings, tasks, into): Wiring) {
    while let Some(incoming) = endpoint.accept().await {
        let (doorman, settings) = (Arc::clone(&doorman), Arc::clone(&settings));
        let (inner, into) = (tasks.clone(), into.clone());
        tasks.spawn(Span::none(), async move {
            let came = accept_quic(incoming, &*doorman, &settings, &inner).await;
            drop(into.send(came).await);
        });
    }
}

async fn serve_tls(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    (doorman, settings, tasks, into): Wiring,
) {
    loop {
        let (tcp, peer) = listener.accept().await.expect("a connection");
        let (doorman, settings) = (Arc::clone(&doorman), Arc::clone(&settings));
        let (inner, into, acceptor) = (tasks.clone(), into.clone(), acceptor.clone());
        tasks.spawn(Span::none(), async move {
            let Ok(tls) = acceptor.accept(tcp).await else {
                return;
            };
            let came = accept_tls(tls, peer, &*doorman, &settings, &inner).await;
            drop(into.send(came).await);
        });
    }
}

/// Says the same hello to everyone.
pub(crate) struct Guest;

impl Introduce for Guest {
    fn hello(&self, _audience: &str, _binding: &[u8; BINDING_LEN]) -> Result<Hello, String> {
        Ok(Hello {
            node: "n1".to_owned(),
            ..Hello::default()
        })
    }
}

pub(crate) fn choice(transport: Transport) -> Choice {
    match transport {
        Transport::Tls => Choice::Tls,
        Transport::Quic => Choice::Quic,
    }
}

pub(crate) fn dialer(settings: Settings, tasks: &Tasks) -> Dialer {
    Dialer::new(Arc::new(settings), ProxyRules::none(), tasks.clone())
}

/// Both ends of a tunnel.
pub(crate) struct Pair {
    pub(crate) gateway: Tunnel,
    pub(crate) relay: Tunnel,
    /// Keeps the gate's tasks.
    _gateway_tasks: Tasks,
    pub(crate) relay_tasks: Tasks,
}

pub(crate) async fn pair(transport: Transport) -> Pair {
    Box::pin(pair_with(transport, Settings::gateway(), Settings::relay())).await
}

pub(crate) async fn pair_with(transport: Transport, ours: Settings, theirs: Settings) -> Pair {
    let gate = gate(GateOptions {
        settings: ours,
        ..GateOptions::default()
    })
    .await;
    let to = gate.address.clone();
    Box::pin(pair_through(gate, &to, transport, theirs)).await
}

/// A pair whose relay dials `to`, which leads to the gate.
pub(crate) async fn pair_through(
    mut gate: Gate,
    to: &GatewayAddress,
    transport: Transport,
    settings: Settings,
) -> Pair {
    let relay_tasks = Tasks::new();
    let dialled = dialer(settings, &relay_tasks);
    let dialled = soon(dialled.dial(to, choice(transport), &Guest)).await;
    let Dialled { tunnel, .. } = dialled.expect("a tunnel");
    let (gateway, _hello) = soon(gate.came.recv())
        .await
        .expect("one came")
        .expect("a tunnel");
    assert_eq!(tunnel.transport(), transport);
    Pair {
        gateway,
        relay: tunnel,
        _gateway_tasks: gate.tasks,
        relay_tasks,
    }
}

impl Pair {
    /// A stream opened by the gateway and taken by the relay: its two ends.
    pub(crate) async fn stream(&self) -> (TunnelStream, TunnelStream) {
        let opening = async {
            let mut opened = self.gateway.open(Head::default()).await.expect("a stream");
            opened.answered().await.expect("an answer");
            opened
        };
        let taking = async {
            let mut taken = take(&self.relay).await;
            tokio::io::AsyncWriteExt::flush(&mut taken)
                .await
                .expect("a live stream");
            taken
        };
        soon(async { tokio::join!(opening, taking) }).await
    }
}

/// Takes the next stream.
pub(crate) async fn take(tunnel: &Tunnel) -> TunnelStream {
    let incoming = tunnel.accept().await.expect("a stream comes");
    let (_head, mut stream) = incoming.head(SOON).await.expect("a head");
    stream.accept();
    stream
}

/// The code that an error carries.
pub(crate) fn code<T: std::fmt::Debug>(result: std::io::Result<T>) -> Code {
    let error = result.expect_err("an error");
    Refusal::in_chain(&error).expect("a code in the error").0
}
