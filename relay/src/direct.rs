//! The relay's own port, for the other nodes of its cluster: from an accepted socket to a peer tunnel. Whoever is none of
//! them learns nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use sallyport_certs::{
    CertError, Identity, Reloading, TEN_YEARS, self_signed, tunnel_server_config,
};
use sallyport_edge::establish::{Established, ProxyHeader, Rules, establish};
use sallyport_edge::newcomers::{Newcomer, Newcomers};
use sallyport_link::gate::accept_tls;
use sallyport_link::{AcceptError, Settings};
use sallyport_ops::listen::{self, ListenError};
use sallyport_ops::{Accepted, Slots, Tasks};
use sallyport_wire::PEER_ALPN;
use tracing::{debug, info, info_span};

use crate::config::Limits;
use crate::peers::Peers;
use crate::peers::arrive::Visitor;

/// The name in the port's certificate, which nobody looks at: nodes prove themselves inside.
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
}

/// What stands behind the port.
#[derive(Debug)]
struct Door {
    peers: Arc<Peers>,
    rules: Rules,
    newcomers: Newcomers,
    settings: Arc<Settings>,
    tasks: Tasks,
}

/// Opens the port; it is closed when `listeners` are stopped. What it lets in belongs to `tasks`.
///
/// # Errors
/// [`DirectError`].
pub fn open(
    address: SocketAddr,
    peers: Arc<Peers>,
    (limits, settings): (&Limits, Settings),
    tasks: Tasks,
    listeners: &Tasks,
) -> Result<(), DirectError> {
    let count = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
    let (most, per_source) = (
        count(limits.handshakes),
        count(limits.handshakes_per_source),
    );
    let door = Arc::new(Door {
        peers,
        rules: rules()?,
        newcomers: Newcomers::new(most, per_source, Vec::new()),
        settings: Arc::new(Settings {
            open: 0,
            accept: count(limits.streams_per_tunnel),
            ..settings
        }),
        tasks,
    });
    let listener = listen::bind_tcp(address)?;
    info!(%address, "other nodes of the cluster may come in");
    // One that was told to go keeps its socket for a moment.
    let sockets = Slots::new(
        most.saturating_mul(2),
        per_source.saturating_mul(2),
        Vec::new(),
    );
    let on = move |accepted: Accepted| {
        let newcomer = door.newcomers.enter(accepted.peer.ip());
        let span = info_span!("connection", peer = %accepted.peer);
        let receiving = Arc::clone(&door).receive(accepted, newcomer);
        door.tasks.spawn(span, receiving);
    };
    let serving = listen::accept_loop(listener, sockets, listeners.stopping(), on);
    listeners.spawn(info_span!("direct"), serving);
    Ok(())
}

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

impl Door {
    async fn receive(self: Arc<Self>, accepted: Accepted, newcomer: Newcomer) {
        let established = tokio::select! {
            established = Box::pin(establish(accepted, &self.rules)) => established,
            () = newcomer.dropped() => return debug!("dropped: too many handshakes in progress"),
        };
        let (tls, from, slot) = match established {
            Ok((Established::Relay { tls, peer }, slot)) => (tls, peer, slot),
            Ok((
                Established::Data { .. }
                | Established::Passthrough { .. }
                | Established::Front { .. },
                _,
            )) => return debug!("not a node of the cluster"),
            Err(error) => return debug!(%error, "not established"),
        };
        let visitor = Visitor::new(Arc::clone(&self.peers));
        let accepted = tokio::select! {
            accepted = Box::pin(accept_tls(*tls, from, &visitor, &self.settings, &self.tasks)) => accepted,
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
