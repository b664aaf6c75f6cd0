//! What a node says of itself.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures::future::pending;
use futures::stream::{BoxStream, StreamExt as _};
use sallyport_cluster::{Bus, Claim, ClusterError, Key, NotAKey, Signer};
use sallyport_link::ClusterKeys;
use sallyport_node::members::{Incarnation, SPEAK_EVERY};
use sallyport_ops::Tasks;
use sallyport_ops::paced::Paced;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info_span};

use super::{GOOD_FOR, Here, SPREAD, Said, Tenure, nodes};
use crate::credentials::signing;

/// Several changes in a row are told together.
const SETTLE: Duration = Duration::from_millis(100);

/// What the last message may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// Says what this node is now.
pub type Describe = Arc<dyn Fn() -> Here + Send + Sync>;

/// Tells the other nodes what this one is. A clone is the same one.
#[derive(Clone)]
pub struct Speaker(Arc<Shared>);

struct Shared {
    own: Incarnation,
    tenure: Tenure,
    describe: Describe,
    topic: Key,
    bus: Arc<dyn Bus>,
    keys: watch::Receiver<Arc<ClusterKeys>>,
    said: AtomicU64,
    refusals: Paced,
}

impl Speaker {
    /// Speaks for the process `own` of a node, which `describe` describes. Nothing is said yet.
    ///
    /// # Errors
    /// [`NotAKey`], which no name of a node can cause.
    pub fn new(
        own: Incarnation,
        describe: Describe,
        bus: Arc<dyn Bus>,
        keys: watch::Receiver<Arc<ClusterKeys>>,
    ) -> Result<Self, NotAKey> {
        Ok(Self(Arc::new(Shared {
            topic: nodes()?.key(&format!("{}/{}", own.node, own.id))?,
            tenure: Tenure::new(own.clone(), Arc::clone(&bus), keys.clone())?,
            own,
            describe,
            bus,
            keys,
            said: AtomicU64::new(0),
            refusals: Paced::new(1),
        })))
    }

    /// Says every two seconds what the node is, and at once on each of `prompts`, for as long as the name is its own.
    pub fn speak(&self, prompts: BoxStream<'static, ()>, tasks: &Tasks) {
        self.0.tenure.watch(tasks);
        let speaking = self.clone().keep_speaking(prompts);
        tasks.spawn(info_span!("speaker"), speaking);
    }

    /// Whether the name is this node's own.
    #[must_use]
    pub fn tenure(&self) -> &Tenure {
        &self.0.tenure
    }

    /// Says that the process goes, so that nobody waits until it is missed.
    pub async fn leave(&self) {
        let generation = self.0.own.generation;
        let gone = Said::Gone { generation };
        // whoever does not hear it will miss this node soon
        drop(timeout(LEAVE_WITHIN, self.say(&gone)).await);
    }

    async fn keep_speaking(self, mut prompts: BoxStream<'static, ()>) {
        let mut keys = self.0.keys.clone();
        let mut was_heard = false;
        loop {
            // once in any case, so that whoever has the name hears of a rival
            if !self.0.tenure.is_refused() || !was_heard {
                was_heard |= self.say_here().await;
            }
            tokio::select! {
                () = sleep(pause()) => continue,
                () = self.0.tenure.challenged() => {}
                () = prompted(&mut prompts) => {}
                changed = keys.changed() => if changed.is_err() { return },
            }
            sleep(SETTLE).await;
        }
    }

    /// True if it went out.
    async fn say_here(&self) -> bool {
        let here = (self.0.describe)();
        let said = self.say(&Said::Here(Box::new(here))).await;
        match &said {
            Ok(()) => {}
            Err(error) if error.is_passing() => debug!(%error, "nobody hears this node now"),
            Err(error) => self.complain(&error.to_string()),
        }
        said.is_ok()
    }

    async fn say(&self, said: &Said) -> Result<(), ClusterError> {
        let shared = &self.0;
        let now = SystemTime::now();
        let claim = Claim {
            owner: shared.own.node.to_string(),
            version: self.next_version(),
            expires: now.checked_add(GOOD_FOR).unwrap_or(now),
        };
        // our own types always become JSON
        let payload = serde_json::to_vec(said).unwrap_or_default();
        let signer = Signer::new(signing(&shared.keys.borrow()));
        let Some(signed) = signer.sign(&shared.topic, &claim, &payload, now) else {
            self.complain("there is no cluster key, so no other node hears of this one: copy cluster-keys.json here");
            return Ok(());
        };
        shared.bus.publish(&shared.topic, signed).await
    }

    fn next_version(&self) -> u64 {
        let said = self.0.said.fetch_add(1, Ordering::Relaxed);
        self.0.own.generation.saturating_add(said)
    }

    /// What goes wrong here does so every two seconds.
    fn complain(&self, what: &str) {
        if let Some(held_back) = self.0.refusals.pass() {
            error!(held_back, "{what}");
        }
    }
}

/// Less than [`SPEAK_EVERY`] by chance, so that nodes that began together do not go on speaking together.
fn pause() -> Duration {
    let spread = u64::try_from(SPREAD.as_millis()).unwrap_or(1).max(1);
    let less = RandomState::new().hash_one(()) % spread;
    SPEAK_EVERY.saturating_sub(Duration::from_millis(less))
}

async fn prompted(prompts: &mut BoxStream<'static, ()>) {
    if prompts.next().await.is_none() {
        pending().await
    }
}

impl fmt::Debug for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Speaker")
            .field("own", &self.0.own)
            .finish_non_exhaustive()
    }
}
