//! What the parts of a running gateway share.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use sallyport_link::admission::Admission;
use sallyport_link::keyring::{Changes, KeyRing};
use sallyport_link::{Names, Transport, Tunnel};
use sallyport_ops::paced::PacedSources;
use sallyport_ops::{Penalties, Slots, Tasks};
use sallyport_splice::Ledger;
use sallyport_wire::message::{DATA, DRY_RUN};
use sallyport_wire::{ClusterName, ClusterNode, NodeName, PoolName};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use crate::config::Config;
use crate::figures::Figures;
use crate::files::{self, FilesError};
use crate::promote::Promotions;
use crate::registry::{Bounds, Line, Member, Registry};
use crate::regulars::Regulars;
use crate::turns::Turns;
use crate::waiting::Waiting;

/// What a gateway begins with.
#[derive(Debug)]
pub struct Parts {
    /// Its configuration.
    pub config: Config,
    /// The keys that relays authenticate with.
    pub keys: KeyRing,
    /// Names and the node keys that they belong to.
    pub names: Arc<Names<ClusterNode>>,
    /// What it counts.
    pub figures: Figures,
    /// Owner of the tasks that attend tunnels.
    pub tasks: Tasks,
    /// Tunnels that the process can hold.
    pub tunnels: usize,
    /// Data connections that it can hold.
    pub data: usize,
}

/// What the parts of a running gateway share.
#[derive(Debug)]
pub struct Hub {
    /// Names and the node keys that they belong to.
    pub names: Arc<Names<ClusterNode>>,
    /// The keys that relays authenticate with.
    pub keys: KeyRing,
    /// Checks what relays prove.
    pub admission: Admission,
    /// Sources that failed to authenticate.
    pub penalties: Penalties,
    /// Log lines about refused relays, so many for each source.
    pub refusals: PacedSources,
    /// Streams that are open now, with their bytes.
    pub ledger: Ledger,
    /// What it counts.
    pub figures: Figures,
    /// Data connections beside the tunnels.
    pub promotions: Arc<Promotions>,
    /// Owner of the tasks that attend tunnels.
    pub tasks: Tasks,
    /// When each node may change what it offers again.
    pub turns: Turns,
    /// Requests that came before their relay did.
    pub waiting: Waiting,
    /// The members of pools that clients had before.
    pub regulars: Regulars,
    /// When it started.
    pub started: Instant,
    /// Streams of each client, whatever connections they came over.
    pub streams: Slots,
    config: ArcSwap<Config>,
    registry: RwLock<Registry<Tunnel>>,
    missing: Mutex<Missing>,
    reading: Mutex<()>,
    draining: watch::Sender<bool>,
    next: AtomicU64,
    run: u32,
}

/// Nodes that were known when the gateway started and have not come back.
type Missing = HashMap<ClusterName, HashSet<NodeName>>;

/// The features of a gateway with room for so many data connections.
fn features(data: usize) -> Vec<String> {
    let data = (data > 0).then_some(DATA);
    [DRY_RUN]
        .into_iter()
        .chain(data)
        .map(str::to_owned)
        .collect()
}

fn by_cluster(nodes: impl Iterator<Item = ClusterNode>) -> Missing {
    let mut missing = Missing::new();
    for ClusterNode { cluster, name } in nodes {
        missing.entry(cluster).or_default().insert(name);
    }
    missing
}

impl Line for Tunnel {
    fn streams(&self) -> usize {
        Self::streams(self)
    }

    /// One less than the tunnel carries, so that a probe always finds room.
    fn capacity(&self) -> usize {
        Self::capacity(self).saturating_sub(1)
    }

    fn rtt(&self) -> Option<Duration> {
        Self::rtt(self)
    }

    fn transport(&self) -> Transport {
        Self::transport(self)
    }
}

