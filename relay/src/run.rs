//! One relay from start to end: identity, certificates, admin socket, tunnels, and an end that cuts nobody off.

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use sallyport_cluster::{Cluster, ClusterStartError, Limits, NotAKey};
use sallyport_link::identity::{IdentityError, next_generation};
use sallyport_link::proxy::{ProxyRules, ProxyUrlError};
use sallyport_link::{
    Choice, ClusterKeys, Dialer, GatewayUrl, KeyFileError, Names, NamesError, NodeIdentity,
    Settings, backoff,
};
use sallyport_node::GatewayLink;
use sallyport_node::settings::SettingsError;
use sallyport_ops::{
    Admin, ConfigError, Logging, Metrics, Ready, Signal, Signals, Tasks, logs, places, privileges,
};
use sallyport_placement::Placement;
use sallyport_placement::pending::Pending;
use sallyport_placement::reservations::Reservations;
use sallyport_wire::message::DATA;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, info_span, warn};

use crate::board::{Board, TUNNELS};
use crate::certificates::{self, Served, TlsError};
use crate::config::Config;
use crate::credentials::Credentials;
use crate::debug::CATEGORIES;
use crate::direct::{self, Behind, Clients, DirectError, Origins};
use crate::direct_url;
use crate::drain::Drains;
use crate::gateways::{self, Files};
use crate::global::Global;
use crate::health;
use crate::join::{self, Joined, STORE};
use crate::local::{self, Local};
use crate::membership::{Observer, Speaker};
use crate::metrics::{self, Gauges};
use crate::outfit::{Outfit, Person};
use crate::peers::{self, Peers, Trust};
use crate::placement;
use crate::queue::Line;
use crate::reservations;
use crate::servers::{self, Describer, Servers};
use crate::sessions::Sessions;
use crate::status::{self, Sources};
use crate::streams::Streams;

/// What the last steps of a drain may take beyond the streams' own time.
const LAST_STEPS: Duration = Duration::from_secs(5);

/// The file that keeps which node key a peer's name belongs to, in the state directory.
const PEER_NAMES: &str = "peer-names.json";

/// Streams of a QUIC tunnel beyond those that it carries: for probes, and to be refused instead of held up.
const HEADROOM: u32 = 16;

