//! This node in its cluster: what it tells the others, and when.

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt as _};
use sallyport_cluster::{Cluster, NotAKey, Progress};
use sallyport_link::ClusterKeys;
use sallyport_ops::{Ready, Tasks};
use tokio::sync::watch;

use crate::membership::{Describe, Observer, Speaker};
use crate::servers::Describer;

/// The readiness step that says whether store and bus can be used.
pub const STORE: &str = "store";

/// This node's part in a cluster that a bus joins.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Tells the others what it is.
    pub speaker: Speaker,
    /// Hears what they are.
    pub observer: Observer,
}

/// Tells the other nodes what this one is, where a bus joins them.
///
/// # Errors
/// [`NotAKey`], which no name of a node can cause.
pub fn join(
    describer: &Describer,
    cluster: &Cluster,
    keys: &watch::Receiver<Arc<ClusterKeys>>,
    speaking: &Tasks,
) -> Result<Option<Joined>, NotAKey> {
    if !cluster.is_shared() {
        return Ok(None);
    }
    let (describing, person) = (describer.clone(), &describer.outfit.person);
    let describe: Describe = Arc::new(move || describing.describe());
    let own = || (person.node.clone(), person.generation);
    let speaker = Speaker::new(own(), describe, cluster.bus(), keys.clone())?;
    speaker.speak(prompts(describer, cluster), speaking);
    let observer = Observer::new(own(), cluster.bus(), keys.clone())?;
    Ok(Some(Joined { speaker, observer }))
}

/// What the others are to hear of at once.
fn prompts(describer: &Describer, cluster: &Cluster) -> BoxStream<'static, ()> {
    let leaving = describer.outfit.leaving.clone();
    let leaving = stream::once(leaving.cancelled_owned());
    let local = &describer.local;
    stream::select_all([
        changes(local.settings.changes()),
        changes(local.static_data.changes()),
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
