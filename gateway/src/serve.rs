//! A gateway from its start to its end.

mod sockets;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Endpoint, VarInt};
use sallyport_certs::{CertError, Reloading, front_server_config, tunnel_server_config};
use sallyport_edge::host::HostError;
use sallyport_edge::newcomers::Newcomers;
use sallyport_link::{EndpointError, KeyRing, NamesError, Settings, quic_endpoint};
use sallyport_ops::files::make_directory;
use sallyport_ops::listen::ListenError;
use sallyport_ops::privileges::{Became, PrivilegeError, become_user, raise_descriptor_limit};
use sallyport_ops::{
    Admin, Logging, Metrics, Ready, Signal, Signals, Slots, Tasks, logs, places, privileges,
};
use sallyport_wire::{ALPN, Code};
use tokio::net::UdpSocket;
use tracing::{Span, info, info_span, warn};

use crate::accept::{Doors, Room, Tls};
use crate::admin;
use crate::budget::{Budget, TooFew};
use crate::config::Config;
use crate::debug::CATEGORIES;
use crate::figures::Figures;
use crate::files::{self, FilesError};
use crate::hub::{Hub, Parts};
use crate::quic::Quic;
use crate::reload::Reloader;
use crate::{clusters, tcp, udp};
use sockets::Sockets;

/// How long relays have to take note of the end of their tunnels.
const FAREWELL: Duration = Duration::from_secs(1);

/// Steps of `/readyz`.
const SERVING: &str = "serving";

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A file cannot be used.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The names cannot be read.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// The limits do not hold what is configured.
    #[error(transparent)]
    TooFew(#[from] TooFew),
    /// A port cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The process could not become another user.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] CertError),
    /// QUIC could not be set up.
    #[error(transparent)]
    Quic(#[from] EndpointError),
    /// A name in the configuration is none.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The system refused something else.
    #[error("{what}: {cause}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        cause: io::Error,
    },
}

impl ServeError {
    /// Whether starting again without a change of the configuration is pointless.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Files(_) | Self::Names(_) | Self::TooFew(_) | Self::Host(_)
        )
    }

    fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |cause| Self::System { what, cause }
    }
}

/// Runs a gateway until it is told to end; its administrator may read what it logs.
///
/// # Errors
/// [`ServeError`] if it does not start.
pub fn run(config: Config, logging: Logging) -> Result<(), ServeError> {
    let runtime = config.workers.runtime();
    let runtime = runtime.map_err(ServeError::system("starting threads"))?;
    let ended = runtime.block_on(async {
        let signals = Signals::new().map_err(ServeError::system("listening to signals"))?;
        let gateway = Gateway::start(config, logging)?;
        gateway.until_told(signals).await;
        Ok(())
    });
    // A disk that hangs does not hold the process.
    runtime.shutdown_timeout(FAREWELL);
    ended
}

/// A running gateway.
#[derive(Debug)]
struct Gateway {
    hub: Arc<Hub>,
    doors: Arc<Doors>,
    endpoints: Vec<Endpoint>,
    reloader: Arc<Reloader>,
    ready: Ready,
    listeners: Tasks,
    clients: Tasks,
    house: Tasks,
}

