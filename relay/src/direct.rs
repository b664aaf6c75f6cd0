//! The relay's own port: from an accepted socket to a peer tunnel, or to the front for clients where the configuration
//! lets them in. Whoever is neither learns nothing.

mod any_node;
mod own;
mod passes;
pub mod tickets;

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use rustls::ServerConfig;
use sallyport_certs::{
    CertError, Identity, Reloading, TEN_YEARS, self_signed, tunnel_server_config,
};
use sallyport_edge::establish::{Established, ProxyHeader, Rules, establish};
use sallyport_edge::host::HostError;
use sallyport_edge::newcomers::{Newcomer, Newcomers};
use sallyport_edge::{ClientInfo, Front, Sites};
use sallyport_link::gate::accept_tls;
use sallyport_link::{AcceptError, ClusterKeys, Settings};
use sallyport_ops::listen::{self, ListenError};
use sallyport_ops::paced::Paced;
use sallyport_ops::{Accepted, Slots, Tasks};
use sallyport_splice::Rewound;
use sallyport_wire::{NodeName, PEER_ALPN};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tracing::{Span, debug, info, info_span};

use crate::config::{DirectConfig, FrontConfig, Limits};
use crate::peers::Peers;
use crate::peers::arrive::Visitor;
use crate::streams::Streams;

use any_node::AnyNode;
use own::Own;
use passes::Passes;
use tickets::Tickets;

pub use own::{Origins, entrance, probe};

/// The name in the certificate for other nodes, which nobody looks at: nodes prove themselves inside.
const NAME: &str = "sallyport-peer";

