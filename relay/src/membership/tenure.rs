//! Whether this process may speak as its node. Of two machines under one name the one that was started first has it, and
//! goes on speaking; the other one is silent until it has not heard of the first for a while, so that nobody is hidden by
//! a mistake in a configuration, and nobody for ever by what was said once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sallyport_cluster::{Bus, Message, NotAKey, Prefix, Verifier};
use sallyport_link::ClusterKeys;
use sallyport_node::members::Incarnation;
use sallyport_ops::Tasks;
use sallyport_ops::paced::Paced;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{error, info_span, warn};

use super::hearing::Hearing;
use super::{Said, nodes, speaker_of};

/// A machine that was not heard for this long has lost the name: within it a relay is started again.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// How long it is shown that another machine was refused the name.
const SHOWN_FOR: Duration = Duration::from_secs(10 * 60);

/// Longest name of a machine that is shown, in characters.
const MAX_HOSTNAME: usize = 64;

/// The name of this node on the bus. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Tenure(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    own: Incarnation,
    nodes: Prefix,
    /// The topics of all machines under this name.
    of_name: Prefix,
    bus: Arc<dyn Bus>,
    keys: watch::Receiver<Arc<ClusterKeys>>,
    rival: Mutex<Option<Rival>>,
    challenged: Notify,
    lines: Paced,
}

/// Another machine that says it is this node.
#[derive(Debug, Clone)]
struct Rival {
    id: String,
    hostname: String,
    /// Whether it was there first, and so has the name.
    is_holder: bool,
    heard: Instant,
}

impl Tenure {
    /// Of the process `own`; nobody is heard yet.
    ///
    /// # Errors
    /// [`NotAKey`], which no name of a node can cause.
    pub fn new(
        own: Incarnation,
        bus: Arc<dyn Bus>,
        keys: watch::Receiver<Arc<ClusterKeys>>,
    ) -> Result<Self, NotAKey> {
        let nodes = nodes()?;
        Ok(Self(Arc::new(Shared {
            of_name: Prefix::below(nodes.key(own.node.as_str())?),
            nodes,
            own,
            bus,
            keys,
            rival: Mutex::default(),
            challenged: Notify::new(),
            lines: Paced::new(1),
        })))
    }

    /// Hears from now on who else says that he is this node.
    pub fn watch(&self, tasks: &Tasks) {
        let watching = self.clone().keep_watching();
        tasks.spawn(info_span!("tenure"), watching);
    }

    /// Whether another machine has the name. While that one is started again, which takes less than a minute, nobody takes
    /// its name.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.rival().as_ref().is_some_and(Rival::has_the_name)
    }

    /// Waits until somebody else has come under the name of this node, who is to hear at once that it is taken.
    pub(super) async fn challenged(&self) {
        self.0.challenged.notified().await;
    }

    /// The other machine, for status; null if there is none.
    #[must_use]
    pub fn show(&self) -> Value {
        let rival = self.rival().clone();
        let shown = |rival: &Rival| match rival.is_holder {
            true => rival.has_the_name(),
            false => rival.heard.elapsed() < SHOWN_FOR,
        };
        let Some(rival) = rival.filter(shown) else {
            return Value::Null;
        };
        json!({
            "id": rival.id,
            "hostname": rival.hostname,
            "refused": rival.is_holder,
            "cure": rival.cure(),
        })
    }

    async fn keep_watching(self) {
        let (bus, keys) = (self.0.bus.as_ref(), self.0.keys.clone());
        let complain = |cause: &str| self.complain(cause);
        let mut hearing = Hearing::begin(bus, &self.0.of_name, keys, complain).await;
        while let Some(message) = hearing.next().await {
            self.hear(hearing.verifier(), &message);
        }
    }

    fn hear(&self, verifier: &Verifier, message: &Message) {
        let own = &self.0.own;
        let id = match speaker_of(&self.0.nodes, &message.topic) {
            Some((node, id)) if node == own.node.as_str() && id != own.id => id.to_owned(),
            Some(_) | None => return,
        };
        let node = own.node.as_str();
        let verified = verifier.verify(&message.topic, node, &message.payload, SystemTime::now());
        let Ok(verified) = verified else {
            return; // those who observe say why
        };
        let Ok(Said::Here(here)) = serde_json::from_slice(&verified.payload) else {
            return;
        };
        if here.server.server_id != own.node {
            return;
        }
        let other = Incarnation {
            node: own.node.clone(),
            id: id.clone(),
            generation: here.server.generation,
        };
        let hostname = here.server.machine.hostname.chars();
        self.meet(Rival {
            id,
            hostname: hostname.take(MAX_HOSTNAME).collect(),
            is_holder: other.was_before(own),
            heard: Instant::now(),
        });
    }

    fn meet(&self, rival: Rival) {
        let mut known = self.rival();
        if let Some(holder) = known.as_mut().filter(|known| known.has_the_name()) {
            if rival.is_holder {
                *holder = rival;
            }
            return;
        }
        let (hostname, id, cure) = (&rival.hostname, &rival.id, rival.cure());
        if rival.is_holder {
            error!(
                hostname,
                id, cure, "another machine has the name of this node"
            );
        } else if let Some(held_back) = self.0.lines.pass() {
            warn!(
                hostname,
                id, cure, held_back, "another machine was refused the name of this node"
            );
            self.0.challenged.notify_one();
        }
        *known = Some(rival);
    }

    fn complain(&self, cause: &str) {
        if let Some(held_back) = self.0.lines.pass() {
            error!(
                cause,
                held_back, "it is not heard who else has the name of this node"
            );
        }
    }

    fn rival(&self) -> MutexGuard<'_, Option<Rival>> {
        self.0.rival.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rival {
    fn has_the_name(&self) -> bool {
        self.is_holder && self.heard.elapsed() < LOST_AFTER
    }

    /// What to do.
    const fn cure(&self) -> &'static str {
        if self.is_holder {
            "this relay tells the cluster nothing of itself: set another `node = \"...\"` in relay.toml here and start it \
             again, or stop the relay there, whose name this one has a minute later"
        } else {
            "set another `node = \"...\"` in relay.toml there, and start that relay again"
        }
    }
}
