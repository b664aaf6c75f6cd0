//! What the other nodes say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sallyport_cluster::{Bus, Distrust, Message, NotAKey, Prefix, Verifier};
use sallyport_link::ClusterKeys;
use sallyport_node::members::{Heard, Incarnation, Member, Members, SPEAK_EVERY};
use sallyport_ops::Tasks;
use sallyport_ops::paced::Paced;
use sallyport_placement::pending::{Counts, Pending};
use sallyport_wire::NodeName;
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep};
use tracing::{debug, error, info, info_span, warn};

use super::hearing::Hearing;
use super::{Here, Reach, SPREAD, Said, nodes, speaker_of};

/// How often it is looked who is gone.
const SWEEP_EVERY: Duration = Duration::from_millis(250);

/// How long it is shown that a node was not believed.
const DISTRUST_SHOWN: Duration = Duration::from_secs(60);

/// The other nodes, as one hears of them. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Observer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    own: Incarnation,
    nodes: Prefix,
    bus: Arc<dyn Bus>,
    keys: watch::Receiver<Arc<ClusterKeys>>,
    members: Mutex<Members>,
    changes: watch::Sender<u64>,
    reaches: watch::Sender<BTreeMap<NodeName, Reach>>,
    pending: Pending,
    refusals: Paced,
    /// Why a node was not believed last.
    distrusted: Mutex<Option<(String, Instant)>>,
}

/// Who spoke while one listened.
#[derive(Debug, Default)]
pub struct Survey {
    /// The nodes that are believed.
    pub others: Vec<Member>,
    /// Why one is not, if one spoke that is not.
    pub distrusted: Option<String>,
}

impl Observer {
    /// Hears for the process `own` of a node, and notes in `pending` what the others place. Nothing is heard yet.
    ///
    /// # Errors
    /// [`NotAKey`], which no name of a node can cause.
    pub fn new(
        own: Incarnation,
        bus: Arc<dyn Bus>,
        keys: watch::Receiver<Arc<ClusterKeys>>,
        pending: Pending,
    ) -> Result<Self, NotAKey> {
        Ok(Self(Arc::new(Shared {
            pending,
            nodes: nodes()?,
            members: Mutex::new(Members::new(own.clone())),
            own,
            bus,
            keys,
            changes: watch::Sender::new(0),
            reaches: watch::Sender::default(),
            refusals: Paced::new(1),
            distrusted: Mutex::default(),
        })))
    }

    /// Hears from now on what the others are.
    pub fn observe(&self, tasks: &Tasks) {
        let hearing = self.clone().keep_hearing();
        tasks.spawn(info_span!("observer"), hearing);
    }

    /// The other nodes, for who does not observe them: listens for as long as each may take to say what it is.
    pub async fn survey(&self, tasks: &Tasks) -> Survey {
        let shared = &self.0;
        let (bus, keys) = (Arc::clone(&shared.bus), shared.keys.clone());
        let Ok(looking) = Self::new(shared.own.clone(), bus, keys, Pending::default()) else {
            return Survey::default();
        };
        let tasks = tasks.child();
        // whoever asked may not wait for the answer
        let listening = tasks.stopping().drop_guard();
        looking.observe(&tasks);
        sleep(SPEAK_EVERY.saturating_add(SPREAD)).await;
        drop(listening);
        Survey {
            others: looking.others(),
            distrusted: looking.distrusted(),
        }
    }

    /// The other nodes, by name, as each said it last.
    #[must_use]
    pub fn others(&self) -> Vec<Member> {
        self.members().all().cloned().collect()
    }