/// Why a relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The node's key or number of starts.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A session's certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The proxy of the configuration or of `HTTPS_PROXY`.
    #[error("proxy: {0}")]
    Proxy(#[from] ProxyUrlError),
    /// A gateway file is there and cannot be used.
    #[error("{0}")]
    GatewayFile(String),
    /// Settings that were kept.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The file of the cluster keys is there and cannot be used.
    #[error(transparent)]
    ClusterKeys(#[from] KeyFileError),
    /// The names of other nodes that were kept.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// The name of the node cannot stand on the bus.
    #[error(transparent)]
    Topic(#[from] NotAKey),
    /// The port for other nodes.
    #[error(transparent)]
    Direct(#[from] DirectError),
    /// The state directory.
    #[error("cannot make the state directory {}: {cause}; make it, or name another with SALLYPORT_STATE_DIR", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The admin socket.
    #[error("cannot serve the admin socket {}: {cause}", path.display())]
    AdminSocket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The admin address.
    #[error("cannot listen on admin = \"{address}\": {cause}")]
    AdminAddress {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// `broker.json` or the embedded store.
    #[error(transparent)]
    Cluster(#[from] ClusterStartError),
    /// What was kept of the cluster's configuration.
    #[error(transparent)]
    Global(#[from] ConfigError),
    /// The signals.
    #[error("cannot listen to signals: {0}")]
    Signals(#[source] io::Error),
}

impl StartError {
    /// Whether starting again will not help until a file is changed.
    #[must_use]
    pub const fn is_config(&self) -> bool {
        !matches!(
            self,
            Self::AdminSocket { .. }
                | Self::AdminAddress { .. }
                | Self::Direct(_)
                | Self::Signals(_)
        )
    }
}

/// The tasks of a relay, by when they end.
#[derive(Debug)]
struct Owners {
    /// Admin and link: last.
    all: Tasks,
    /// Follows files and health: first.
    background: Tasks,
    /// Lanes, tunnels and streams: they drain.
    tunnels: Tasks,
    /// Tells other nodes that this one is there: until it has drained.
    speaking: Tasks,
}

/// What is needed until the end.
#[derive(Debug)]
struct Running {
    outfit: Arc<Outfit>,
    served: Vec<Served>,
    speaker: Option<Speaker>,
}

/// Runs a relay until a signal ends it; its administrator may read what it logs.
///
/// # Errors
/// [`StartError`]. Once it runs it ends only by signal.
pub async fn run(config: Config, logging: Logging) -> Result<(), StartError> {
    let mut signals = Signals::new().map_err(StartError::Signals)?;
    let all = Tasks::new();
    let owners = Owners {
        background: all.child(),
        tunnels: all.child(),
        speaking: all.child(),
        all,
    };
    let running = start(&config, &owners, logging)?;
    loop {
        match signals.next().await {
            Signal::Terminate => break,
            Signal::Reload => reload(&running.served),
            Signal::Rotate => {}
        }
    }
    end(&running, &owners, &mut signals).await;
    Ok(())
}

fn start(config: &Config, owners: &Owners, logging: Logging) -> Result<Running, StartError> {
    let (metrics, ready) = (Metrics::new(), Ready::new(&[TUNNELS, STORE]));
    owners.all.expose(&metrics);
    if let Err(cause) = privileges::raise_descriptor_limit() {
        warn!(%cause, "the limit of open files stays as it is");
    }
    let mut files = Files::new(config.gateway_files.clone());
    usable(&mut files)?;
    let (sessions, mut served) = certificates::open(config.sessions.clone())?;
    let (front, certificate) = front_tls(config)?.unzip();
    served.extend(certificate);
    let sessions = Arc::new(Sessions::new(sessions).at(url_of_clients(config)));
    let node = config.node.clone();
    let streams = Streams::new(node, Arc::clone(&sessions), config.limits, &metrics);
    let state = state_dir(&config.path)?;
    let board = Board::new(ready.clone(), &metrics);
    let outfit = outfit(config, streams, (board, &state), owners)?;
    let local = Arc::new(Local::open(config, &state, &owners.background)?);
    local.drain_with(Arc::clone(&sessions), &owners.background);
    let cluster = Cluster::start(&config.path, &state, Limits::default(), &owners.all)?;
    let peers = peers(config, &outfit, &state, owners)?;
    tell_store(&cluster, &peers, &ready, owners);
    let keys = peers.keys();
    let global = Global::open(&config.node, &cluster, keys.clone(), &state)?;
    global.follow(&owners.background);
    let reservations = reservations::open(config, &cluster, &keys, &owners.all)?;
    let line = line(
        config,
        (&cluster, &outfit),
        (&global, &reservations),
        &keys,
        owners,
    )?;
    let describer = describer(config, &outfit, (local, global, reservations), owners);
    let at = join::addresses(&config.node, config.port());
    let joined = join::join(&describer, &cluster, at, &keys, &owners.speaking)?;
    if let Some(joined) = joined.as_ref().filter(|_| config.observe) {
        observe(&joined.observer, &outfit, &peers, owners);
    }
    let (servers, placement) = choice(config, describer, joined.as_ref(), owners);
    let sources = Sources {
        peers: Arc::clone(&peers),
        servers,
        line,
        cluster,
    };
    let admin = Admin::new(metrics, ready);
    let admin = logs::routes(admin, (CATEGORIES, config.log), logging, &owners.background);
    let drains = drains(&sources.servers, joined.as_ref(), owners);
    serve_admin(config, (sources, &drains, &placement), admin, owners)?;
    info!(node = %outfit.person.node, id = %outfit.person.identity.id(), generation = outfit.person.generation, sessions = sessions.len(), "relay started");
    health::watch(&sessions, &config.limits, &owners.background);
    peers.start(&owners.all);
    let clients = front.map(|tls| clients(tls, &outfit, (&peers, joined.as_ref()), owners));
    open_direct(config, peers, clients, owners)?;
    follow_gateways(files, &outfit, owners);
    Ok(Running {
        outfit,
        served,
        speaker: joined.map(|joined| joined.speaker),
    })
}

/// Dials the gateways of the files, whatever those become.
fn follow_gateways(files: Files, outfit: &Arc<Outfit>, owners: &Owners) {
    let following = gateways::follow(files, Arc::clone(outfit), owners.tunnels.clone());
    owners.background.spawn(info_span!("gateways"), following);
}

/// Has readiness say whether the store can be used, and other nodes hear which one it is.
fn tell_store(cluster: &Cluster, peers: &Arc<Peers>, ready: &Ready, owners: &Owners) {
    let telling = join::tell_store(cluster.clone(), ready.clone());
    owners.background.spawn(info_span!("store"), telling);
    let telling = join::tell_store_id(cluster.clone(), Arc::clone(peers));
    owners.background.spawn(info_span!("store id"), telling);
}

/// Hears the other nodes, and knows from them where their sessions are.
fn observe(observer: &Observer, outfit: &Arc<Outfit>, peers: &Arc<Peers>, owners: &Owners) {
    observer.observe(&owners.all);
    let leading = join::lead(observer.clone(), Arc::clone(outfit), Arc::clone(peers));
    owners.background.spawn(info_span!("lead"), leading);
}

/// What waits for servers. Relays that observe the others stand for running it.
fn line(
    config: &Config,
    (cluster, outfit): (&Cluster, &Outfit),
    (global, reservations): (&Global, &Reservations),
    keys: &watch::Receiver<Arc<ClusterKeys>>,
    owners: &Owners,
) -> Result<Line, StartError> {
    let mut line = Line::open(config, cluster, global, keys, &owners.background)?;
    if config.observe || !cluster.is_shared() {
        line.stand(cluster, outfit, reservations.clone(), &owners.all)?;
    }
    Ok(line)
}

/// What describes this node, with its metrics running.
fn describer(
    config: &Config,
    outfit: &Arc<Outfit>,
    (local, global, reservations): (Arc<Local>, Global, Reservations),
    owners: &Owners,
) -> Describer {
    let describer = Describer {
        outfit: Arc::clone(outfit),
        local,
        groups: config.groups.clone(),
        gauges: Gauges::default(),
        global,
        pending: Pending::default(),
        reservations,
    };
    let node = describer.clone();
    let input = move || node.describe().for_scripts();
    let gauges = &describer.gauges;
    let epochs = describer.global.changes();
    let metrics = (&config.metrics, &config.programs);
    gauges.follow(metrics, epochs, input, &owners.background);
    describer
}

/// What drains this node, also when another one asks for it.
fn drains(servers: &Servers, joined: Option<&Joined>, owners: &Owners) -> Drains {
    let drains = Drains {
        servers: servers.clone(),
        far: joined.map(|joined| joined.far.clone()),
    };
    drains.obey(&owners.background);
    drains
}

/// This node and the others as far as they are heard, and what chooses among them.
fn choice(
    config: &Config,
    describer: Describer,
    joined: Option<&Joined>,
    owners: &Owners,
) -> (Servers, Placement) {
    let servers = Servers {
        describer,
        observer: joined.map(|joined| joined.observer.clone()),
        tenure: joined.map(Joined::tenure),
        observes: config.observe,
        tasks: owners.background.clone(),
    };
    let placement = placement::open(
        &servers,
        &config.placement,
        config.programs.clone(),
        &owners.background,
    );
    let streams = &servers.describer.outfit.streams;
    streams.balance().by(placement.clone());
    (servers, placement)
}

/// The TLS of clients that come to this relay itself, if they may.
///
/// # Errors
/// [`TlsError`] if the files of `[direct]` cannot be used.
pub fn front_tls(config: &Config) -> Result<Option<(Arc<ServerConfig>, Served)>, TlsError> {
    let front = config
        .direct
        .as_ref()
        .and_then(|direct| direct.front.as_ref());
    front
        .map(|front| certificates::open_direct(&front.tls))
        .transpose()
}

/// Where clients reach the sessions of this node without a gateway, if they may.
fn url_of_clients(config: &Config) -> Option<GatewayUrl> {
    let front = config.direct.as_ref()?.front.as_ref()?;
    Some(front.url.clone())
}

/// What clients meet at the direct port.
fn clients(
    tls: Arc<ServerConfig>,
    outfit: &Arc<Outfit>,
    (peers, joined): (&Peers, Option<&Joined>),
    owners: &Owners,
) -> Clients {
    Clients {
        node: outfit.person.node.clone(),
        generation: outfit.person.generation,
        tls,
        streams: Arc::clone(&outfit.streams),
        tasks: owners.tunnels.child(),
        keys: peers.keys(),
        origins: origins(outfit, joined),
    }
}

/// The pages of this node's gateways, and of those of the other nodes as far as they are heard.
fn origins(outfit: &Arc<Outfit>, joined: Option<&Joined>) -> Origins {
    let (outfit, observer) = (
        Arc::clone(outfit),
        joined.map(|joined| joined.observer.clone()),
    );
    Arc::new(move |origin| {
        let is_one = |links: &[GatewayLink]| links.iter().any(|link| link.url == origin);
        let others = || observer.as_ref().map(Observer::others).unwrap_or_default();
        is_one(&outfit.board.links()) || others().iter().any(|other| is_one(&other.server.gateways))
    })
}

fn open_direct(
    config: &Config,
    peers: Arc<Peers>,
    clients: Option<Clients>,
    owners: &Owners,
) -> Result<(), StartError> {
    let Some(port) = &config.direct else {
        return Ok(());
    };
    let behind = Behind {
        peers,
        links: owners.all.child(),
        clients,
    };
    let bounds = (&config.limits, settings(config));
    direct::open(port, behind, bounds, &owners.background)?;
    Ok(())
}

/// The other nodes, as the configuration names them.
fn peers(
    config: &Config,
    outfit: &Arc<Outfit>,
    state: &Path,
    owners: &Owners,
) -> Result<Arc<Peers>, StartError> {
    let most = usize::try_from(config.limits.peer_names).unwrap_or(usize::MAX);
    let trust = Trust {
        credentials: Credentials::open(&config.node, &config.cluster_keys)?,
        names: Arc::new(Names::load(&state.join(PEER_NAMES), most)?),
        named: config.peers.clone(),
    };
    let tasks = (owners.tunnels.clone(), owners.all.child());
    let outfit = Arc::clone(outfit);
    Ok(Peers::new(outfit, trust, settings(config), tasks))
}

/// At start a file that is there must be usable: a mistake is told now, not in a log line later.
fn usable(files: &mut Files) -> Result<(), StartError> {
    files.read();
    if let Some(fault) = files.faults().next() {
        return Err(StartError::GatewayFile(fault.to_owned()));
    }
    for gap in files.gaps() {
        warn!(%gap, "a gateway file is missing");
    }
    Ok(())
}

fn outfit(
    config: &Config,
    streams: Streams,
    (board, state): (Board, &Path),
    owners: &Owners,
) -> Result<Arc<Outfit>, StartError> {
    let most = config.limits.streams_per_tunnel.saturating_add(HEADROOM);
    let settings = Settings {
        accept: usize::try_from(most).unwrap_or(usize::MAX),
        ..settings(config)
    };
    Ok(Arc::new(Outfit {
        person: Person {
            node: config.node.clone(),
            site: config.site.clone(),
            features: features(config),
            identity: NodeIdentity::load_or_create(state)?,
            generation: next_generation(state, SystemTime::now())?,
        },
        dialer: Dialer::new(Arc::new(settings), proxies(config)?, owners.all.child()),
        seed: backoff::seed(),
        choice: config.transport,
        tunnels: config.tunnels,
        limits: config.limits,
        streams: Arc::new(streams),
        board,
        leaving: CancellationToken::new(),
    }))
}

/// What all tunnels of this relay have in common.
fn settings(config: &Config) -> Settings {
    Settings {
        congestion: config.congestion,
        ..Settings::relay()
    }
}

/// A relay that keeps to QUIC dials nothing over TCP.
fn features(config: &Config) -> Vec<String> {
    let data = config.limits.data_connections > 0 && config.transport != Choice::Quic;
    data.then(|| DATA.to_owned()).into_iter().collect()
}

/// The state directory of the relay with the configuration `file`, made where it is not there.
///
/// # Errors
/// [`StartError::State`].
pub fn state_dir(file: &Path) -> Result<PathBuf, StartError> {
    let path = places::state_dir(file);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
    match made {
        Ok(()) => Ok(path),
        Err(cause) => Err(StartError::State { path, cause }),
    }
}

/// The proxy of the configuration, else that of the environment.
///
/// # Errors
/// When it is no proxy's URL.
pub fn proxies(config: &Config) -> Result<ProxyRules, ProxyUrlError> {
    let variable = |names: [&str; 2]| names.into_iter().find_map(|name| std::env::var(name).ok());
    match config.proxy.as_deref() {
        Some("none") => Ok(ProxyRules::none()),
        Some(proxy) => proxy.parse().map(ProxyRules::always),
        None => ProxyRules::from_environment(
            variable(["HTTPS_PROXY", "https_proxy"]).as_deref(),
            variable(["NO_PROXY", "no_proxy"]).as_deref(),
        ),
    }
}

fn serve_admin(
    config: &Config,
    (sources, drains, placement): (Sources, &Drains, &Placement),
    admin: Admin,
    owners: &Owners,
) -> Result<(), StartError> {
    let describer = &sources.servers.describer;
    let admin = local::routes(admin, &describer.local);
    let admin = drains.routes(admin);
    let admin = placement::routes(admin, placement, &describer.reservations);
    let admin = metrics::route(admin, describer.gauges.clone());
    let admin = describer.global.route(admin);
    let admin = servers::route(admin, sources.servers.clone());
    let admin = peers::routes(admin, &sources.peers);
    let admin = reservations::route(admin, &describer.reservations);
    let admin = sources.line.route(admin);
    let admin = direct_url::route(admin, &describer.outfit, sources.peers.keys());
    let admin = Arc::new(status::route(admin, sources));
    let path = places::admin_socket("relay", &config.path);
    let served = admin.serve_unix(&path, &owners.all);
    served.map_err(|cause| StartError::AdminSocket { path, cause })?;
    if let Some(address) = config.admin {
        let served = admin.serve_tcp(address, &owners.all);
        let address = served.map_err(|cause| StartError::AdminAddress { address, cause })?;
        info!(%address, "metrics and readiness");
    }
    Ok(())
}

fn reload(served: &[Served]) {
    for certificate in served {
        match certificate.reload() {
            Ok(()) => info!(of = %certificate.whose(), "certificate read again"),
            Err(cause) => error!(%cause, "the old certificate stays"),
        }
    }
}

/// Tells the gateways, lets streams finish, then ends. A second signal means now.
async fn end(running: &Running, owners: &Owners, signals: &mut Signals) {
    let outfit = &running.outfit;
    let grace = outfit.limits.drain;
    info!(streams = outfit.streams.ledger().len(), within = ?grace, "draining; a second signal ends at once");
    outfit.leaving.cancel();
    owners.background.stop();
    let drained = owners.tunnels.drain(grace.saturating_add(LAST_STEPS));
    let again = async { while signals.next().await != Signal::Terminate {} };
    tokio::select! {
        cut = drained => match cut {
            0 => info!("drained"),
            _ => warn!(tasks = cut, "cut what outlived the drain"),
        },
        () = again => warn!(streams = outfit.streams.ledger().len(), "ending at once"),
    }
    owners.tunnels.stop();
    owners.speaking.stop();
    if let Some(speaker) = &running.speaker {
        speaker.leave().await;
    }
    owners.all.drain(Duration::ZERO).await;
}