/// Why the port is not open.
#[derive(Debug, thiserror::Error)]
pub enum DirectError {
    /// The address cannot be had.
    #[error("[direct] listen: {0}")]
    Listen(#[from] ListenError),
    /// There is no certificate for it.
    #[error("[direct]: {0}")]
    Tls(#[from] CertError),
    /// The front cannot answer to the URL.
    #[error("[direct] url: {0}")]
    Url(#[from] HostError),
}

/// What may come in at the port.
#[derive(Debug)]
pub struct Behind {
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// Owner of connections until it is known whose they are, and of what keeps tunnels going.
    pub links: Tasks,
    /// Clients; needed where the configuration lets them in.
    pub clients: Option<Clients>,
}

/// What clients meet.
pub struct Clients {
    /// The node that they come to.
    pub node: NodeName,
    /// Its process, which takes no tickets that were made for another one.
    pub generation: u64,
    /// Their TLS.
    pub tls: Arc<ServerConfig>,
    /// Where they get streams from.
    pub streams: Arc<Streams>,
    /// Owner of their connections: they end when it drains.
    pub tasks: Tasks,
    /// By which their tickets are checked.
    pub keys: watch::Receiver<Arc<ClusterKeys>>,
    /// Whose pages may find out that this node is reached.
    pub origins: Origins,
}

/// What stands behind the port.
#[derive(Debug)]
struct Door {
    peers: Arc<Peers>,
    rules: Rules,
    newcomers: Newcomers,
    settings: Arc<Settings>,
    links: Tasks,
    hall: Option<Hall>,
}

/// Where clients are.
#[derive(Debug)]
struct Hall {
    front: Arc<Front<AnyNode>>,
    places: Slots,
    tasks: Tasks,
}

/// Opens the port; it is closed when `listeners` are stopped, and clients are then asked to go.
///
/// # Errors
/// [`DirectError`].
pub fn open(
    config: &DirectConfig,
    behind: Behind,
    (limits, settings): (&Limits, Settings),
    listeners: &Tasks,
) -> Result<(), DirectError> {
    let (most, per_source) = (
        count(limits.handshakes),
        count(limits.handshakes_per_source),
    );
    let mut rules = rules()?;
    let hall = match (&config.front, behind.clients) {
        (Some(front), Some(clients)) => {
            let_in(&mut rules, front, &clients);
            Some(Hall::new(front, clients, limits)?)
        }
        (Some(_) | None, _) => None,
    };
    let proxies = || trusted(config);
    let door = Arc::new(Door {
        peers: behind.peers,
        rules,
        newcomers: Newcomers::new(most, per_source, proxies()),
        settings: Arc::new(Settings {
            open: 0,
            accept: count(limits.streams_per_tunnel),
            ..settings
        }),
        links: behind.links,
        hall,
    });
    let address = config.listen;
    let listener = listen::bind_tcp(address)?;
    info!(%address, clients = door.hall.is_some(), "other nodes of the cluster may come in");
    if let Some(hall) = &door.hall {
        listeners.spawn(Span::none(), end_with(listeners, Arc::clone(&hall.front)));
    }
    // One that was told to go keeps its socket for a moment.
    let sockets = Slots::new(
        most.saturating_mul(2),
        per_source.saturating_mul(2),
        proxies(),
    );
    let on = move |accepted: Accepted| {
        let newcomer = door.newcomers.enter(accepted.peer.ip());
        let span = info_span!("connection", peer = %accepted.peer);
        let receiving = Arc::clone(&door).receive(accepted, newcomer);
        door.links.spawn(span, receiving);
    };
    let serving = listen::accept_loop(listener, sockets, listeners.stopping(), on);
    listeners.spawn(info_span!("direct"), serving);
    Ok(())
}

fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn trusted(config: &DirectConfig) -> Vec<IpNet> {
    let front = config.front.as_ref();
    front.map_or_else(Vec::new, |front| front.trusted_proxies.clone())
}

/// Clients end after the answers that are under way.
fn end_with(
    listeners: &Tasks,
    front: Arc<Front<AnyNode>>,
) -> impl Future<Output = ()> + Send + use<> {
    let stopping = listeners.stopping();
    async move {
        stopping.cancelled().await;
        front.drain();
    }
}

/// For other nodes alone.
fn rules() -> Result<Rules, CertError> {
    let made = self_signed(&[NAME.to_owned()], TEN_YEARS)?;
    let identity = Identity::from_pem(made.cert_pem.as_bytes(), made.key_pem.as_bytes())?;
    let limits = sallyport_edge::Limits::default();
    Ok(Rules {
        tunnel: Some(tunnel_server_config(
            Reloading::new(identity),
            &[PEER_ALPN],
        )?),
        data: false,
        front: None,
        passthrough: Arc::new(|_name| false),
        answers: Arc::new(|_name| false),
        answers_strangers: false,
        trusted: Vec::new(),
        proxy_header: ProxyHeader::Never,
        deadline: limits.establish,
        hello_bytes: limits.client_hello_bytes,
    })
}

/// Other nodes come by themselves, also from where trusted proxies are.
fn let_in(rules: &mut Rules, config: &FrontConfig, clients: &Clients) {
    let own = own_name(config);
    rules.front = Some(Arc::clone(&clients.tls));
    rules.answers = Arc::new(move |name| name == own);
    rules.answers_strangers = config.url.address().is_some();
    rules.trusted.clone_from(&config.trusted_proxies);
    if config.proxy_protocol {
        rules.proxy_header = ProxyHeader::OfClients;
    }
}

fn own_name(config: &FrontConfig) -> String {
    config.url.host().to_string().to_ascii_lowercase()
}

impl Hall {
    fn new(config: &FrontConfig, clients: Clients, limits: &Limits) -> Result<Self, HostError> {
        let slots = |most, per_source| {
            let exempt = config.trusted_proxies.clone();
            Slots::new(count(most), count(per_source), exempt)
        };
        let most = count(limits.tickets);
        let own = Own {
            streams: Arc::clone(&clients.streams),
            origins: clients.origins,
            tickets: Tickets::new((clients.node, clients.generation), clients.keys, most),
            passes: Passes::new(most),
            refusals: Paced::new(1),
        };
        let opener = AnyNode {
            streams: clients.streams,
            places: slots(limits.client_streams, limits.client_streams_per_source),
            tasks: clients.tasks.clone(),
            own,
            sends_on: config.redirect.then(|| config.url.clone()),
        };
        let sites = Sites::new([own_name(config)], None)?;
        let http = Arc::new(sallyport_edge::Limits::default());
        Ok(Self {
            front: Front::new(opener, sites, http, clients.tasks.clone()),
            places: slots(limits.connections, limits.connections_per_source),
            tasks: clients.tasks,
        })
    }

    /// A client's connection is a task of its own, which holds nothing of the handshake.
    fn receive(&self, tls: Box<TlsStream<Rewound<TcpStream>>>, client: ClientInfo) {
        let place = match self.places.take(client.address.ip()) {
            Ok(place) => place,
            Err(full) => return debug!(cause = %full, "client refused"),
        };
        let front = Arc::clone(&self.front);
        self.tasks.spawn(Span::current(), async move {
            front.serve(tls, client).await;
            drop(place);
        });
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Door {
    async fn receive(self: Arc<Self>, accepted: Accepted, newcomer: Newcomer) {
        let established = tokio::select! {
            established = Box::pin(establish(accepted, &self.rules)) => established,
            () = newcomer.dropped() => return debug!("dropped: too many handshakes in progress"),
        };
        let (tls, from, slot) = match established {
            Ok((Established::Relay { tls, peer }, slot)) => (tls, peer, slot),
            Ok((Established::Front { tls, client }, _slot)) => {
                if let Some(hall) = &self.hall {
                    hall.receive(tls, client);
                }
                return;
            }
            Ok((Established::Data { .. } | Established::Passthrough { .. }, _)) => {
                return debug!("not a node of the cluster");
            }
            Err(error) => return debug!(%error, "not established"),
        };
        let visitor = Visitor::new(Arc::clone(&self.peers));
        let accepted = tokio::select! {
            accepted = Box::pin(accept_tls(*tls, from, &visitor, &self.settings, &self.links)) => accepted,
            () = newcomer.dropped() => return debug!("dropped: too many handshakes in progress"),
        };
        drop((newcomer, slot));
        match accepted {
            Ok((tunnel, _hello)) => self.peers.receive(tunnel, visitor),
            // The gatekeeper has logged it.
            Err(AcceptError::Refused(_) | AcceptError::DryRun) => {}
            Err(error) => debug!(%error, "no peer tunnel"),
        }
    }
}
