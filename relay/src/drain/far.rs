//! Drains of other nodes: an order over the bus, and its answer. Whoever runs the broker can keep them back, and can neither
//! make nor repeat one: both are signed with the cluster's keys, an order is good for ten seconds and for one process of the
//! node that it is for, which obeys later ones of the same node only.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use sallyport_cluster::signed::LEEWAY;
use sallyport_cluster::{
    Bus, Claim, ClusterError, Delivery, Distrust, Key, Message, NotAKey, Prefix, Signer,
    Subscription, Verified, Verifier,
};
use sallyport_link::ClusterKeys;
use sallyport_ops::Tasks;
use sallyport_ops::paced::Paced;
use sallyport_wire::NodeName;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info_span, warn};

use super::{Drained, What};
use crate::credentials::signing;

/// An order and its answer are believed for this long, besides what clocks may differ.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// How long a node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Nodes whose last order is remembered.
const MOST_SENDERS: usize = 8_192;

/// Between two tries to listen.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Does what a node, which is named, asks for.
pub(super) type Obey =
    Arc<dyn Fn(What, String) -> BoxFuture<'static, Result<Drained, String>> + Send + Sync>;

/// Why another node did not do what it was asked for, or is not known to have done it.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    /// It did not answer.
    #[error(
        "it did not answer within {} s: its log says why if it got the order, and `servers` whether it did it",
        .0.as_secs()
    )]
    Silent(Duration),
    /// It answered that it does not.
    #[error("it refuses: {0}")]
    Refused(String),
    /// Nothing to sign with.
    #[error("there is no cluster key here: copy cluster-keys.json from another node")]
    NoKey,
    /// The bus.
    #[error(transparent)]
    Bus(ClusterError),
    /// The answer is not from that node.
    #[error("its answer is not believed, so look with `servers` whether it did it: {0}")]
    Distrusted(#[from] Distrust),
    /// Names of nodes always can stand on the bus.
    #[error(transparent)]
    Topic(#[from] NotAKey),
}

/// Asks other nodes, and hears them. A clone is the same one.
#[derive(Clone)]
pub struct Far(Arc<Shared>);

struct Shared {
    node: NodeName,
    generation: u64,
    bus: Arc<dyn Bus>,
    keys: watch::Receiver<Arc<ClusterKeys>>,
    said: AtomicU64,
}

/// An order, as it goes over the bus under `drains/TO/FROM`.
#[derive(Debug, Serialize, Deserialize)]
struct Ordered {
    /// The process that is meant.
    generation: u64,
    what: What,
}

/// Its answer, signed for `drained/FROM/TO`.
#[derive(Debug, Serialize, Deserialize)]
struct Answered {
    /// The version of the order.
    to: u64,
    done: Result<Drained, String>,
}

impl Far {
    /// For the process `generation` of a node.
    #[must_use]
    pub fn new(
        (node, generation): (NodeName, u64),
        bus: Arc<dyn Bus>,
        keys: watch::Receiver<Arc<ClusterKeys>>,
    ) -> Self {
        Self(Arc::new(Shared {
            node,
            generation,
            bus,
            keys,
            said: AtomicU64::new(0),
        }))
    }

    /// Asks the process `generation` of a node.
    pub(super) async fn ask(
        &self,
        (node, generation): (&NodeName, u64),
        what: What,
    ) -> Result<Drained, NotDone> {
        let (here, version) = (&self.0.node, self.next_version());
        let order: Key = format!("drains/{node}/{here}").parse()?;
        let ordered = Ordered { generation, what };
        let signed = self.sign(&order, version, &ordered);
        let signed = signed.ok_or(NotDone::NoKey)?;
        let answer = self.0.bus.request(&order, signed, ANSWER_WITHIN).await;
        let answer = answer.map_err(unanswered)?;
        let place = format!("drained/{here}/{node}").parse()?;
        let verified = self.verify(&place, node.as_str(), &answer)?;
        match serde_json::from_slice::<Answered>(&verified.payload) {
            Ok(answered) if answered.to == version => answered.done.map_err(NotDone::Refused),
            Ok(_) | Err(_) => Err(NotDone::Distrusted(Distrust::Malformed)),
        }
    }

    /// Obeys other nodes from now on.
    pub(super) fn obey(&self, obey: Obey, tasks: &Tasks) {
        let far = self.clone();
        tasks.spawn(info_span!("drains"), async move {
            let Ok(topics) = format!("drains/{}", far.0.node).parse::<Prefix>() else {
                return;
            };
            far.keep_obeying(&topics, &obey).await;
        });
    }

    async fn keep_obeying(&self, topics: &Prefix, obey: &Obey) {
        let mut taken = Taken::default();
        let refusals = Paced::new(1);
        let mut orders = self.listen(topics).await;
        while let Some(delivery) = orders.next().await {
            let Delivery::Message(message) = delivery else {
                continue; // whoever was not heard is told so
            };
            if let Err(cause) = self.do_it(&message, &mut taken, obey).await
                && let Some(held_back) = refusals.pass()
            {
                warn!(from = message.topic.last_word(), %cause, held_back, "an order was not obeyed");
            }
        }
    }

    async fn listen(&self, topics: &Prefix) -> Subscription {
        loop {
            match self.0.bus.subscribe(topics).await {
                Ok(orders) => return orders,
                Err(cause) => warn!(%cause, "orders of other nodes are not heard"),
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    async fn do_it(
        &self,
        message: &Message,
        taken: &mut Taken,
        obey: &Obey,
    ) -> Result<(), NotObeyed> {
        let from = message.topic.last_word().to_owned();
        let verified = self.verify(&message.topic, &from, &message.payload)?;
        let ordered: Ordered = serde_json::from_slice(&verified.payload)?;
        if ordered.generation != self.0.generation {
            return Err(NotObeyed::Other);
        }
        taken.take(&message.topic, &verified.claim)?;
        let done = obey(ordered.what, from.clone()).await;
        let to = verified.claim.version;
        let place = format!("drained/{from}/{}", self.0.node).parse()?;
        let signed = self.sign(&place, self.next_version(), &Answered { to, done });
        if let (Some(reply_to), Some(signed)) = (&message.reply_to, signed) {
            self.0.bus.answer(reply_to, signed).await?;
        }
        Ok(())
    }

    fn sign(&self, place: &Key, version: u64, said: &impl Serialize) -> Option<Bytes> {
        let now = SystemTime::now();
        let claim = Claim {
            owner: self.0.node.to_string(),
            version,
            expires: now.checked_add(GOOD_FOR).unwrap_or(now),
        };
        // our own types always become JSON
        let payload = serde_json::to_vec(said).unwrap_or_default();
        Signer::new(signing(&self.0.keys.borrow())).sign(place, &claim, &payload, now)
    }

    /// With the keys of now; what was obeyed is remembered elsewhere, since a verifier believes the same again.
    fn verify(&self, place: &Key, owner: &str, signed: &Bytes) -> Result<Verified, Distrust> {
        let verifier = Verifier::new(signing(&self.0.keys.borrow())).for_at_most(GOOD_FOR);
        verifier.verify(place, owner, signed, SystemTime::now())
    }

    fn next_version(&self) -> u64 {
        let said = self.0.said.fetch_add(1, Ordering::Relaxed);
        self.0.generation.saturating_add(said)
    }
}

fn unanswered(error: ClusterError) -> NotDone {
    let is_silent = matches!(
        error,
        ClusterError::TimedOut | ClusterError::NobodyAnswers(_)
    );
    if is_silent {
        NotDone::Silent(ANSWER_WITHIN)
    } else {
        NotDone::Bus(error)
    }
}

/// Why an order is not obeyed.
#[derive(Debug, thiserror::Error)]
enum NotObeyed {
    #[error(transparent)]
    Distrusted(#[from] Distrust),
    #[error("it is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("it is for another process of this node")]
    Other,
    #[error("it was obeyed before, or a later one was")]
    Repeated,
    #[error("too many nodes have given orders lately")]
    Full,
    #[error("it was done, and the answer did not get away: {0}")]
    Unanswered(#[from] ClusterError),
    #[error(transparent)]
    Topic(#[from] NotAKey),
}

/// The version of the last order of each node, until it has expired.
#[derive(Debug, Default)]
struct Taken(HashMap<Key, (u64, SystemTime)>);

impl Taken {
    fn take(&mut self, topic: &Key, claim: &Claim) -> Result<(), NotObeyed> {
        match self.0.get(topic) {
            Some((version, _)) if claim.version <= *version => return Err(NotObeyed::Repeated),
            Some(_) => {}
            None => self.make_room()?,
        }
        let until = claim.expires.checked_add(LEEWAY).unwrap_or(claim.expires);
        self.0.insert(topic.clone(), (claim.version, until));
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), NotObeyed> {
        if self.0.len() >= MOST_SENDERS {
            let now = SystemTime::now();
            self.0.retain(|_, (_, until)| now <= *until);
        }
        if self.0.len() >= MOST_SENDERS {
            return Err(NotObeyed::Full);
        }
        Ok(())
    }
}

impl fmt::Debug for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Far")
            .field("node", &self.0.node)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
