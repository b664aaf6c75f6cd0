//! Sees to the tunnel to one other node: it is held for ever where the configuration says so, else it is dialled when a
//! stream wants it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use sallyport_link::token::Grant;
use sallyport_link::{
    Admitted, Backoff, BackoffSettings, ClusterKeys, DialError, Dialled, Introduce, Recognise,
    Tunnel,
};
use sallyport_wire::message::{Hello, Welcome};
use sallyport_wire::{BINDING_LEN, Code, NodeName, VERSIONS};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::Peers;
use super::board::End;
use super::known::Nodes;
use super::standing::{Fault, Standing};
use super::tend::{self, Tended};
use crate::config::PeerConfig;
use crate::credentials::Signing;
use crate::rotation::Keys as _;

/// How a tunnel ended.
enum Held {
    /// Nobody needed it.
    Rested,
    /// Otherwise.
    Lost,
}

/// Sees to the tunnel to one node for as long as the node is known.
pub(super) async fn keep(peers: Arc<Peers>, node: NodeName) {
    let mut keeper = Keeper {
        backoff: Backoff::new(BackoffSettings::default(), seed(&peers, &node)),
        keys: peers.credentials().changes(),
        known: peers.known.changes(),
        turn: 0,
        node,
        peers,
    };
    loop {
        keeper.known.mark_unchanged();
        let Some(peer) = keeper.peers.known.get(&keeper.node) else {
            let known = &keeper.peers.known;
            let is_gone = || known.get(&keeper.node).is_none();
            if keeper.peers.hop().end(&keeper.node, is_gone) {
                keeper.peers.board.left(&keeper.node);
                return debug!("the node is not known any more");
            }
            continue;
        };
        if keeper.is_wanted(&peer).await {
            // What a dial needs, most nodes do not need now.
            Box::pin(keeper.dial(&peer)).await;
        }
    }
}

/// Every keeper waits in its own way.
fn seed(peers: &Peers, node: &NodeName) -> u64 {
    let mut hasher = DefaultHasher::new();
    (peers.outfit.seed, node).hash(&mut hasher);
    hasher.finish()
}

struct Keeper {
    peers: Arc<Peers>,
    node: NodeName,
    backoff: Backoff,
    keys: watch::Receiver<Arc<ClusterKeys>>,
    known: watch::Receiver<Nodes>,
    /// Which of the keys is shown next, counted from the newest.
    turn: usize,
}

impl Keeper {
    /// Waits until there is to be a tunnel. False if something else is known of the nodes by then.
    async fn is_wanted(&mut self, peer: &PeerConfig) -> bool {
        let hop = self.peers.hop();
        if peer.keep {
            return true;
        }
        hop.rests(&self.node);
        if !hop.directory().knows(&self.node) {
            return true;
        }
        tokio::select! {
            () = hop.wanted(&self.node) => true,
            Ok(()) = self.known.changed() => false,
        }
    }

    /// Tries once, and holds the tunnel for as long as it lasts. Then it waits until the next try may begin.
    async fn dial(&mut self, peer: &PeerConfig) {
        self.keys.mark_unchanged();
        let peers = Arc::clone(&self.peers);
        let greeting = Greeting::new(&peers, self.turn);
        let mut since = Instant::now();
        match any_address(&peers, peer, &greeting).await {
            Ok(dialled) => {
                self.backoff.up(since);
                self.turn = 0;
                let held = Box::pin(hold(&peers, peer, dialled, greeting.proven())).await;
                if matches!(held, Held::Rested) {
                    return;
                }
                since = Instant::now();
                self.backoff.lost(since);
            }
            Err(error) => {
                peers.hop().away(&self.node);
                self.failed(&error, since);
                complain(&peers, peer, &error);
            }
        }
        let at = self.backoff.next(since);
        let node = &self.node;
        tokio::select! {
            () = sleep_until(at) => {}
            Ok(()) = self.keys.changed() => self.turn = 0,
            // what is said of other nodes is no reason to try this one again
            Ok(_other) = self.known.wait_for(|known| known.get(node).map(Arc::as_ref) != Some(peer)) => {}
        }
    }

    /// Another key is shown next to who does not know this one, and who said when to come back is obeyed.
    fn failed(&mut self, error: &DialError, since: Instant) {
        let Some((code, wait)) = error.refused() else {
            return;
        };
        self.turn = if code == Code::Unauthorised {
            self.turn.wrapping_add(1)
        } else {
            0
        };
        if let Some(wait) = wait {
            self.backoff.retry_after(since, wait);
        }
    }
}

