//! `relay.toml`: what this relay serves, and to which gateways. Strict: every fault is found and named
//! with its line before anything starts.

mod direct;
mod faults;
mod limits;
mod metrics;
mod peer;
mod placement;
mod raw;
mod session;
mod static_data;
mod target;

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use sallyport_link::Choice;
use sallyport_node::static_data::Object;
use sallyport_ops::config::{self, ConfigError, parse_toml};
use sallyport_ops::{Congestion, Log, Workers};
use sallyport_scripts::Folders;
use sallyport_wire::NodeName;

pub use direct::{DirectConfig, FrontConfig};
pub use faults::{Fault, FaultList};
pub use limits::Limits;
pub use metrics::MetricsConfig;
pub use peer::{MAX_PEERS, PeerConfig};
pub use placement::PlacementConfig;
pub use session::{Access, HealthCheck, ProxyVersion, SessionConfig, TlsFiles};
pub use target::{Host, Target};

use faults::Faults;
use raw::RawConfig;

/// Most `[[session]]` tables of one relay.
pub const MAX_SESSIONS: usize = 512;

/// Name of the file with the keys of the cluster, beside `relay.toml`.
pub const CLUSTER_KEYS: &str = "cluster-keys.json";

/// Most tunnels to one gateway.
pub const MAX_TUNNELS: usize = 4;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// Name of the node, by default the host name in lower case.
    pub node: NodeName,
    /// Gateway files or directories of such, in the order given. They need not exist.
    pub gateway_files: Vec<PathBuf>,
    /// The keys of the cluster. The file need not exist.
    pub cluster_keys: PathBuf,
    /// Transports that tunnels may use.
    pub transport: Choice,
    /// Proxy for the way out, as a URL or `none`; absent leaves it to `HTTPS_PROXY`.
    pub proxy: Option<String>,
    /// Tunnels to every gateway, 1 to 4, where the gateway does not ask for another number.
    pub tunnels: usize,
    /// What decides how fast tunnels send.
    pub congestion: Congestion,
    /// Threads for all tunnels.
    pub workers: Workers,
    /// Site of the node; empty for none.
    pub site: String,
    /// Groups of the node, for status and placement.
    pub groups: Vec<String>,
    /// What the site says about the node, until it is edited by command.
    pub static_data: Object,
    /// Loopback address for `/metrics`, `/healthz` and `/readyz`, besides the admin socket.
    pub admin: Option<SocketAddr>,
    /// How and what to log.
    pub log: Log,
    /// Every bound.
    pub limits: Limits,
    /// The metrics of the node.
    pub metrics: MetricsConfig,
    /// What is kept of placements, and how many may wait.
    pub placement: PlacementConfig,
    /// The port for other nodes and for clients; none keeps it shut.
    pub direct: Option<DirectConfig>,
    /// Whether it hears all the time what the other nodes say over the cluster's bus.
    pub observe: bool,
    /// Where programs lie that the cluster's configuration may have run on this node.
    pub programs: Folders,
    /// Other nodes to dial, in the order of the file.
    pub peers: Vec<PeerConfig>,
    /// The sessions, in the order of the file.
    pub sessions: Vec<SessionConfig>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read, is no TOML, or has a key or a type that is unknown.
    #[error(transparent)]
    Parse(#[from] ConfigError),
    /// The values do not fit together; all faults at once.
    #[error(transparent)]
    Faults(#[from] FaultList),
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`LoadError`] when it cannot be read, parsed or used.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let text = config::read(path)?;
        Self::parse(&text, path)
    }

    /// Checks the text of a file that lies at `path`, from whose folder relative paths count.
    ///
    /// # Errors
    /// [`LoadError`] when it cannot be parsed or used.
    pub fn parse(text: &str, path: &Path) -> Result<Self, LoadError> {
        let raw: RawConfig = parse_toml(text, path)?;
        let mut faults = Faults::new(text, path);
        let config = Self::check(raw, &mut faults);
        faults.none_or(config).map_err(LoadError::Faults)
    }

    /// Address of the port for other nodes, if it is open.
    #[must_use]
    pub fn port(&self) -> Option<SocketAddr> {
        self.direct.as_ref().map(|direct| direct.listen)
    }

    fn check(raw: RawConfig, faults: &mut Faults<'_>) -> Option<Self> {
        let node = node_name(raw.node, faults);
        let gateway_files = raw
            .gateway_file
            .map(raw::OneOrMany::into_vec)
            .unwrap_or_default();
        let cluster_keys = raw
            .cluster_keys
            .unwrap_or_else(|| PathBuf::from(CLUSTER_KEYS));
        let tunnels = faults.in_range("tunnels", raw.tunnels, 2, 1..=MAX_TUNNELS);
        let admin = raw.admin.map(|admin| loopback(&admin, faults));
        let site = raw
            .site
            .map(|site| faults.word("site", site))
            .unwrap_or_default();
        let groups = raw
            .groups
            .into_iter()
            .map(|group| faults.word("group", group))
            .collect();
        let static_data = raw
            .static_data
            .map(|table| static_data::check(table, faults));
        let limits = raw.limits.check(faults);
        let metrics = raw.metrics.check(faults);
        let programs = raw.cluster.programs.iter();
        let programs = Folders::new(programs.map(|folder| faults.beside(folder)));
        let placement = raw.placement.check(faults);
        let direct = direct::check(raw.direct, faults);
        let peers = peer::check(raw.peer, node.as_ref(), faults);
        let sessions = sessions(raw.session, faults);
        Some(Self {
            path: faults.path().to_owned(),
            node: node?,
            gateway_files: gateway_files
                .iter()
                .map(|file| faults.beside(file))
                .collect(),
            cluster_keys: faults.beside(&cluster_keys),
            transport: raw.transport,
            proxy: raw.proxy.map(toml::Spanned::into_inner),
            tunnels,
            congestion: raw.congestion,
            workers: raw.workers.unwrap_or(Workers::ONE),
            site,
            groups,
            static_data: static_data.unwrap_or_default(),
            admin,
            log: raw.log,
            limits,
            observe: raw.cluster.observe,
            programs,
            metrics,
            placement,
            direct,
            peers,
            sessions,
        })
    }
}

