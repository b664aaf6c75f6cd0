//! Both ends of a tunnel over TLS, over a connection in memory.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use quinn::AsyncUdpSocket;
use sallyport_certs::{Identity, Pin, Reloading, self_signed, tunnel_server_config};
use sallyport_link::dial::{Choice, Dialer, Introduce};
use sallyport_link::gate::{Gatekeeper, accept_tls};
use sallyport_link::network::Tcp;
use sallyport_link::{GatewayAddress, Network, ProxyRules, Settings, Transport, Tunnel};
use sallyport_ops::Tasks;
use sallyport_splice::{Limits, Meter};
use sallyport_wire::message::{Head, Hello, Refused, Welcome};
use sallyport_wire::{ALPN, BINDING_LEN};
use tokio::io::duplex;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::Way;
use crate::endpoint::Endpoint;
use crate::wire::{Tally, Wire, Written};

/// Bytes that the connection holds each way: what a socket does, and enough for every write to fit.
const ROOM: usize = 1024 * 1024;

/// Where the gateway is said to be; nobody listens there.
const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 443);

/// Two ends of a tunnel, and what each has written below TLS.
pub(crate) struct Pair {
    gateway: Tunnel,
    relay: Tunnel,
    by_gateway: Tally,
    by_relay: Tally,
    _tasks: Tasks,
}

impl Pair {
    pub(crate) async fn new() -> Self {
        let tasks = Tasks::new();
        let (by_gateway, by_relay) = (Tally::default(), Tally::default());
        let (into, mut dialled) = mpsc::channel(1);
        let network = InMemory {
            into,
            tally: by_relay.clone(),
        };
        let settings = Arc::new(Settings::relay());
        let dialer = Dialer::through(
            Arc::new(network),
            settings,
            ProxyRules::none(),
            tasks.clone(),
        );
        let (acceptor, address) = door();
        let settings = Arc::new(Settings::gateway());
        let accepting = async {
            let io = dialled.recv().await.expect("a connection");
            let io = Wire::new(io, by_gateway.clone());
            let tls = acceptor.accept(io).await.expect("TLS");
            let accepted = accept_tls(tls, ADDRESS, &AllCome, &settings, &tasks).await;
            accepted.expect("a tunnel").0
        };
        let dialling = dialer.dial(&address, Choice::Tls, &Guest);
        let (gateway, relay) = tokio::join!(Box::pin(accepting), Box::pin(dialling));
        Self {
            gateway,
            relay: relay.expect("a tunnel").tunnel,
            by_gateway,
            by_relay,
            _tasks: tasks,
        }
    }

    /// What was written on the way of the bulk, and against it.
    pub(crate) fn written(&self, way: Way) -> (Written, Written) {
        match way {
            Way::ToSession => (self.by_gateway.now(), self.by_relay.now()),
            Way::ToClient => (self.by_relay.now(), self.by_gateway.now()),
        }
    }

    /// Carries bytes one way on a stream of their own, as gateway and relay do.
    pub(crate) async fn carry(&self, way: Way, bytes: usize) {
        let (up, down) = match way {
            Way::ToSession => (bytes, 0),
            Way::ToClient => (0, bytes),
        };
        let (mut client, mut session) = (Endpoint::with(up), Endpoint::with(down));
        let (limits, meter) = (Limits::default(), Meter::new());
        let at_gateway = async {
            let mut stream = self.gateway.open(Head::default()).await.expect("a stream");
            sallyport_splice::run(&mut client, &mut stream, &limits, &meter).await
        };
        let at_relay = async {
            let incoming = self.relay.accept().await.expect("a stream");
            let head = incoming.head(Duration::from_secs(5)).await;
            let (_head, mut stream) = head.expect("a head");
            stream.accept();
            sallyport_splice::run(&mut stream, &mut session, &limits, &meter).await
        };
        tokio::join!(Box::pin(at_gateway), Box::pin(at_relay));
        assert_eq!((session.got, client.got), (up, down));
        assert!(!client.aborted && !session.aborted, "both ended in order");
    }
}

fn door() -> (TlsAcceptor, GatewayAddress) {
    let made = self_signed(&["127.0.0.1".to_owned()], 1).expect("a certificate");
    let identity = Identity::from_pem(made.cert_pem.as_bytes(), made.key_pem.as_bytes());
    let identity = identity.expect("an identity");
    let pin: Pin = identity.pin().expect("a pin");
    let tls = tunnel_server_config(Reloading::new(identity), &[ALPN]).expect("TLS");
    let address = GatewayAddress {
        url: "https://127.0.0.1".parse().expect("a URL"),
        pins: vec![pin],
    };
    (TlsAcceptor::from(tls), address)
}

/// Lets everyone in.
struct AllCome;

impl Gatekeeper for AllCome {
    async fn admit(
        &self,
        _hello: &Hello,
        _binding: &[u8; BINDING_LEN],
        _peer: SocketAddr,
        _transport: Transport,
    ) -> Result<Welcome, Refused> {
        Ok(Welcome {
            version: 1,
            tunnel: 1,
            ..Welcome::default()
        })
    }
}

/// Says the least that a relay can say.
struct Guest;

impl Introduce for Guest {
    fn hello(&self, _audience: &str, _binding: &[u8; BINDING_LEN]) -> Result<Hello, String> {
        Ok(Hello::default())
    }
}

/// Leads to one gateway, over a pipe.
#[derive(Debug)]
struct InMemory {
    into: mpsc::Sender<tokio::io::DuplexStream>,
    tally: Tally,
}

impl Network for InMemory {
    fn resolve<'a>(
        &'a self,
        _host: &'a str,
        _port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        async { Ok(vec![ADDRESS]) }.boxed()
    }

    fn connect(&self, _to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Tcp>>> {
        async {
            let (near, far) = duplex(ROOM);
            let sent = self.into.send(far).await;
            sent.map_err(|_gone| io::ErrorKind::ConnectionRefused)?;
            Ok(Box::new(Wire::new(near, self.tally.clone())) as Box<dyn Tcp>)
        }
        .boxed()
    }

    fn bind(&self, _local: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
