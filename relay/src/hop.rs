//! The LAN hop: streams for sessions of other nodes go there through a peer tunnel. One that came through a peer tunnel
//! itself is never passed on, so no stream can go round in circles.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sallyport_link::{Flow, OpenError, Tunnel, TunnelStream};
use sallyport_wire::message::Head;
use sallyport_wire::{Code, NodeName, Refusal, SessionId};
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use crate::directory::Directory;

/// Another node has this time to take a stream: it may give its session a minute (`limits.connect`).
const ANSWER_WITHIN: Duration = Duration::from_secs(65);

/// The ways to other nodes of the cluster.
#[derive(Debug, Default)]
pub struct Hop {
    directory: Directory,
    tunnels: Mutex<BTreeMap<NodeName, Tunnel>>,
}

impl Hop {
    /// Which sessions other nodes have.
    #[must_use]
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// New streams to a node take this tunnel from now on.
    pub fn leads(&self, node: &NodeName, tunnel: Tunnel) {
        self.tunnels().insert(node.clone(), tunnel);
    }

    /// There is no tunnel to a node any more, and its sessions are down.
    pub fn lost(&self, node: &NodeName) {
        let gone = self.tunnels().remove(node);
        drop(gone); // outside the lock, since it may close the tunnel
        self.directory.lost(node, Instant::now());
    }

    /// The node that has a session, if another one has.
    #[must_use]
    pub fn locate(&self, session: &SessionId) -> Option<NodeName> {
        self.directory.locate(session, Instant::now())
    }

    /// Opens a stream on a node, with the head as it came: whoever has the session decides who is let in.
    ///
    /// # Errors
    /// That node's refusal, or [`Code::HomeLost`] if there is no way to it now.
    pub async fn open(&self, node: &NodeName, head: Head) -> Result<TunnelStream, Code> {
        take(&self.tunnel(node)?, node, head).await
    }

    /// Opens a flow of datagrams on a node.
    ///
    /// # Errors
    /// As [`Hop::open`].
    pub async fn open_flow(&self, node: &NodeName, head: Head) -> Result<Flow, Code> {
        let tunnel = self.tunnel(node)?;
        Ok(take(&tunnel, node, head).await?.into_flow(&tunnel))
    }

    fn tunnel(&self, node: &NodeName) -> Result<Tunnel, Code> {
        let tunnel = self.tunnels().get(node).cloned();
        tunnel.ok_or_else(|| {
            info!(%node, "no tunnel to the session's node");
            Code::HomeLost
        })
    }

    fn tunnels(&self) -> MutexGuard<'_, BTreeMap<NodeName, Tunnel>> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
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