fn node_name(given: Option<toml::Spanned<String>>, faults: &mut Faults<'_>) -> Option<NodeName> {
    if let Some(given) = given {
        return faults.parsed(&given);
    }
    let host = host_name();
    let name = host.as_deref().unwrap_or_default().parse();
    if name.is_err() {
        let host = host.unwrap_or_default().escape_debug().to_string();
        faults.whole(format!(
            "the host name `{host}` cannot be a node name: write `node = \"...\"` (a-z, 0-9, inner - and .)"
        ));
    }
    name.ok()
}

/// The kernel's host name in lower case, without a dot at the end.
fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().trim_end_matches('.').to_ascii_lowercase())
}

fn loopback(admin: &toml::Spanned<SocketAddr>, faults: &mut Faults<'_>) -> SocketAddr {
    let address = *admin.get_ref();
    if !address.ip().is_loopback() {
        faults.at(
            &admin.span(),
            format!("`admin = \"{address}\"` must be a loopback address, like 127.0.0.1:9301"),
        );
    }
    address
}

fn sessions(
    raw: Vec<toml::Spanned<raw::RawSession>>,
    faults: &mut Faults<'_>,
) -> Vec<SessionConfig> {
    if let Some(first) = raw.get(MAX_SESSIONS) {
        let text = format!(
            "{} sessions are too many: a relay serves at most {MAX_SESSIONS}",
            raw.len()
        );
        faults.at(&first.span(), text);
        return Vec::new();
    }
    let mut seen = HashMap::new();
    let mut sessions = Vec::new();
    for raw in raw {
        let span = raw.get_ref().id.span();
        let Some(session) = session::check(raw, faults) else {
            continue;
        };
        if let Some(line) = seen.insert(session.id.clone(), faults.line(span.start)) {
            faults.at(
                &span,
                format!("session `{}` is also in line {line}", session.id),
            );
        }
        sessions.push(session);
    }
    sessions
}

#[cfg(test)]
mod tests;
