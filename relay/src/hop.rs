//! The LAN hop: streams for sessions of other nodes go there through a peer tunnel. Where there is none, a stream asks for
//! one and waits. One that came through a peer tunnel itself is never passed on, so no stream can go round in circles.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use sallyport_link::{Flow, OpenError, Tunnel, TunnelStream};
use sallyport_wire::message::Head;
use sallyport_wire::{Code, NodeName, Refusal, SessionId};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use crate::directory::Directory;

/// Another node has this time to take a stream: it may give its session a minute (`limits.connect`).
const ANSWER_WITHIN: Duration = Duration::from_secs(65);

/// A stream that asked for a tunnel waits for so long: resolving, connecting and both handshakes have less together.
const UP_WITHIN: Duration = Duration::from_secs(20);

/// For so long after its start, a relay that has not heard yet what a node has takes an unknown session for one of it.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// The ways to other nodes of the cluster.
#[derive(Debug)]
pub struct Hop {
    directory: Directory,
    ways: Mutex<BTreeMap<NodeName, Arc<Way>>>,
    since: Instant,
}

impl Default for Hop {
    fn default() -> Self {
        Self {
            directory: Directory::default(),
            ways: Mutex::default(),
            since: Instant::now(),
        }
    }
}

/// How to get to one node.
#[derive(Debug)]
struct Way {
    lead: watch::Sender<Lead>,
    wanted: Notify,
}

/// Where a way leads now.
#[derive(Debug)]
enum Lead {
    /// Nowhere, until a stream wants it.
    Rests,
    /// To the node.
    Up(Tunnel),
    /// Nowhere: it was tried just now, or is being tried all the time.
    Away,
}

impl Way {
    /// The tunnel, asked for if there is none.
    async fn tunnel(&self) -> Option<Tunnel> {
        let mut lead = self.lead.subscribe();
        if matches!(*lead.borrow_and_update(), Lead::Rests) {
            self.wanted.notify_one();
        }
        let settled = lead.wait_for(|lead| !matches!(lead, Lead::Rests));
        match &*timeout(UP_WITHIN, settled).await.ok()?.ok()? {
            Lead::Up(tunnel) => Some(tunnel.clone()),
            Lead::Away | Lead::Rests => None,
        }
    }
}

impl Hop {
    /// Which sessions other nodes have.
    #[must_use]
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// A node becomes one that streams may go to: whoever calls this sees to its tunnel until [`Hop::end`]. False if
    /// somebody does already.
    pub fn begin(&self, node: &NodeName) -> bool {
        let mut ways = self.ways();
        let is_new = !ways.contains_key(node);
        if is_new {
            let lead = watch::Sender::new(Lead::Rests);
            let wanted = Notify::new();
            ways.insert(node.clone(), Arc::new(Way { lead, wanted }));
        }
        is_new
    }

    /// No stream goes to a node any more, if `still` holds now that nobody else can begin; its sessions are down.
    pub fn end(&self, node: &NodeName, still: impl FnOnce() -> bool) -> bool {
        let mut ways = self.ways();
        if !still() {
            return false;
        }
        let gone = ways.remove(node);
        drop(ways);
        drop(gone); // outside the lock, since it may close the tunnel
        self.directory.lost(node, Instant::now());
        true
    }

    /// New streams to a node take this tunnel from now on.
    pub fn leads(&self, node: &NodeName, tunnel: Tunnel) {
        let Some(way) = self.way(node) else {
            return;
        };
        way.lead.send_replace(Lead::Up(tunnel));
        // Whoever asked for it has it now.
        let _asked = way.wanted.notified().now_or_never();
    }

    /// The next stream to a node asks for a tunnel.
    pub fn rests(&self, node: &NodeName) {
        self.turn(node, Lead::Rests);
    }

    /// There is no tunnel to a node, and none to wait for.
    pub fn away(&self, node: &NodeName) {
        self.turn(node, Lead::Away);
    }

    /// There is no tunnel to a node any more, and its sessions are down.
    pub fn lost(&self, node: &NodeName) {
        self.away(node);
        self.directory.lost(node, Instant::now());
    }

    /// Waits until a stream asks for a tunnel to a node.
    pub async fn wanted(&self, node: &NodeName) {
        match self.way(node) {
            Some(way) => way.wanted.notified().await,
            None => pending().await,
        }
    }

    /// The node that has a session, if another one has.
    #[must_use]
    pub fn locate(&self, session: &SessionId) -> Option<NodeName> {
        self.directory.locate(session, Instant::now())
    }

    /// Whether a session that nobody is known to have may be on a node that was not heard since the start.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        let unheard = |node: &NodeName| !self.directory.knows(node);
        self.since.elapsed() < SETTLED_AFTER && self.ways().keys().any(unheard)
    }

    /// Opens a stream on a node, with the head as it came: whoever has the session decides who is let in.
    ///
    /// # Errors
    /// That node's refusal, or [`Code::HomeLost`] if there is no way to it now.
    pub async fn open(&self, node: &NodeName, head: Head) -> Result<TunnelStream, Code> {
        take(&self.tunnel(node).await?, node, head).await
    }

    /// Opens a flow of datagrams on a node.
    ///
    /// # Errors
    /// As [`Hop::open`].
    pub async fn open_flow(&self, node: &NodeName, head: Head) -> Result<Flow, Code> {
        let tunnel = self.tunnel(node).await?;
        Ok(take(&tunnel, node, head).await?.into_flow(&tunnel))
    }

    async fn tunnel(&self, node: &NodeName) -> Result<Tunnel, Code> {
        let tunnel = match self.way(node) {
            Some(way) => way.tunnel().await,
            None => None,
        };
        tunnel.ok_or_else(|| {
            info!(%node, "no tunnel to the session's node");
            Code::HomeLost
        })
    }

    fn turn(&self, node: &NodeName, lead: Lead) {
        if let Some(way) = self.way(node) {
            way.lead.send_replace(lead);
        }
    }

    fn way(&self, node: &NodeName) -> Option<Arc<Way>> {
        self.ways().get(node).cloned()
    }

    fn ways(&self) -> MutexGuard<'_, BTreeMap<NodeName, Arc<Way>>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a stream and waits until the other side has taken it.
async fn take(tunnel: &Tunnel, node: &NodeName, head: Head) -> Result<TunnelStream, Code> {
    debug!(%node, "going on to the session's node");
    let opened = tunnel.open(head).await;
    let mut stream = opened.map_err(|error| not_opened(node, &error))?;
    // What refuses it there shall refuse it here, too. The head leaves with this; payload waits for one round trip of
    // the LAN.
    match timeout(ANSWER_WITHIN, stream.answered()).await {
        Ok(Ok(())) => Ok(stream),
        Ok(Err(error)) => Err(Refusal::in_chain(&error).map_or(Code::HomeLost, |told| told.0)),
        Err(_elapsed) => Err(Code::TooSlow),
    }
}

fn not_opened(node: &NodeName, error: &OpenError) -> Code {
    info!(%node, cause = %error, "no stream to the session's node");
    match error {
        OpenError::Full(_) | OpenError::Head(_) => error.code(),
        OpenError::Closed(_) => Code::HomeLost,
    }
}