impl Hub {
    /// A gateway that nobody is connected to.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            config,
            keys,
            names,
            figures,
            tasks,
            tunnels,
            data,
        } = parts;
        let limits = &config.tunnels;
        let tunnels = limits.most.min(tunnels);
        let registry = Registry::new(Bounds {
            tunnels,
            tunnels_per_key: limits.share_of_key(tunnels),
            tunnels_per_node: limits.per_node,
            offers_per_tunnel: limits.sessions,
            lost: limits.lost_homes,
            lost_for: limits.lost_for,
            home_grace: limits.home_grace,
        });
        Arc::new(Self {
            missing: Mutex::new(by_cluster(names.all().into_keys())),
            reading: Mutex::new(()),
            admission: Admission::new(keys.clone(), vec![config.url.audience()])
                .with_features(features(data))
                .with_memory(config.tunnels.tokens),
            penalties: Penalties::new(),
            promotions: Promotions::new(config.promotion.clone(), data, figures.clone()),
            refusals: PacedSources::default(),
            ledger: Ledger::new(),
            turns: Turns::default(),
            waiting: Waiting::default(),
            regulars: Regulars::default(),
            started: Instant::now(),
            streams: Slots::new(
                usize::MAX,
                config.tunnels.streams_per_source,
                config.trusted_proxies.clone(),
            ),
            config: ArcSwap::from_pointee(config),
            registry: RwLock::new(registry),
            draining: watch::Sender::new(false),
            next: AtomicU64::new(1),
            run: u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or(0),
            names,
            keys,
            figures,
            tasks,
        })
    }

    /// The configuration in force.
    pub fn config(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    /// Puts another configuration in force for what comes from now on.
    pub fn configure(&self, config: Config) {
        self.config.store(Arc::new(config));
    }

    /// Takes the keys as their file has them now. It reads from a disk, which may hang.
    ///
    /// # Errors
    /// [`FilesError`]; the keys that were there before stay in force.
    pub fn take_keys(&self) -> Result<(), FilesError> {
        // Of two at once, the one that read first must not be last: it would bring a revoked key back.
        let _one = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = self.keys.reload(&files::keys(&self.config())?.keys);
        if changes != Changes::default() {
            let (added, removed, altered) = (changes.added, changes.removed, changes.altered);
            info!(?added, ?removed, ?altered, "keys taken");
        }
        Ok(())
    }

    /// As [`Self::take_keys`], off the threads that carry bytes.
    ///
    /// # Errors
    /// [`FilesError`] as there.
    pub async fn look_for_keys(self: &Arc<Self>) -> Result<(), FilesError> {
        let hub = Arc::clone(self);
        let taken = tokio::task::spawn_blocking(move || hub.take_keys()).await;
        taken.unwrap_or(Ok(())) // a process that ends needs no keys
    }

    /// Who is connected.
    pub fn registry(&self) -> RwLockReadGuard<'_, Registry<Tunnel>> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes who is connected, and counts it.
    pub fn change<R>(&self, change: impl FnOnce(&mut Registry<Tunnel>) -> R) -> R {
        let mut registry = self.writable();
        let result = change(&mut registry);
        let counts = registry.counts();
        let (nodes, tunnels) = (counts.nodes, counts.tunnels);
        self.figures
            .connected(nodes, tunnels, counts.sessions, counts.lost);
        result
    }

    /// Wakes those who wait for what a tunnel offers.
    pub fn announce(&self, member: &Member<Tunnel>) {
        let (cluster, tunnel) = (&member.who.node.cluster, member.id);
        let registry = self.registry();
        let offers = registry.cluster(cluster).map(|known| known.offers(tunnel));
        let names = offers.into_iter().flatten().flat_map(|offer| {
            let pool = offer.pool.as_ref().map(PoolName::as_str);
            [Some(offer.id.as_str()), pool].into_iter().flatten()
        });
        self.waiting.ring(cluster, names);
    }

    /// A number that no tunnel, stream or turn had before.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The id of a connection without requests, the same in every log line about it.
    pub fn request_id(&self) -> String {
        format!("{:08x}{:08x}", self.run, self.number())
    }

    /// A node has said what it serves, or will not come back.
    pub fn heard_of(&self, node: &ClusterNode) {
        let mut missing = self.missing();
        if let Some(nodes) = missing.get_mut(&node.cluster) {
            nodes.remove(&node.name);
            if nodes.is_empty() {
                missing.remove(&node.cluster);
            }
        }
    }

    /// Whether the gateway started so short a while ago that a node of the cluster may still be on its way.
    pub fn is_settling(&self, cluster: &ClusterName) -> bool {
        self.started.elapsed() < self.config().tunnels.settle
            && self.missing().contains_key(cluster)
    }

    /// Takes nothing new from now on.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Whether it drains.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Tells when it drains.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    fn writable(&self) -> RwLockWriteGuard<'_, Registry<Tunnel>> {
        self.registry
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self) -> MutexGuard<'_, Missing> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
