//! The other nodes of the cluster: tunnels that they dial to this one, and those that this one dials to them.
//!
//! Read it from the outside in: `keep` dials and `arrive` lets in, `tend` holds a tunnel that is up, and `standing` says
//! whether what the other end proved still holds. `own` says whose a name is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sallyport_link::proxy::ProxyRules;
use sallyport_link::{ClusterKeys, Dialer, Names, Settings, Tunnel};
use sallyport_ops::paced::PacedSources;
use sallyport_ops::{Penalties, Tasks, Watch};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval};
use tracing::{info_span, warn};

use crate::config::PeerConfig;
use crate::credentials::Credentials;
use crate::hop::Hop;
use crate::outfit::Outfit;
use arrive::Visitor;
use board::{Board, End};
use standing::Standing;
use tend::Tended;

pub(crate) mod arrive;
mod board;
mod keep;
mod own;
mod standing;
mod tend;

pub use own::{FORGET, NAMES, routes};

/// How often the keys' file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// By what other nodes are known.
#[derive(Debug)]
pub struct Trust {
    /// The keys of the cluster.
    pub credentials: Credentials,
    /// Whose a name is that the configuration names no id for.
    pub names: Arc<Names>,
    /// The nodes that the configuration names.
    pub named: Vec<PeerConfig>,
}

/// What all peer tunnels share.
#[derive(Debug)]
pub struct Peers {
    outfit: Arc<Outfit>,
    trust: Trust,
    dialer: Dialer,
    board: Board,
    penalties: Penalties,
    refusals: PacedSources,
    last: AtomicU64,
    /// Owner of what runs in tunnels: it drains.
    tasks: Tasks,
}

impl Peers {
    /// The nodes of a cluster; nothing is dialled yet. What runs in tunnels belongs to
    /// `tasks`, and the tunnels, of these settings, to `links`, which outlive it.
    #[must_use]
    pub fn new(
        outfit: Arc<Outfit>,
        trust: Trust,
        settings: Settings,
        (tasks, links): (Tasks, Tasks),
    ) -> Arc<Self> {
        let settings = Settings {
            accept: 0,
            ..settings
        };
        Arc::new(Self {
            dialer: Dialer::new(Arc::new(settings), ProxyRules::none(), links),
            outfit,
            trust,
            board: Board::default(),
            penalties: Penalties::new(),
            refusals: PacedSources::default(),
            last: AtomicU64::new(0),
            tasks,
        })
    }

    /// Follows the keys and keeps a tunnel to every configured node, in `tasks`.
    pub fn start(self: &Arc<Self>, tasks: &Tasks) {
        let following = Arc::clone(self).follow_keys();
        tasks.spawn(info_span!("cluster keys"), following);
        let keeping = Arc::clone(&self.trust.names).keep();
        tasks.spawn(info_span!("peer names"), keeping);
        let settling = Arc::clone(self).settle();
        tasks.spawn(info_span!("directory"), settling);
        for peer in &self.trust.named {
            let span = info_span!("peer", node = %peer.node);
            tasks.spawn(span, keep::keep(Arc::clone(self), peer.clone()));
        }
    }

    /// Takes a tunnel that another node brought up.
    pub(crate) fn receive(self: &Arc<Self>, tunnel: Tunnel, visitor: Visitor) {
        let Some(came) = visitor.into_came() else {
            return warn!("a peer tunnel came up that was not let in");
        };
        let standing = match Standing::new(came.admitted.clone(), self.credentials()) {
            Ok(standing) => standing,
            Err((code, _)) => return tunnel.close(code),
        };
        let (node, kid) = (came.admitted.node.clone(), came.kid);
        let row = self.board.up(&came.admitted, End::Answered, &tunnel, &kid);
        let span = info_span!("peer", %node, tunnel = tunnel.id());
        let tended = Tended {
            tunnel,
            node,
            end: End::Answered,
            kid,
            standing,
            row,
        };
        let tending = tend::tend(tended, Arc::clone(self), self.tasks.child());
        self.tasks.spawn(span, tending);
    }

    /// The keys of the cluster, and every change of them.
    #[must_use]
    pub fn keys(&self) -> watch::Receiver<Arc<ClusterKeys>> {
        self.credentials().changes()
    }

    /// The peer tunnels, for status.
    #[must_use]
    pub fn show(&self) -> Value {
        self.board.show()
    }

    const fn credentials(&self) -> &Credentials {
        &self.trust.credentials
    }

    fn hop(&self) -> &Hop {
        self.outfit.streams.hop()
    }

    /// A number that no tunnel of this node had before.
    fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    async fn follow_keys(self: Arc<Self>) {
        let mut watch = Watch::new(vec![self.credentials().path().to_owned()], LOOK_EVERY);
        loop {
            let peers = Arc::clone(&self);
            // A disk that hangs holds up a thread for blocking work only.
            let read = spawn_blocking(move || peers.credentials().reload()).await;
            if read.is_err() {
                warn!("the cluster keys could not be read");
            }
            watch.changed().await;
        }
    }

    /// Lets the names of lost nodes become free in time.
    async fn settle(self: Arc<Self>) {
        let mut ticks = interval(LOOK_EVERY);
        let mut before = Instant::now();
        loop {
            let now = ticks.tick().await;
            self.hop().directory().settle(now, before);
            before = now;
        }
    }
}