impl Gateway {
    fn start(config: Config, logging: Logging) -> Result<Self, ServeError> {
        let open_files = raise_descriptor_limit().map_err(ServeError::system("open files"))?;
        let budget = Budget::compute(&config, open_files)?;
        let sockets = Sockets::bind(&config)?;
        become_ordinary(&config)?;
        let metrics = Metrics::new();
        let house = Tasks::new();
        let (listeners, clients) = (house.child(), house.child());
        house.expose(&metrics);
        let identity = files::identity(&config)?;
        let checked = [
            files::pinned(&config, &identity),
            files::covers(&config, &identity),
        ];
        for cause in checked.into_iter().filter_map(Result::err) {
            warn!(%cause, "the certificate is used all the same");
        }
        let certs = Reloading::new(identity);
        let hub = hub(config, &budget, &metrics, house.child())?;
        let settings = Arc::new(Settings {
            open: hub.config().tunnels.streams,
            congestion: hub.config().congestion,
            ..Settings::gateway()
        });
        let tls = Tls {
            tunnel: tunnel_server_config(Arc::clone(&certs), &[ALPN])?,
            front: front_server_config(Arc::clone(&certs))?,
        };
        let endpoints = endpoints(sockets.quic, &tls, &hub.config(), &settings)?;
        let room = room(&hub.config(), &budget, &clients, &settings);
        room.clients.expose(&metrics);
        let places = room.clients.clone();
        let doors = Doors::new(Arc::clone(&hub), tls, room)?;
        let reloader = Arc::new(Reloader {
            hub: Arc::clone(&hub),
            certs,
            doors: Arc::clone(&doors),
        });
        let ready = Ready::new(&[SERVING]);
        let gateway = Self {
            hub,
            doors,
            endpoints,
            reloader,
            ready,
            listeners,
            clients,
            house,
        };
        gateway.keep_house(metrics, logging)?;
        gateway.open(sockets.public, &settings, budget.newcomers);
        gateway.open_raw(sockets.tcp, sockets.udp, &places);
        gateway.ready.set(SERVING, Ok(()));
        info!(url = %gateway.hub.config().url, version = env!("CARGO_PKG_VERSION"), open_files,
            clients = budget.clients, tunnels = budget.tunnels, "gateway started");
        Ok(gateway)
    }

    /// Admin, names and reloads: what goes on until the very end.
    fn keep_house(&self, metrics: Metrics, logging: Logging) -> Result<(), ServeError> {
        let config = self.hub.config();
        let admin = Admin::new(metrics, self.ready.clone());
        let admin = logs::routes(admin, (CATEGORIES, config.log), logging, &self.house);
        let admin = admin::admin(&self.hub, admin);
        let socket = places::admin_socket("gateway", &config.path);
        admin
            .serve_unix(&socket, &self.house)
            .map_err(ServeError::system(format!(
                "admin socket {}",
                socket.display()
            )))?;
        if let Some(addr) = config.admin {
            admin
                .serve_tcp(addr, &self.house)
                .map_err(ServeError::system(format!("admin {addr}")))?;
        }
        self.house
            .spawn(info_span!("names"), Arc::clone(&self.hub.names).keep());
        self.house
            .spawn(info_span!("reload"), Arc::clone(&self.reloader).follow());
        Ok(())
    }

    fn open(&self, public: Vec<tokio::net::TcpListener>, settings: &Arc<Settings>, most: usize) {
        for listener in public {
            let serving = Arc::clone(&self.doors).serve(listener, self.listeners.clone());
            self.listeners.spawn(Span::none(), serving);
        }
        let config = self.hub.config();
        let quic = Quic {
            hub: Arc::clone(&self.hub),
            settings: Arc::clone(settings),
            newcomers: newcomers(&config, most),
            prove_address_at: config.tunnels.prove_address_at,
            tasks: self.hub.tasks.clone(),
        };
        for endpoint in &self.endpoints {
            self.listeners
                .spawn(Span::none(), quic.clone().serve(endpoint.clone()));
        }
    }

    fn open_raw(
        &self,
        tcp: Vec<(tokio::net::TcpListener, crate::config::Raw)>,
        udp: Vec<(UdpSocket, crate::config::Raw)>,
        places: &Slots,
    ) {
        for port in tcp {
            let (listeners, clients) = (self.listeners.clone(), self.clients.clone());
            let serving = tcp::serve(
                Arc::clone(&self.hub),
                port,
                places.clone(),
                listeners,
                clients,
            );
            self.listeners.spawn(Span::none(), serving);
        }
        let flows = &self.hub.config().flows;
        let slots = Slots::new(flows.most, flows.per_source, Vec::new());
        for (socket, raw) in udp {
            let (hub, clients) = (Arc::clone(&self.hub), self.clients.clone());
            let port = udp::Port::new(hub, socket, raw, slots.clone(), clients);
            self.listeners.spawn(Span::none(), port.serve());
        }
    }

