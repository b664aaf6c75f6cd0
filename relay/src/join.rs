//! This node in its cluster: what it tells the others, and when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::stream::{self, BoxStream, StreamExt as _};
use prost::Message as _;
use sallyport_cluster::{Cluster, ClusterError, NotAKey, Progress, StoreId};
use sallyport_link::{ClusterKeys, PeerAddress};
use sallyport_node::members::Incarnation;
use sallyport_ops::paced::PacedCauses;
use sallyport_ops::{Ready, Tasks};
use sallyport_wire::NodeName;
use sallyport_wire::message::{Advertise, Store};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::advertise;
use crate::directory::Directory;
use crate::drain::Far;
use crate::membership::{Describe, Here, Observer, Reach, Speaker, Tenure};
use crate::outfit::Outfit;
use crate::peers::Peers;
use crate::servers::Describer;

/// The readiness step that says whether store and bus can be used.
pub const STORE: &str = "store";

/// Between two tries to learn which store it is.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// This node's part in a cluster that a bus joins.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Tells the others what it is.
    pub speaker: Speaker,
    /// Hears what they are.
    pub observer: Observer,
    /// Asks them to drain.
    pub far: Far,
}

impl Joined {
    /// Whether the node's name is its own.
    #[must_use]
    pub fn tenure(&self) -> Tenure {
        self.speaker.tenure().clone()
    }
}

/// Tells the other nodes what this one is, where a bus joins them.
///
/// # Errors
/// [`NotAKey`], which no name of a node can cause.
pub fn join(
    describer: &Describer,
    cluster: &Cluster,
    addresses: Vec<String>,
    keys: &watch::Receiver<Arc<ClusterKeys>>,
    speaking: &Tasks,
) -> Result<Option<Joined>, NotAKey> {
    if !cluster.is_shared() {
        return Ok(None);
    }
    let (describing, person) = (describer.clone(), &describer.outfit.person);
    let describe: Describe = Arc::new(move || Here {
        server: describing.describe(),
        reach: reach(&describing, &addresses),
        placing: describing.pending.own(),
    });
    let own = || Incarnation {
        node: person.node.clone(),
        id: person.identity.id(),
        generation: person.generation,
    };
    let speaker = Speaker::new(own(), describe, cluster.bus(), keys.clone())?;
    speaker.speak(prompts(describer, cluster), speaking);
    let pending = describer.pending.clone();
    let observer = Observer::new(own(), cluster.bus(), keys.clone(), pending)?;
    let process = (person.node.clone(), person.generation);
    let far = Far::new(process, cluster.bus(), keys.clone());
    Ok(Some(Joined {
        speaker,
        observer,
        far,
    }))
}

/// Where other nodes reach the port `direct` of this one: at its address, or where it listens on all, by the node's name.
#[must_use]
pub fn addresses(node: &NodeName, direct: Option<SocketAddr>) -> Vec<String> {
    let address = direct.map(|direct| match direct.ip().is_unspecified() {
        true => format!("{node}:{}", direct.port()),
        false => direct.to_string(),
    });
    address.into_iter().collect()
}

/// A node without a port for others has nothing for them.
fn reach(describer: &Describer, addresses: &[String]) -> Reach {
    if addresses.is_empty() {
        return Reach::default();
    }
    let outfit = &describer.outfit;
    let process = (outfit.streams.sessions().as_ref(), outfit.person.generation);
    let offers = advertise::to_nodes(process, 0, false);
    Reach {
        addresses: addresses.to_vec(),
        offers: URL_SAFE_NO_PAD.encode(offers.encode_to_vec()),
    }
}

