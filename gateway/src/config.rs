//! `gateway.toml`: what may stand in it, what it means, and what is refused at start.

mod faults;
mod limits;

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use sallyport_edge::Limits;
use sallyport_link::GatewayUrl;
use sallyport_ops::duration::duration;
use sallyport_ops::{ConfigError, Congestion, Log, Workers, config, places};
use sallyport_wire::{ClusterName, PoolName, SessionId};
use serde::Deserialize;

use faults::Faults;

pub use limits::{Flows, Promotion, Tunnels};

/// The configuration of a gateway, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file that it was read from.
    pub path: PathBuf,
    /// The public URL.
    pub url: GatewayUrl,
    /// Addresses that are listened on, each for TCP and UDP.
    pub listen: Vec<SocketAddr>,
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// `gateway.json` with all keys.
    pub gateway_file: PathBuf,
    /// Where names and the stateless-reset key are kept.
    pub state_dir: PathBuf,
    /// Domain of host mode: `<session>.<domain>`.
    pub sessions_domain: Option<String>,
    /// Proxies whose `X-Forwarded-*` and PROXY headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether trusted proxies send a PROXY header.
    pub proxy_protocol: bool,
    /// Loopback address of the admin listener, beside its socket.
    pub admin: Option<SocketAddr>,
    /// How and what to log.
    pub log: Log,
    /// Account that a gateway started as root becomes.
    pub user: String,
    /// How to choose where any will do.
    pub policy: Policy,
    /// Nodes of this site come first; empty for none.
    pub site: String,
    /// Threads for all connections.
    pub workers: Workers,
    /// What decides how fast tunnels and connections to the public port send.
    pub congestion: Congestion,
    /// How long a drain waits for what runs.
    pub drain: Duration,
    /// Clusters beside the default one.
    pub clusters: Vec<Cluster>,
    /// Raw TCP ports.
    pub tcp: Vec<Raw>,
    /// Raw UDP ports.
    pub udp: Vec<Raw>,
    /// Names whose TLS is passed through unopened.
    pub passthrough: Vec<Passthrough>,
    /// Limits of the front.
    pub limits: Limits,
    /// Limits of tunnels and of what is remembered of them.
    pub tunnels: Tunnels,
    /// Limits of UDP flows.
    pub flows: Flows,
    /// When streams are carried by data connections.
    pub promotion: Promotion,
}

/// How to choose among equals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The fewest open streams for its weight.
    #[default]
    LeastStreams,
    /// In turn, by weight.
    RoundRobin,
    /// The shortest round trip.
    Fastest,
    /// At random, by weight.
    Random,
}

/// A raw port of the gateway and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// Address of the port.
    pub listen: SocketAddr,
    /// Where it leads.
    pub to: Destination,
}

/// Where a stream leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The cluster that the name belongs to.
    pub cluster: ClusterName,
    /// What the name is of.
    pub to: Goal,
}

/// What a stream leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// One session.
    Session(SessionId),
    /// Whichever member of a pool.
    Pool(PoolName),
}

impl Goal {
    /// The name of the session or pool.
    pub fn name(&self) -> &str {
        match self {
            Self::Session(session) => session.as_str(),
            Self::Pool(pool) => pool.as_str(),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            Goal::Session(session) => write!(f, "{session}")?,
            Goal::Pool(pool) => write!(f, "pool {pool}")?,
        }
        if !self.cluster.is_default() {
            write!(f, " of cluster {}", self.cluster)?;
        }
        Ok(())
    }
}

/// A cluster beside the default one, and the names under which its sessions are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its name, as keys of gateway.json carry it.
    pub name: ClusterName,
    /// Host name of its pages and of path mode, in lower case.
    pub host: String,
    /// Domain of host mode: `<session>.<domain>`.
    pub sessions_domain: Option<String>,
}

/// A name whose TLS the gateway never opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passthrough {
    /// Server name, in lower case.
    pub sni: String,
    /// Where it leads.
    pub to: Destination,
}

/// The file as it is written; every key may be left out but `url`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    url: String,
    listen: Option<Vec<SocketAddr>>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    gateway_file: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    sessions_domain: Option<String>,
    #[serde(default)]
    trusted_proxies: Vec<IpNet>,
    #[serde(default)]
    proxy_protocol: bool,
    admin: Option<SocketAddr>,
    #[serde(default)]
    log: Log,
    user: Option<String>,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    site: String,
    workers: Option<Workers>,
    #[serde(default)]
    congestion: Congestion,
    #[serde(default = "default_drain", deserialize_with = "duration")]
    drain: Duration,
    #[serde(default)]
    cluster: Vec<WrittenCluster>,
    #[serde(default)]
    tcp: Vec<WrittenRaw>,
    #[serde(default)]
    udp: Vec<WrittenRaw>,
    #[serde(default)]
    passthrough: Vec<WrittenPassthrough>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    tunnels: Tunnels,
    #[serde(default)]
    flows: Flows,
    #[serde(default)]
    promotion: Promotion,
}

