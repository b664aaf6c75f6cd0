//! Keeps a peer tunnel to one node of `[[peer]]` up: it is how this node learns what that one has.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use sallyport_link::token::Grant;
use sallyport_link::{
    Admitted, Backoff, BackoffSettings, DialError, Dialled, Introduce, Recognise,
};
use sallyport_wire::message::{Hello, Welcome};
use sallyport_wire::{BINDING_LEN, Code, NodeName, VERSIONS};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::Peers;
use super::board::End;
use super::standing::Standing;
use super::tend::{self, Tended};
use crate::config::PeerConfig;
use crate::credentials::Signing;
use crate::rotation::Keys as _;

/// Keeps a tunnel up for ever.
pub(super) async fn keep(peers: Arc<Peers>, peer: PeerConfig) {
    let mut backoff = Backoff::new(BackoffSettings::default(), seed(&peers, &peer.node));
    let mut keys = peers.credentials().changes();
    let mut turn = 0;
    loop {
        keys.mark_unchanged();
        let greeting = Greeting::new(&peers, turn);
        let dialled = peers
            .dialer
            .dial_peer(&peer.node, &peer.address, &greeting)
            .await;
        let mut since = Instant::now();
        match dialled {
            Ok(dialled) => {
                backoff.up(since);
                turn = 0;
                Box::pin(hold(&peers, &peer, dialled, greeting.proven())).await;
                since = Instant::now();
                backoff.lost(since);
            }
            Err(error) => {
                if let Some((code, wait)) = error.refused() {
                    turn = if code == Code::Unauthorised {
                        turn.wrapping_add(1)
                    } else {
                        0
                    };
                    wait.into_iter()
                        .for_each(|wait| backoff.retry_after(since, wait));
                }
                complain(&peers, &peer, &error);
            }
        }
        let at = backoff.next(since);
        tokio::select! {
            () = sleep_until(at) => {}
            Ok(()) = keys.changed() => turn = 0,
        }
    }
}

/// Every keeper waits in its own way.
fn seed(peers: &Peers, node: &NodeName) -> u64 {
    let mut hasher = DefaultHasher::new();
    (peers.outfit.seed, node).hash(&mut hasher);
    hasher.finish()
}

/// Tends a tunnel that came up, until it ends.
async fn hold(
    peers: &Arc<Peers>,
    peer: &PeerConfig,
    dialled: Dialled,
    proven: Option<(Admitted, String)>,
) {
    let tunnel = dialled.tunnel;
    let Some((admitted, kid)) = proven else {
        return tunnel.close(Code::Internal);
    };
    let standing = match Standing::new(admitted.clone(), peers.credentials()) {
        Ok(standing) => standing,
        Err((code, _)) => return tunnel.close(code),
    };
    if let Err((code, cause)) = peers.save_name(&peer.node).await {
        warn!(node = %peer.node, cause, "no tunnel to another node of the cluster");
        return tunnel.close(code);
    }
    info!(node = %peer.node, address = %peer.address, key = %kid, "peer tunnel up");
    let row = peers.board.up(&admitted, End::Dialled, &tunnel, &kid);
    let tended = Tended {
        tunnel,
        node: peer.node.clone(),
        end: End::Dialled,
        kid,
        standing,
        row,
    };
    tend::tend(tended, Arc::clone(peers), peers.tasks.child()).await;
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