    async fn until_told(self, mut signals: Signals) {
        loop {
            match signals.next().await {
                Signal::Reload => self.reloader.all(),
                Signal::Rotate => {}
                Signal::Terminate => break,
            }
        }
        self.drain(signals).await;
    }

    /// Takes nothing new, tells relays, and waits for what runs; a second signal ends the wait.
    async fn drain(self, mut signals: Signals) {
        let grace = self.hub.config().drain;
        info!(?grace, streams = self.hub.ledger.len(), "draining");
        self.ready.set(SERVING, Err("draining".to_owned()));
        self.hub.drain();
        self.listeners.stop();
        self.doors.drain();
        tokio::select! {
            cut = self.clients.drain(grace) => if cut > 0 {
                warn!(connections = cut, "cut what outlived the drain");
            },
            () = second(&mut signals) => {
                warn!(streams = self.hub.ledger.len(), "told again: ending at once");
                self.clients.stop();
            }
        }
        for member in self.hub.registry().tunnels() {
            member.tunnel.close(Code::Draining);
        }
        self.hub.tasks.drain(FAREWELL).await;
        for endpoint in &self.endpoints {
            endpoint.close(VarInt::from_u32(Code::Draining.number()), b"");
        }
        self.house.stop();
        self.house.drain(FAREWELL).await;
        info!("gateway ended");
    }
}

/// Waits for the signal that ends the wait.
async fn second(signals: &mut Signals) {
    while signals.next().await != Signal::Terminate {}
}

/// Becomes the account of the configuration, having made the directories that it will need and could not make.
fn become_ordinary(config: &Config) -> Result<(), ServeError> {
    let account = privileges::will_be(&config.user);
    let account = account.map_err(ServeError::system("looking up the gateway's account"))?;
    let socket = places::admin_socket("gateway", &config.path);
    for dir in socket.parent().into_iter().chain([&*config.state_dir]) {
        make_directory(dir, account)
            .map_err(ServeError::system(format!("directory {}", dir.display())))?;
    }
    match become_user(&config.user)? {
        Became::User(user) => info!(user, "became an ordinary user"),
        Became::Unprivileged => {}
        Became::NoAccount(user) => {
            warn!(
                user,
                "there is no such account: going on as root; make it, or set `user`"
            );
        }
    }
    Ok(())
}

fn hub(
    config: Config,
    budget: &Budget,
    metrics: &Metrics,
    tasks: Tasks,
) -> Result<Arc<Hub>, ServeError> {
    let names = Arc::new(files::names(&config)?);
    let keys = files::keys(&config)?.keys;
    clusters::log(&config, &keys);
    let keys = KeyRing::new(&keys);
    let figures = Figures::new(metrics);
    Ok(Hub::new(Parts {
        config,
        keys,
        names,
        figures,
        tasks,
        tunnels: budget.tunnels,
        data: budget.data,
    }))
}

fn room(config: &Config, budget: &Budget, clients: &Tasks, settings: &Arc<Settings>) -> Room {
    let slots = |most, per_source| Slots::new(most, per_source, config.trusted_proxies.clone());
    let (most, per_source) = (budget.newcomers, config.limits.handshakes_per_source);
    Room {
        newcomers: newcomers(config, most),
        sockets: slots(most.saturating_mul(2), per_source.saturating_mul(2)),
        clients: slots(budget.clients, config.limits.connections_per_source),
        tasks: clients.clone(),
        settings: Arc::clone(settings),
    }
}

/// Each transport has its own, so that a flood over one does not shut the other.
fn newcomers(config: &Config, most: usize) -> Newcomers {
    let per_source = config.limits.handshakes_per_source;
    Newcomers::new(most, per_source, config.trusted_proxies.clone())
}

fn endpoints(
    sockets: Vec<std::net::UdpSocket>,
    tls: &Tls,
    config: &Config,
    settings: &Settings,
) -> Result<Vec<Endpoint>, ServeError> {
    let reset_key = files::reset_key(&config.state_dir)?;
    let endpoint = |socket| quic_endpoint(socket, Arc::clone(&tls.tunnel), &reset_key, settings);
    Ok(sockets
        .into_iter()
        .map(endpoint)
        .collect::<Result<_, _>>()?)
}
