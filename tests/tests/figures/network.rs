//! A network in memory: hosts with addresses of their own, TCP and UDP between them, delays, black holes and processes
//! that die, all on tokio's clock.

mod tcp;
mod udp;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use quinn::AsyncUdpSocket;
use sallyport_link::network::Tcp;
use sallyport_ops::Tasks;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub(crate) use tcp::Connection;

/// When TCP repeats a SYN that nobody answers (RFC 6298, and Linux before 6.5).
const SYNS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(7),
];

/// Connections that wait to be accepted, and datagrams under way to one socket.
const BACKLOG: usize = 4_096;

/// What the network does with what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weather {
    /// Whether TCP passes; else it falls into a hole.
    pub(crate) tcp: bool,
    /// The same for UDP.
    pub(crate) udp: bool,
    /// From host to host.
    pub(crate) delay: Duration,
}

impl Weather {
    pub(crate) const FAIR: Self = Self {
        tcp: true,
        udp: true,
        delay: Duration::from_millis(20),
    };
    pub(crate) const BLACK_HOLE: Self = Self {
        tcp: false,
        udp: false,
        ..Self::FAIR
    };
    pub(crate) const WITHOUT_UDP: Self = Self {
        udp: false,
        ..Self::FAIR
    };
}

/// The network. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Network(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    weather: watch::Sender<Weather>,
    ports: Mutex<Ports>,
    tasks: Tasks,
}

/// Connections that wait to be accepted, and from where they come.
type Backlog = mpsc::Sender<(Connection, SocketAddr)>;

#[derive(Debug, Default)]
struct Ports {
    tcp: HashMap<SocketAddr, (Backlog, CancellationToken)>,
    udp: HashMap<SocketAddr, mpsc::Sender<udp::Datagram>>,
    last: u16,
    dialled: Vec<(IpAddr, Instant)>,
}

impl Network {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            weather: watch::Sender::new(Weather::FAIR),
            ports: Mutex::default(),
            tasks: Tasks::new(),
        }))
    }

    /// Changes the weather from now on; what is under way is not spared.
    pub(crate) fn turn(&self, weather: Weather) {
        self.0.weather.send_replace(weather);
    }

    /// A process with this address.
    pub(crate) fn process(&self, ip: IpAddr) -> Process {
        Process {
            network: self.clone(),
            ip,
            dead: CancellationToken::new(),
        }
    }

    /// When a host tried to connect over TCP so far.
    pub(crate) fn dialled(&self, ip: IpAddr) -> Vec<Instant> {
        let ports = self.ports();
        let of = ports.dialled.iter().filter(|(from, _)| *from == ip);
        of.map(|(_, at)| *at).collect()
    }

    fn weather(&self) -> Weather {
        *self.0.weather.borrow()
    }

    /// Waits until TCP passes.
    async fn tcp_passes(&self) {
        let mut weather = self.0.weather.subscribe();
        let passes = weather.wait_for(|weather| weather.tcp).await.is_ok();
        assert!(passes, "the network is there");
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.0.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One process on a host of its own: what it listens on and its connections end with it.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    network: Network,
    ip: IpAddr,
    dead: CancellationToken,
}

impl Process {
    /// Ends it as `kill -9` does: its kernel resets its connections and answers no datagram.
    pub(crate) fn kill(&self) {
        self.dead.cancel();
        let mut ports = self.network.ports();
        ports.tcp.retain(|address, _| address.ip() != self.ip);
        ports.udp.retain(|address, _| address.ip() != self.ip);
    }

    /// Listens for TCP.
    pub(crate) fn listen(&self, port: u16) -> mpsc::Receiver<(Connection, SocketAddr)> {
        let (into, backlog) = mpsc::channel(BACKLOG);
        let address = SocketAddr::new(self.ip, port);
        let dead = self.dead.clone();
        self.network.ports().tcp.insert(address, (into, dead));
        backlog
    }

    fn fresh_port(&self) -> u16 {
        let mut ports = self.network.ports();
        ports.last = ports.last.wrapping_add(1).max(1_024);
        ports.last
    }

    async fn dial(&self, to: SocketAddr) -> io::Result<Box<dyn Tcp>> {
        self.network.ports().dialled.push((self.ip, Instant::now()));
        let began = Instant::now();
        for syn in SYNS {
            tokio::time::sleep_until(began + syn).await;
            let weather = self.network.weather();
            if !weather.tcp {
                continue;
            }
            sleep(weather.delay * 2).await;
            let listener = self.network.ports().tcp.get(&to).cloned();
            let (backlog, dead) = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
            let from = SocketAddr::new(self.ip, self.fresh_port());
            let (ours, theirs) = tcp::connect(&self.network, [self.dead.clone(), dead]);
            let taken = backlog.try_send((theirs, from));
            return match taken {
                Ok(()) => Ok(Box::new(ours)),
                Err(_full_or_closed) => Err(io::ErrorKind::ConnectionRefused.into()),
            };
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl sallyport_link::Network for Process {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let ip = host.parse::<IpAddr>().map_err(io::Error::other);
        std::future::ready(ip.map(|ip| vec![SocketAddr::new(ip, port)])).boxed()
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Tcp>>> {
        self.dial(to).boxed()
    }

    fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let port = match local.port() {
            0 => self.fresh_port(),
            port => port,
        };
        Ok(udp::bind(self, SocketAddr::new(self.ip, port)))
    }
}
