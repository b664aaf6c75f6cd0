//! The public TCP port: from an accepted socket to a tunnel, a blind stream or the front.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use sallyport_edge::ClientInfo;
use sallyport_edge::establish::{EstablishError, Established, ProxyHeader, Rules, establish};
use sallyport_edge::front::Front;
use sallyport_edge::host::HostError;
use sallyport_edge::newcomers::{Newcomer, Newcomers};
use sallyport_edge::route::Sites;
use sallyport_link::gate::accept_tls;
use sallyport_link::{AcceptError, Settings, Tunnel};
use sallyport_ops::{Accepted, Slots, Tasks, listen};
use sallyport_splice::Rewound;
use sallyport_wire::message::Kind;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tracing::{Span, debug, info_span, warn};

use crate::arrive::Visitor;
use crate::carry::{Caller, carry};
use crate::config::Config;
use crate::hub::Hub;
use crate::open::Tunnels;

/// TLS of the public port.
#[derive(Debug, Clone)]
pub struct Tls {
    /// For relays.
    pub tunnel: Arc<ServerConfig>,
    /// For clients.
    pub front: Arc<ServerConfig>,
}

/// What stands behind the public port.
#[derive(Debug)]
pub struct Doors {
    hub: Arc<Hub>,
    tls: Tls,
    settings: Arc<Settings>,
    newcomers: Newcomers,
    sockets: Slots,
    clients: Slots,
    tasks: Tasks,
    open: ArcSwap<Open>,
}

/// What a configuration makes of the port.
#[derive(Debug)]
struct Open {
    rules: Rules,
    front: Arc<Front<Tunnels>>,
}

/// How many may come in, and who owns their tasks.
#[derive(Debug)]
pub struct Room {
    /// Connections that are not established yet.
    pub newcomers: Newcomers,
    /// Their sockets: one that was told to go keeps its own for a moment.
    pub sockets: Slots,
    /// Clients that are.
    pub clients: Slots,
    /// Owner of their tasks.
    pub tasks: Tasks,
    /// Numbers of tunnels.
    pub settings: Arc<Settings>,
}

impl Doors {
    /// Doors as the configuration in force says.
    ///
    /// # Errors
    /// [`HostError`] if a name of the configuration is none.
    pub fn new(hub: Arc<Hub>, tls: Tls, room: Room) -> Result<Arc<Self>, HostError> {
        let open = Open::new(&hub, &tls, &room.tasks)?;
        let Room {
            newcomers,
            sockets,
            clients,
            tasks,
            settings,
        } = room;
        let open = ArcSwap::from_pointee(open);
        Ok(Arc::new(Self {
            hub,
            tls,
            settings,
            newcomers,
            sockets,
            clients,
            tasks,
            open,
        }))
    }

    /// Treats new connections as the configuration now in force says; those that are there end in order.
    ///
    /// # Errors
    /// As [`Doors::new`]; everything then stays as it is.
    pub fn reopen(&self) -> Result<(), HostError> {
        let open = Open::new(&self.hub, &self.tls, &self.tasks)?;
        self.open.swap(Arc::new(open)).front.drain();
        Ok(())
    }

    /// Ends the front's connections after the answers that are under way.
    pub fn drain(&self) {
        self.open.load().front.drain();
    }

    /// Serves one listener until `listeners` is stopped.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, listeners: Tasks) {
        let doors = Arc::clone(&self);
        let on = move |accepted: Accepted| {
            let newcomer = doors.newcomers.enter(accepted.peer.ip());
            let span = info_span!("connection", peer = %accepted.peer);
            let doors = Arc::clone(&doors);
            doors.settings.congestion.set(&accepted.stream);
            doors
                .tasks
                .clone()
                .spawn(span, doors.receive(accepted, newcomer));
        };
        let sockets = self.sockets.clone();
        listen::accept_loop(listener, sockets, listeners.stopping(), on).await;
    }

    /// Finds out what a connection is for. What comes then has a task of its own: a connection that is idle for long holds
    /// no room for the steps before.
    async fn receive(self: Arc<Self>, accepted: Accepted, newcomer: Newcomer) {
        let open = self.open.load_full();
        let established = tokio::select! {
            established = Box::pin(establish(accepted, &open.rules)) => established,
            () = newcomer.dropped() => {
                debug!("dropped: too many handshakes in progress");
                return self.hub.figures.handshake_failed("early_drop");
            }
        };
        let (established, slot) = match established {
            Ok(established) => established,
            Err(error) => {
                debug!(%error, "not established");
                return self.hub.figures.handshake_failed(word(&error));
            }
        };
        match established {
            Established::Relay { tls, peer } => {
                let visitor = Visitor::new(Arc::clone(&self.hub));
                let accepted = tokio::select! {
                    accepted = Box::pin(accept_tls(*tls, peer, &visitor, &self.settings, &self.hub.tasks)) => accepted,
                    () = newcomer.dropped() => return self.hub.figures.handshake_failed("early_drop"),
                };
                drop((newcomer, slot));
                self.hub
                    .receive(accepted.map(|(tunnel, _hello)| tunnel), visitor);
            }
            Established::Data { io } => self.data(io, newcomer).await,
            Established::Passthrough { sni, io, client } => {
                drop((newcomer, slot));
                self.pass(&sni, io, &client);
            }
            Established::Front { tls, client } => {
                drop((newcomer, slot));
                self.front(open, tls, client);
            }
        }
    }

    fn front(&self, open: Arc<Open>, tls: Box<TlsStream<Rewound<TcpStream>>>, client: ClientInfo) {
        let Some(slot) = self.place_for(&client) else {
            return;
        };
        self.hub.figures.connection("front");
        self.tasks.spawn(Span::current(), async move {
            let _slot = slot;
            open.front.serve(tls, client).await;
        });
    }

    /// What says that it is a data connection has its time to prove that, in the place of a handshake.
    async fn data(&self, io: Rewound<TcpStream>, newcomer: Newcomer) {
        let receiving = Box::pin(self.hub.promotions.receive(io));
        let failed = tokio::select! {
            received = timeout(self.settings.hello_within, receiving) => {
                received.err().map(|_elapsed| "data")
            }
            () = newcomer.dropped() => Some("early_drop"),
        };
        if let Some(cause) = failed {
            self.hub.figures.handshake_failed(cause);
        }
    }

    /// TLS that nobody opens here.
    fn pass(&self, sni: &str, mut io: Rewound<TcpStream>, client: &ClientInfo) {
        let Some(slot) = self.place_for(client) else {
            return;
        };
        let config = self.hub.config();
        let Some(entry) = config.passthrough.iter().find(|entry| entry.sni == sni) else {
            return debug!(sni, "the name was taken out of the configuration meanwhile");
        };
        let (hub, to) = (Arc::clone(&self.hub), entry.to.clone());
        self.hub.figures.connection("passthrough");
        let caller = Caller {
            kind: Kind::Tls,
            address: client.address,
            local: client.local,
            host: sni.to_owned(),
            port: None,
            id: self.hub.request_id(),
        };
        self.tasks.spawn(Span::current(), async move {
            carry(&hub, &to, &caller, &mut io).await;
            drop((io, slot));
        });
    }

    fn place_for(&self, client: &ClientInfo) -> Option<sallyport_ops::Slot> {
        match self.clients.take(client.address.ip()) {
            Ok(slot) => Some(slot),
            Err(full) => {
                debug!(cause = %full, "client refused");
                self.hub.figures.handshake_failed("full");
                None
            }
        }
    }
}

