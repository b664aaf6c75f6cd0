//! The ways from a client to the origin that are compared, each started as its makers say.

mod ours;
mod rathole;
mod haproxy;
mod nginx;
mod ssh;
mod socat;
mod frp;
mod chisel;
mod piko;
mod plain_quinn;

use std::any::Any;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use sallyport_tests::{Daemon, Port};

use crate::cost::Process;
use crate::host::Host;
use crate::lab::Lab;
use crate::progress::say;

/// Longest wait for bytes of a way that works: not a figure, only so that a broken one is told from a slow one.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Name of the page that ways of HTTP serve: 1 KiB.
const PAGE: &str = "page";

/// Name of a larger one: 1 MiB.
pub const LARGE: &str = "large";

/// A way that can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// No proxy.
    Direct,
    /// Ours: a raw port, a tunnel over TLS, one connection.
    Tls,
    /// Ours: the same over QUIC.
    Quic,
    /// Ours: a raw port, and tunnels as a relay makes them that was told nothing.
    Shipped,
    /// Ours: a passthrough by server name, a tunnel over TLS.
    Blind,
    /// rathole, plaintext TCP.
    Rathole,
    /// rathole, encrypted with noise.
    RatholeNoise,
    /// Two HAProxy in TCP mode with `option splice-auto`.
    Haproxy,
    /// The same, the first choosing by server name.
    HaproxyBlind,
    /// `ssh -R`.
    Ssh,
    /// Two socat.
    Socat,
    /// frps and frpc.
    Frp,
    /// chisel.
    Chisel,
    /// piko.
    Piko,
    /// A tunnel with quinn's defaults, of our own making.
    PlainQuinn,
    /// HTTP: nginx, neither TLS nor a proxy.
    Nginx,
    /// HTTP: nginx with TLS, rathole over plain TCP, nginx.
    NginxRathole,
    /// HTTP: our gateway with TLS, a tunnel over TLS, nginx.
    Https,
    /// A WebSocket: our gateway with TLS, a tunnel over TLS, the origin.
    Upgraded,
}

impl Way {
    /// What it is called in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tls => "Sallyport TLS",
            Self::Quic => "Sallyport QUIC",
            Self::Shipped => "Sallyport as shipped",
            Self::Blind => "Sallyport passthrough",
            Self::Rathole => "rathole plaintext",
            Self::RatholeNoise => "rathole noise",
            Self::Haproxy => "HAProxy splice",
            Self::HaproxyBlind => "HAProxy splice by SNI",
            Self::Ssh => "ssh -R",
            Self::Socat => "socat",
            Self::Frp => "frp",
            Self::Chisel => "chisel",
            Self::Piko => "piko",
            Self::PlainQuinn => "plain quinn",
            Self::Nginx => "nginx alone, no TLS",
            Self::NginxRathole => "nginx TLS, rathole",
            Self::Https => "Sallyport HTTPS",
            Self::Upgraded => "Sallyport WebSocket",
        }
    }

    fn start(self, lab: &Lab, clients: u32) -> Result<Running, String> {
        match self {
            Self::Direct => Ok(Running::new(self, lab, lab.origin.address())),
            Self::Tls | Self::Quic | Self::Shipped | Self::Blind | Self::Upgraded => {
                Ok(ours::start(self, lab, clients))
            }
            Self::Rathole | Self::RatholeNoise => rathole::start(self, lab),
            Self::Haproxy | Self::HaproxyBlind => haproxy::start(self, lab),
            Self::Ssh => ssh::start(lab),
            Self::Socat => socat::start(lab),
            Self::Frp => frp::start(lab),
            Self::Chisel => chisel::start(lab),
            Self::Piko => piko::start(lab),
            Self::PlainQuinn => Ok(plain_quinn::start(lab)),
            Self::Nginx => nginx::start_alone(lab),
            Self::NginxRathole => nginx::start_tunnelled(lab),
            Self::Https => ours::start_https(lab, clients),
        }
    }
}

/// Clients that a way has to hold at once unless a row needs more.
const FEW: u32 = 256;

/// Starts ways; those that cannot be started come back as sentences that say why.
#[must_use]
pub fn start(lab: &Lab, ways: &[Way]) -> (Vec<Running>, Vec<String>) {
    start_for(lab, ways, FEW)
}

/// Starts ways that hold so many clients at once.
#[must_use]
pub fn start_for(lab: &Lab, ways: &[Way], clients: u32) -> (Vec<Running>, Vec<String>) {
    let mut running = Vec::new();
    let mut absent = Vec::new();
    for way in ways {
        say(&format!("starting {}", way.name()));
        match way.start(lab, clients) {
            Ok(started) => running.push(started),
            Err(why) => absent.push(format!("{} is absent: {why}", way.name())),
        }
    }
    (running, absent)
}

/// A way with its proxies running; they end with it.
#[derive(Debug)]
pub struct Running {
    /// Which it is.
    pub way: Way,
    /// Its proxies.
    pub processes: Vec<Process>,
    /// What a browser is given, where the way serves HTTP.
    pub url: String,
    address: SocketAddr,
    /// Where its clients are.
    host: Host,
    hello: Vec<u8>,
    _kept: Vec<Box<dyn Any + Send + Sync>>,
}

impl Running {
    /// A way whose clients connect from the near end to `address`.
    fn new(way: Way, lab: &Lab, address: SocketAddr) -> Self {
        Self {
            way,
            processes: Vec::new(),
            url: String::new(),
            address,
            host: lab.near.clone(),
            hello: Vec::new(),
            _kept: Vec::new(),
        }
    }

    /// A way whose clients connect to a port of the near end.
    fn at(way: Way, lab: &Lab, port: Port) -> Self {
        Self::new(way, lab, lab.near.at(port.number())).keep(port)
    }

    /// Keeps a guard as long as the way runs.
    fn keep(mut self, guard: impl Any + Send + Sync) -> Self {
        self._kept.push(Box::new(guard));
        self
    }

    /// Keeps a process, whose use counts.
    fn process(mut self, name: &str, daemon: Daemon) -> Self {
        self.processes.push(Process::new(name, daemon.id()));
        self.keep(daemon)
    }

    /// Sends these bytes first on every connection.
    fn greeting(mut self, hello: Vec<u8>) -> Self {
        self.hello = hello;
        self
    }

    /// Serves HTTP at this URL.
    fn serving(mut self, url: String) -> Self {
        self.url = url;
        self
    }

    /// Where its clients connect to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it is called in tables.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.way.name()
    }

    /// A connection to the origin.
    ///
    /// # Panics
    /// If the way is broken.
    #[must_use]
    pub fn connect(&self) -> TcpStream {
        let connected = self.host.connect(self.address).and_then(|mut stream| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.write_all(&self.hello)?;
            Ok(stream)
        });
        connected.unwrap_or_else(|error| panic!("{} takes a connection: {error}", self.name()))
    }
}