/// Has the peers know where other nodes are, and the directory what they have, as far as they are heard.
pub async fn lead(observer: Observer, outfit: Arc<Outfit>, peers: Arc<Peers>) {
    let directory = outfit.streams.hop().directory();
    let mut changes = observer.reaches();
    let mut known: BTreeMap<NodeName, (Reach, Vec<PeerAddress>)> = BTreeMap::new();
    loop {
        let reaches = changes.borrow_and_update().clone();
        known.retain(|node, _| reaches.contains_key(node));
        for (node, reach) in reaches {
            let is_news = known.get(&node).is_none_or(|(before, _)| *before != reach);
            if is_news {
                let addresses = reachable(&node, &reach, directory);
                known.insert(node, (reach, addresses));
            }
        }
        let found = known.iter();
        let found = found.map(|(node, (_, addresses))| (node.clone(), addresses.clone()));
        peers.know(
            found
                .filter(|(_, addresses)| !addresses.is_empty())
                .collect(),
        );
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Where a node is found whose word is new, after the directory was told what it has; nowhere if it has no port for others.
fn reachable(node: &NodeName, reach: &Reach, directory: &Directory) -> Vec<PeerAddress> {
    let addresses = reach.addresses.iter();
    let addresses: Vec<_> = addresses.filter_map(|text| text.parse().ok()).collect();
    match offered(reach) {
        Some(offered) if !addresses.is_empty() => {
            directory.learn(node, offered, Instant::now());
            addresses
        }
        Some(_) | None => Vec::new(),
    }
}

/// What a node says that it has; none if it has no port, or says it in another way than ours.
fn offered(reach: &Reach) -> Option<Advertise> {
    if reach.addresses.is_empty() {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(&reach.offers).ok()?;
    Advertise::decode(bytes.as_slice()).ok()
}

/// What the others are to hear of at once.
fn prompts(describer: &Describer, cluster: &Cluster) -> BoxStream<'static, ()> {
    let leaving = describer.outfit.leaving.clone();
    let leaving = stream::once(leaving.cancelled_owned());
    let local = &describer.local;
    stream::select_all([
        changes(local.settings.changes()),
        changes(local.static_data.changes()),
        changes(describer.global.changes()),
        changes(describer.pending.changes()),
        changes(describer.reservations.occupied()),
        changes(describer.outfit.streams.sessions().changes()),
        cluster.progress_changes().map(drop).boxed(),
        leaving.boxed(),
    ])
    .boxed()
}

fn changes<T: Send + Sync + 'static>(watched: watch::Receiver<T>) -> BoxStream<'static, ()> {
    let next = |mut watched: watch::Receiver<T>| async move {
        watched.changed().await.ok()?;
        watched.mark_unchanged();
        Some(((), watched))
    };
    stream::unfold(watched, next).boxed()
}

/// Has the nodes that meet this one hear which store it has. Behind a way that was lost there may be another one.
pub async fn tell_store_id(cluster: Cluster, peers: Arc<Peers>) {
    let (store, complaints) = (cluster.store(), PacedCauses::default());
    let mut changes = cluster.progress_changes();
    while let Some(now) = changes.next().await {
        if now != Progress::Ready {
            continue;
        }
        let StoreId { id, made } = loop {
            match StoreId::of(store.as_ref()).await {
                Ok(found) => break found,
                Err(ClusterError::Closed) => return,
                Err(error) if error.is_passing() => {}
                Err(error) => complain(&complaints, &error),
            }
            sleep(AGAIN_AFTER).await;
        };
        let (made_ms, shared) = (made, cluster.is_shared());
        peers.has_store(Store {
            id,
            made_ms,
            shared,
        });
    }
}

fn complain(complaints: &PacedCauses, error: &ClusterError) {
    let cause = error.to_string();
    if let Some(held_back) = complaints.pass(&cause) {
        warn!(
            cause,
            held_back, "it is not known which store this node has"
        );
    }
}

/// Has readiness say how far the way to the store is.
pub async fn tell_store(cluster: Cluster, ready: Ready) {
    let mut changes = cluster.progress_changes();
    while let Some(now) = changes.next().await {
        let state = match now {
            Progress::Ready => Ok(()),
            Progress::Connecting | Progress::Failing(_) => Err(now.to_string()),
        };
        ready.set(STORE, state);
    }
}