    /// Whether the bus is away, so that what is known may be wrong by now.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.members().is_stale(Instant::now())
    }

    /// Why a node was not believed within the last minute, if one was not.
    #[must_use]
    pub fn distrusted(&self) -> Option<String> {
        let distrusted = self.distrust_of();
        let fresh = distrusted.as_ref();
        let fresh = fresh.filter(|(_, when)| when.elapsed() < DISTRUST_SHOWN);
        fresh.map(|(what, _)| what.clone())
    }

    /// Tells of every node that comes, goes, or is another process.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// How the sessions of the others are reached, and every change of it.
    #[must_use]
    pub fn reaches(&self) -> watch::Receiver<BTreeMap<NodeName, Reach>> {
        self.0.reaches.subscribe()
    }

    async fn keep_hearing(self) {
        let (bus, keys) = (self.0.bus.as_ref(), self.0.keys.clone());
        let complain = |cause: &str| self.complain(cause);
        let mut hearing = Hearing::begin(bus, &self.0.nodes, keys, complain).await;
        let mut sweeps = interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                message = hearing.next() => match message {
                    Some(message) => self.hear(hearing.verifier(), &message),
                    None => return,
                },
                _ = sweeps.tick() => self.sweep(),
            }
        }
    }

    fn hear(&self, verifier: &Verifier, message: &Message) {
        let Some((owner, id)) = speaker_of(&self.0.nodes, &message.topic) else {
            return;
        };
        let checked = verifier.verify(&message.topic, owner, &message.payload, SystemTime::now());
        let verified = match checked {
            Ok(verified) => verified,
            Err(distrust) => return self.distrust(owner, &distrust),
        };
        match serde_json::from_slice(&verified.payload) {
            Ok(Said::Here(here)) if here.server.server_id.as_str() == owner => {
                self.believe(*here, (id, verified.claim.version));
            }
            Ok(Said::Gone { generation }) => self.part(owner, id, generation),
            // of another version than ours, or about somebody else
            Ok(Said::Here(_)) | Err(_) => {
                debug!(node = owner, "what a node says is not understood");
            }
        }
    }

    fn distrust(&self, owner: &str, distrust: &Distrust) {
        let what = format!("node `{owner}` is not believed: {distrust}");
        self.complain(&what);
        *self.distrust_of() = Some((what, Instant::now()));
    }

    fn distrust_of(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        let distrusted = self.0.distrusted.lock();
        distrusted.unwrap_or_else(PoisonError::into_inner)
    }

    fn believe(&self, here: Here, (id, version): (&str, u64)) {
        let Here {
            server,
            reach,
            placing,
        } = here;
        let (node, generation) = (server.server_id.clone(), server.generation);
        let heard = self.members().hear(server, (id, version), Instant::now());
        match heard {
            Heard::New => info!(%node, generation, "a node is there"),
            Heard::Reborn => info!(%node, generation, "a node was started again"),
            Heard::Known => {}
            Heard::Old => return,
            Heard::Taken => {
                return debug!(%node, id, "another machine says that it is this node, which is there");
            }
            Heard::TooMany => {
                return self.complain("there are more nodes than a cluster may have");
            }
            Heard::Rival => {
                return self.complain(
                    "another process has the key of this node: no two may share a state directory",
                );
            }
        }
        if heard != Heard::Known {
            self.tell();
        }
        if node != self.0.own.node {
            self.0.pending.told(node.clone(), placing);
            self.0.reaches.send_if_modified(|reaches| {
                let news = reaches.get(&node) != Some(&reach);
                reaches.insert(node, reach);
                news
            });
        }
    }

    /// Nothing of these nodes is reached any more.
    fn lose(&self, nodes: &[NodeName]) {
        for node in nodes {
            self.0.pending.told(node.clone(), Counts::new());
        }
        self.0.reaches.send_if_modified(|reaches| {
            let before = reaches.len();
            reaches.retain(|node, _| !nodes.contains(node));
            reaches.len() != before
        });
        self.tell();
    }

    fn part(&self, node: &str, id: &str, generation: u64) {
        let Ok(node) = node.parse::<NodeName>() else {
            return;
        };
        if self.members().leave(&node, id, generation) {
            info!(%node, "a node has left");
            self.lose(&[node]);
        }
    }

    fn sweep(&self) {
        let gone = self.members().sweep(Instant::now());
        for node in &gone {
            warn!(%node, "a node is gone");
        }
        if !gone.is_empty() {
            self.lose(&gone);
        }
    }

    fn tell(&self) {
        self.0
            .changes
            .send_modify(|revision| *revision = revision.wrapping_add(1));
    }

    /// What goes wrong here does so every two seconds, or whenever somebody else likes.
    fn complain(&self, what: &str) {
        if let Some(held_back) = self.0.refusals.pass() {
            error!(held_back, "{what}");
        }
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        let members = self.0.members.lock();
        members.unwrap_or_else(PoisonError::into_inner)
    }
}