const fn default_drain() -> Duration {
    Duration::from_secs(120)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCluster {
    name: ClusterName,
    host: String,
    sessions_domain: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRaw {
    listen: SocketAddr,
    session: Option<SessionId>,
    pool: Option<PoolName>,
    #[serde(default)]
    cluster: ClusterName,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPassthrough {
    sni: String,
    session: Option<SessionId>,
    pool: Option<PoolName>,
    #[serde(default)]
    cluster: ClusterName,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault that was found, each named by its key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::checked(config::load_toml(path)?, path)
    }

    /// As [`Config::load`], from text that stands, or will stand, in `path`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::checked(config::parse_toml(text, path)?, path)
    }

    /// This configuration for a gateway that runs with `before`: what cannot change while it runs stays,
    /// and is named.
    pub fn while_running(mut self, before: &Self) -> (Self, Vec<&'static str>) {
        let mut kept = Vec::new();
        keep("url", &mut self.url, &before.url, &mut kept);
        keep("listen", &mut self.listen, &before.listen, &mut kept);
        keep("cert", &mut self.cert, &before.cert, &mut kept);
        keep("key", &mut self.key, &before.key, &mut kept);
        keep(
            "gateway_file",
            &mut self.gateway_file,
            &before.gateway_file,
            &mut kept,
        );
        keep(
            "state_dir",
            &mut self.state_dir,
            &before.state_dir,
            &mut kept,
        );
        keep("admin", &mut self.admin, &before.admin, &mut kept);
        keep("[log]", &mut self.log, &before.log, &mut kept);
        keep("user", &mut self.user, &before.user, &mut kept);
        keep("workers", &mut self.workers, &before.workers, &mut kept);
        let (now, then) = (&mut self.congestion, &before.congestion);
        keep("congestion", now, then, &mut kept);
        keep("[[tcp]]", &mut self.tcp, &before.tcp, &mut kept);
        keep("[[udp]]", &mut self.udp, &before.udp, &mut kept);
        keep("[tunnels]", &mut self.tunnels, &before.tunnels, &mut kept);
        let (now, then) = (&mut self.promotion, &before.promotion);
        keep("[promotion]", now, then, &mut kept);
        let (limits, old) = (&mut self.limits, &before.limits);
        keep(
            "limits.handshakes",
            &mut limits.handshakes,
            &old.handshakes,
            &mut kept,
        );
        let (now, then) = (
            &mut limits.handshakes_per_source,
            &old.handshakes_per_source,
        );
        keep("limits.handshakes_per_source", now, then, &mut kept);
        keep(
            "limits.connections",
            &mut limits.connections,
            &old.connections,
            &mut kept,
        );
        let (now, then) = (
            &mut limits.connections_per_source,
            &old.connections_per_source,
        );
        keep("limits.connections_per_source", now, then, &mut kept);
        let (flows, old) = (&mut self.flows, &before.flows);
        keep("flows.most", &mut flows.most, &old.most, &mut kept);
        let (now, then) = (&mut flows.per_source, &old.per_source);
        keep("flows.per_source", now, then, &mut kept);
        (self, kept)
    }

    fn checked(written: Written, path: &Path) -> Result<Self, ConfigError> {
        let mut faults = Faults::default();
        let url: Option<GatewayUrl> = faults.parsed("url", &written.url);
        let tcp = faults.raw("tcp", written.tcp);
        let udp = faults.raw("udp", written.udp);
        let passthrough = faults.passthrough(written.passthrough);
        let sessions_domain = faults.domain("sessions_domain", written.sessions_domain.as_deref());
        let clusters = faults.clusters(written.cluster);
        if let Some(url) = &url {
            let own = url.host().to_string().to_ascii_lowercase();
            faults.names((&own, sessions_domain.as_deref()), &clusters, &passthrough);
        }
        faults.admin(written.admin);
        faults.limits(&written.limits, &written.tunnels, &written.flows);
        faults.promotion(&written.promotion);
        let own = |given: Option<PathBuf>, default: &str| {
            places::relative_to(path, given.as_deref().unwrap_or_else(|| Path::new(default)))
        };
        let state_dir = written.state_dir.map(|dir| places::relative_to(path, &dir));
        let port = url.as_ref().map_or(443, GatewayUrl::port);
        let listen = written
            .listen
            .unwrap_or_else(|| vec![(Ipv6Addr::UNSPECIFIED, port).into()]);
        faults.listeners(&listen, &tcp, &udp);
        let (Some(url), true) = (url, faults.0.is_empty()) else {
            return Err(ConfigError::fault(path, faults.0.join("; ")));
        };
        Ok(Self {
            path: path.to_owned(),
            url,
            listen,
            cert: own(written.cert, "cert.pem"),
            key: own(written.key, "key.pem"),
            gateway_file: own(written.gateway_file, "gateway.json"),
            state_dir: state_dir.unwrap_or_else(|| places::state_dir(path)),
            sessions_domain,
            trusted_proxies: written.trusted_proxies,
            proxy_protocol: written.proxy_protocol,
            admin: written.admin,
            log: written.log,
            user: written.user.unwrap_or_else(|| "sallyport".to_owned()),
            policy: written.policy,
            site: written.site,
            workers: written.workers.unwrap_or_else(Workers::half),
            congestion: written.congestion,
            drain: written.drain,
            clusters,
            tcp,
            udp,
            passthrough,
            limits: written.limits,
            tunnels: written.tunnels,
            flows: written.flows,
            promotion: written.promotion,
        })
    }
}

fn keep<T: PartialEq + Clone>(
    key: &'static str,
    new: &mut T,
    before: &T,
    kept: &mut Vec<&'static str>,
) {
    if new != before {
        *new = before.clone();
        kept.push(key);
    }
}

#[cfg(test)]
mod tests;
