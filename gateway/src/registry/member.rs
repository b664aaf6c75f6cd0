//! One live tunnel of a node, as the registry and the choice see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use sallyport_link::Transport;
use sallyport_wire::{ClusterNode, Scope};
use tokio::sync::Notify;

use sallyport_link::NodeKey;

/// What the choice asks of a tunnel.
pub trait Line {
    /// Streams open on it now.
    fn streams(&self) -> usize;
    /// Most streams that it carries at once.
    fn capacity(&self) -> usize;
    /// Its round-trip time, once measured.
    fn rtt(&self) -> Option<Duration>;
    /// What carries it.
    fn transport(&self) -> Transport;
}

/// Who is behind a tunnel: what the relay proved when it came.
#[derive(Debug, Clone)]
pub struct Who {
    /// Its node and cluster.
    pub node: ClusterNode,
    /// Public key of the node.
    pub key: NodeKey,
    /// Key of gateway.json that it came with.
    pub kid: String,
    /// Rises with every start of the relay's process.
    pub generation: u64,
    /// Generation that this process replaces in an upgrade; 0 for none.
    pub successor_of: u64,
    /// Site of the node; empty for none.
    pub site: String,
    /// Version of the relay's program.
    pub software: String,
}

/// What a relay may do: it can change while its tunnel lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Key of gateway.json that it proved last.
    pub kid: String,
    /// What that key may serve.
    pub scope: Scope,
}

/// One live tunnel of a node.
#[derive(Debug)]
pub struct Member<T> {
    /// Number of the tunnel at this gateway.
    pub id: u64,
    /// Who is behind it.
    pub who: Who,
    /// The tunnel itself.
    pub tunnel: T,
    grant: ArcSwap<Grant>,
    up: AtomicBool,
    silent: AtomicBool,
    doubted: AtomicBool,
    used: Notify,
    doubt: Notify,
    silence: Arc<Notify>,
    draining: AtomicBool,
    replaced: AtomicBool,
    missed: AtomicU32,
    lagging: AtomicBool,
    busy: AtomicBool,
}

impl<T> Member<T> {
    /// A tunnel that no probe has crossed yet: it is not up.
    pub fn new(id: u64, who: Who, grant: Grant, tunnel: T) -> Self {
        Self {
            id,
            who,
            tunnel,
            grant: ArcSwap::from_pointee(grant),
            up: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            used: Notify::new(),
            doubt: Notify::new(),
            silence: Arc::default(),
            draining: AtomicBool::new(false),
            replaced: AtomicBool::new(false),
            missed: AtomicU32::new(0),
            lagging: AtomicBool::new(false),
            busy: AtomicBool::new(false),
        }
    }

    /// What it may do now.
    pub fn grant(&self) -> Arc<Grant> {
        self.grant.load_full()
    }

    /// What it may do from now on; what it offers is to be checked again.
    pub fn regrant(&self, grant: Grant) {
        self.grant.store(Arc::new(grant));
    }

    /// Whether probes cross it, it gives signs of life while one is under way, and nothing speaks against it.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
            && !self.silent.load(Ordering::Relaxed)
            && !self.is_doubted()
    }

    /// Whether the probe that decides about it is still under way: it has just come, or it is in doubt.
    pub fn is_undecided(&self) -> bool {
        self.is_doubted() || (!self.up.load(Ordering::Relaxed) && self.missed() == 0)
    }

    /// Whether something spoke for its process being gone, and no probe has crossed since.
    pub fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    /// Something speaks for its process being gone: a probe is to decide, at once.
    pub fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
        self.used.notify_one();
        self.doubt.notify_one();
    }

    /// Waits until it comes into doubt.
    pub async fn in_doubt(&self) {
        self.doubt.notified().await;
    }

    /// Told when it falls silent, to those who wait by then.
    pub const fn silence(&self) -> &Arc<Notify> {
        &self.silence
    }

    /// Asks for a probe before it is due: something relies on the tunnel.
    pub fn rely(&self) {
        self.used.notify_one();
    }

    /// Waits until something relies on the tunnel.
    pub async fn relied_on(&self) {
        self.used.notified().await;
    }

    /// There is no sign of life; says whether the tunnel was up until now.
    pub fn fall_silent(&self) -> bool {
        let was_silent = self.silent.swap(true, Ordering::Relaxed);
        self.doubted.store(false, Ordering::Relaxed);
        self.silence.notify_waiters();
        !was_silent && self.up.load(Ordering::Relaxed)
    }

    /// Whether its relay asked for nothing new on it.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether a newer process of the same node has taken over, so that this one only finishes.
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Probes missed in a row.
    pub fn missed(&self) -> u32 {
        self.missed.load(Ordering::Relaxed)
    }

    /// A probe came back; says whether the tunnel came up by it.
    pub fn probe_crossed(&self) -> bool {
        self.missed.store(0, Ordering::Relaxed);
        let was_silent = self.silent.swap(false, Ordering::Relaxed);
        let was_doubted = self.doubted.swap(false, Ordering::Relaxed);
        !self.up.swap(true, Ordering::Relaxed) || was_silent || was_doubted
    }

    /// A probe did not come back in time; after `limit` in a row the tunnel is not up. Returns the count.
    pub fn probe_missed(&self, limit: u32) -> u32 {
        let missed = self
            .missed
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if missed >= limit {
            self.up.store(false, Ordering::Relaxed);
        }
        missed
    }

    /// Nothing new goes on it from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether other tunnels of its node are clearly faster.
    pub fn is_lagging(&self) -> bool {
        self.lagging.load(Ordering::Relaxed)
    }

    /// Takes note of how it does beside the others.
    pub fn set_lagging(&self, lagging: bool) {
        self.lagging.store(lagging, Ordering::Relaxed);
    }

    /// Whether many bytes went through it lately.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Takes note of whether it is.
    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    /// A newer process of the node has come.
    pub fn replace(&self) {
        self.replaced.store(true, Ordering::Relaxed);
    }
}