/// Dials one address after the other, until a node answers at one.
async fn any_address(
    peers: &Peers,
    peer: &PeerConfig,
    greeting: &Greeting<'_>,
) -> Result<Dialled, DialError> {
    let mut tried = peers
        .dialer
        .dial_peer(&peer.node, &peer.address, greeting)
        .await;
    for address in &peer.others {
        let Err(error) = &tried else {
            break;
        };
        debug!(cause = %error, next = %address, "not at this address");
        tried = peers.dialer.dial_peer(&peer.node, address, greeting).await;
    }
    tried
}

/// Tends a tunnel that came up, until it ends.
async fn hold(
    peers: &Arc<Peers>,
    peer: &PeerConfig,
    dialled: Dialled,
    proven: Option<(Admitted, String)>,
) -> Held {
    let tunnel = dialled.tunnel;
    let (tended, remote) = match tended(peers, peer, &tunnel, proven).await {
        Ok(tended) => (tended, tunnel.remote()),
        Err((code, cause)) => {
            warn!(node = %peer.node, cause, "no tunnel to another node of the cluster");
            peers.hop().away(&peer.node);
            tunnel.close(code);
            return Held::Lost;
        }
    };
    info!(node = %peer.node, address = %remote, key = %tended.kid, "peer tunnel up");
    if tend::tend(tended, Arc::clone(peers), peers.tasks.child()).await {
        Held::Rested
    } else {
        Held::Lost
    }
}

async fn tended(
    peers: &Peers,
    peer: &PeerConfig,
    tunnel: &Tunnel,
    proven: Option<(Admitted, String)>,
) -> Result<Tended, Fault> {
    let nobody = || (Code::Internal, "nobody has proven anything".to_owned());
    let (admitted, kid) = proven.ok_or_else(nobody)?;
    let standing = Standing::new(admitted.clone(), peers.credentials())?;
    peers.save_name(&peer.node).await?;
    let row = peers.board.up(&admitted, End::Dialled, tunnel, &kid);
    Ok(Tended {
        tunnel: tunnel.clone(),
        node: peer.node.clone(),
        end: End::Dialled,
        kid,
        standing,
        row,
    })
}

/// At once when the cause is new, else only to who asks for details.
fn complain(peers: &Peers, peer: &PeerConfig, error: &DialError) {
    let cause = error.to_string();
    if peers.board.failed(&peer.node, &cause) {
        warn!(node = %peer.node, address = %peer.address, cause, "no tunnel to another node of the cluster");
    } else {
        debug!(node = %peer.node, cause, "still no tunnel");
    }
}

/// Says hello to another node, and checks who answers.
#[derive(Debug)]
struct Greeting<'p> {
    peers: &'p Peers,
    keys: Signing,
    turn: usize,
    used: Mutex<String>,
    answered: Mutex<Option<Admitted>>,
}

impl<'p> Greeting<'p> {
    /// With the key whose turn it is, counted from the newest.
    fn new(peers: &'p Peers, turn: usize) -> Self {
        Self {
            peers,
            keys: peers.credentials().signing(),
            turn,
            used: Mutex::default(),
            answered: Mutex::default(),
        }
    }

    /// Who answered, and the id of the key that this node used.
    fn proven(self) -> Option<(Admitted, String)> {
        let answered = self.answered.into_inner();
        let used = self.used.into_inner();
        let admitted = answered.unwrap_or_else(PoisonError::into_inner)?;
        Some((admitted, used.unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Introduce for Greeting<'_> {
    fn hello(&self, audience: &str, binding: &[u8; BINDING_LEN]) -> Result<Hello, String> {
        let person = &self.peers.outfit.person;
        let key = self.keys.key(self.turn).ok_or_else(|| {
            let file = self.peers.credentials().path().display();
            format!("{file} has no key that may be used now: copy it from another node, or make one with `sallyport-relay cluster-key add`")
        })?;
        let grant = Grant {
            node: &person.node,
            audience,
            binding,
        };
        let proof = person.identity.prove(key, &grant, SystemTime::now());
        let proof = proof.map_err(|error| error.to_string())?;
        self.used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&key.kid);
        Ok(Hello {
            oldest: *VERSIONS.start(),
            newest: *VERSIONS.end(),
            node: person.node.to_string(),
            generation: person.generation,
            token: proof.token,
            node_key: Bytes::copy_from_slice(person.identity.public()),
            proof: proof.proof,
            site: person.site.clone(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            ..Hello::default()
        })
    }
}

impl Recognise for Greeting<'_> {
    fn recognise(
        &self,
        node: &NodeName,
        welcome: &Welcome,
        binding: &[u8; BINDING_LEN],
    ) -> Result<(), String> {
        let admission = self.peers.credentials().admission();
        let admitted = admission.check_welcome(node, welcome, binding, SystemTime::now());
        let admitted = admitted.map_err(|error| error.cause)?;
        self.peers.claim(&admitted).map_err(|(_, cause)| cause)?;
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(admitted);
        Ok(())
    }
}