impl Hub {
    /// Takes a tunnel that came up, or counts that none did.
    pub fn receive(self: &Arc<Self>, accepted: Result<Tunnel, AcceptError>, visitor: Visitor) {
        let tunnel = match accepted {
            Ok(tunnel) => tunnel,
            // The gatekeeper has counted and logged it.
            Err(AcceptError::Refused(_) | AcceptError::DryRun) => return,
            Err(error) => {
                debug!(%error, "no tunnel");
                return self.figures.handshake_failed("tunnel");
            }
        };
        match visitor.into_arrival() {
            Some(arrival) => {
                self.figures.connection("tunnel");
                self.attend(&tunnel, arrival);
            }
            None => warn!(parent: Span::current(), "a tunnel came up that was not let in"),
        }
    }
}

impl Open {
    fn new(hub: &Arc<Hub>, tls: &Tls, tasks: &Tasks) -> Result<Self, HostError> {
        let config = hub.config();
        let mut sites = Sites::new([own_name(&config)], config.sessions_domain.as_deref())?;
        for cluster in &config.clusters {
            let domain = cluster.sessions_domain.as_deref();
            sites = sites.with(cluster.name.clone(), [&cluster.host], domain)?;
        }
        let front = Front::new(
            Tunnels(Arc::clone(hub)),
            sites,
            Arc::new(config.limits.clone()),
            tasks.clone(),
        );
        Ok(Self {
            rules: rules(&config, tls),
            front,
        })
    }
}

fn rules(config: &Config, tls: &Tls) -> Rules {
    let names: Vec<String> = config
        .passthrough
        .iter()
        .map(|entry| entry.sni.clone())
        .collect();
    let clusters = &config.clusters;
    let hosts = clusters.iter().map(|cluster| cluster.host.clone());
    let own: HashSet<String> = hosts.chain([own_name(config)]).collect();
    let domains = clusters.iter().map(|cluster| &cluster.sessions_domain);
    let domains = domains.chain([&config.sessions_domain]).flatten();
    let domains: Vec<_> = domains.map(|domain| format!(".{domain}")).collect();
    Rules {
        tunnel: Some(Arc::clone(&tls.tunnel)),
        data: config.promotion.most > 0,
        front: Some(Arc::clone(&tls.front)),
        passthrough: Arc::new(move |name| names.iter().any(|known| known == name)),
        answers: Arc::new(move |name| {
            own.contains(name) || domains.iter().any(|domain| name.ends_with(domain))
        }),
        answers_strangers: config.url.address().is_some(),
        trusted: config.trusted_proxies.clone(),
        proxy_header: if config.proxy_protocol {
            ProxyHeader::Required
        } else {
            ProxyHeader::Never
        },
        deadline: config.limits.establish,
        hello_bytes: config.limits.client_hello_bytes,
    }
}

fn own_name(config: &Config) -> String {
    config.url.host().to_string().to_ascii_lowercase()
}

const fn word(error: &EstablishError) -> &'static str {
    match error {
        EstablishError::TooSlow(_) => "too_slow",
        EstablishError::Gone { .. } => "gone",
        EstablishError::Proxy(_) => "proxy_header",
        EstablishError::Hello(_) => "garbage",
        EstablishError::UnknownName(_) => "unknown_name",
        EstablishError::Handshake(_) => "tls",
    }
}
