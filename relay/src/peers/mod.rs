//! The other nodes of the cluster: tunnels that they dial to this one, and those that this one dials to them.
//!
//! Read it from the outside in: `known` says which nodes there are, `keep` dials and `arrive` lets in, `tend` holds a tunnel that is up, and `standing` says
//! whether what the other end proved still holds. `own` says whose a name is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sallyport_link::proxy::ProxyRules;
use sallyport_link::{ClusterKeys, Dialer, Names, PeerAddress, Settings, Tunnel};
use sallyport_ops::paced::PacedSources;
use sallyport_ops::{Tasks, Watch};
use sallyport_wire::NodeName;
use sallyport_wire::message::Store;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval};
use tracing::{info_span, warn};

use crate::config::PeerConfig;
use crate::credentials::Credentials;
use crate::hop::Hop;
use crate::outfit::Outfit;
use arrive::Visitor;
use board::{Board, End};
use known::Known;
use standing::Standing;
use stores::Stores;
use tend::Tended;

pub(crate) mod arrive;
mod board;
mod keep;
mod known;
mod own;
mod standing;
mod stores;
mod tend;

pub use own::{FORGET, Forget, NAMES, routes};

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

/// A node that the cluster tells of, and where it may be found.
pub type Found = (NodeName, Vec<PeerAddress>);

/// What all peer tunnels share.
#[derive(Debug)]
pub struct Peers {
    outfit: Arc<Outfit>,
    credentials: Credentials,
    names: Arc<Names>,
    known: Known,
    dialer: Dialer,
    board: Board,
    stores: Stores,
    refusals: PacedSources,
    last: AtomicU64,
    /// Of tunnels that other nodes hold.
    places: Arc<Semaphore>,
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
            places: Arc::new(Semaphore::new(count(outfit.limits.peer_tunnels))),
            dialer: Dialer::new(Arc::new(settings), ProxyRules::none(), links),
            outfit,
            credentials: trust.credentials,
            names: trust.names,
            known: Known::new(trust.named),
            board: Board::default(),
            stores: Stores::default(),
            refusals: PacedSources::default(),
            last: AtomicU64::new(0),
            tasks,
        })
    }

    /// Follows the keys and sees to the tunnels to all nodes that are known, in `tasks`.
    pub fn start(self: &Arc<Self>, tasks: &Tasks) {
        let following = Arc::clone(self).follow_keys();
        tasks.spawn(info_span!("cluster keys"), following);
        let keeping = Arc::clone(&self.names).keep();
        tasks.spawn(info_span!("peer names"), keeping);
        let settling = Arc::clone(self).settle();
        tasks.spawn(info_span!("directory"), settling);
        let following = Arc::clone(self).follow_known(tasks.clone());
        tasks.spawn(info_span!("peers"), following);
    }

    /// The nodes that the cluster tells of, in place of those that it told of before. They are dialled when a stream
    /// wants them, or nobody has told the directory what they have. What the configuration says of a node goes before.
    /// One that is not among them any more gets no new streams.
    pub fn know(&self, found: Vec<Found>) {
        self.known.tell(found);
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
        let (node, kid, place) = (came.admitted.node.clone(), came.kid, came.place);
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
        let tending = tend::serve(tended, Arc::clone(self), self.tasks.child());
        self.tasks.spawn(span, async move {
            tending.await;
            drop(place);
        });
    }

    /// The keys of the cluster, and every change of them.
    #[must_use]
    pub fn keys(&self) -> watch::Receiver<Arc<ClusterKeys>> {
        self.credentials().changes()
    }

    /// The store that this node has from now on; those who meet it are told.
    pub fn has_store(&self, store: Store) {
        self.stores.has(store);
    }

    /// Which store this node has, and which others the nodes have that it meets, for status.
    #[must_use]
    pub fn show_stores(&self) -> Value {
        self.stores.show()
    }

    /// The peer tunnels, for status.
    #[must_use]
    pub fn show(&self) -> Value {
        self.board.show()
    }

    const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    fn hop(&self) -> &Hop {
        self.outfit.streams.hop()
    }

    /// A number that no tunnel of this node had before.
    fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Each node that is known has a keeper.
    async fn follow_known(self: Arc<Self>, tasks: Tasks) {
        let mut changes = self.known.changes();
        loop {
            let nodes: Vec<NodeName> = changes.borrow_and_update().keys().cloned().collect();
            for node in nodes {
                if self.hop().begin(&node) {
                    let span = info_span!("peer", %node);
                    tasks.spawn(span, keep::keep(Arc::clone(&self), node));
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
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

    /// Lets the names of lost nodes become free in time, and forgets what they told of themselves.
    async fn settle(self: Arc<Self>) {
        let mut ticks = interval(LOOK_EVERY);
        let mut before = Instant::now();
        loop {
            let now = ticks.tick().await;
            self.hop().directory().settle(now, before);
            self.stores.settle(&self.board.nodes(), now);
            before = now;
        }
    }
}

fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}
