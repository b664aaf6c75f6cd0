//! The cluster's configuration as this node works with it: it follows the store, takes what it can believe and use, and
//! otherwise keeps what it had, also over a restart.

mod order;
mod functions;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use sallyport_cluster::global::{Applied, Bundle, EpochError, Epochs, Seal, pointers};
use sallyport_cluster::{Cluster, ClusterError, NotAKey, Store, Watch};
use sallyport_link::ClusterKeys;
use sallyport_ops::config::{self, ConfigError};
use sallyport_ops::{Admin, AdminError, AdminRequest, Tasks, files};
use sallyport_wire::NodeName;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, info_span};

use crate::credentials::signing;

pub use order::{Order, moment, perform};

/// `POST` of an [`Order`].
pub const CONFIG: &str = "/config";

/// What was accepted last, in the state directory of a node that shares a store.
const KEPT: &str = "config.json";

/// It is for the relay alone.
const MODE: u32 = 0o600;

/// Between two tries to read the store.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A store tells of a change within this time, or whoever made it is not kept waiting.
const HOLDS_WITHIN: Duration = Duration::from_secs(2);

/// The configuration of the cluster. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Global(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    node: NodeName,
    store: Arc<dyn Store>,
    /// Whether others can write the store.
    is_shared: bool,
    keys: watch::Receiver<Arc<ClusterKeys>>,
    kept: PathBuf,
    now: watch::Sender<Option<Applied>>,
    fault: Mutex<Option<String>>,
}

/// The file [`KEPT`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    epoch: u64,
    sha256: String,
    bundle: Value,
}

/// What was accepted last by the node with this state directory; none where it never was.
///
/// # Errors
/// When the file is there and cannot be used. Its text says what to do.
pub fn kept(state: &Path) -> Result<Option<Applied>, ConfigError> {
    let path = state.join(KEPT);
    if !path.exists() {
        return Ok(None);
    }
    // the file has some bytes more than the bundle, which is less than what is read
    let kept: Kept = config::parse_json(&config::read(&path)?, &path)?;
    let bundle = Bundle::from_value(kept.bundle).map_err(|error| {
        let text = format!("{error}; remove the file if no older state of the store can come back");
        ConfigError::fault(&path, text)
    })?;
    Ok(Some(Applied {
        epoch: kept.epoch,
        sha256: kept.sha256,
        bundle: Arc::new(bundle),
    }))
}

/// How the values of a store are kept from being forged.
#[must_use]
pub fn seal(is_shared: bool, keys: &ClusterKeys) -> Seal {
    if is_shared {
        Seal::with(&signing(keys))
    } else {
        Seal::none()
    }
}

impl Global {
    /// As it was accepted last. It is looked for in the store from [`follow`](Self::follow) on.
    ///
    /// # Errors
    /// As [`kept`].
    pub fn open(
        node: &NodeName,
        cluster: &Cluster,
        keys: watch::Receiver<Arc<ClusterKeys>>,
        state: &Path,
    ) -> Result<Self, ConfigError> {
        let is_shared = cluster.is_shared();
        // in a store of its own there is nobody who could set it back
        let accepted = if is_shared { kept(state)? } else { None };
        Ok(Self(Arc::new(Shared {
            node: node.clone(),
            store: cluster.store(),
            is_shared,
            keys,
            kept: state.join(KEPT),
            now: watch::Sender::new(accepted),
            fault: Mutex::default(),
        })))
    }

    /// Follows the store from now on.
    pub fn follow(&self, tasks: &Tasks) {
        let following = self.clone().keep_following();
        tasks.spawn(info_span!("config"), following);
    }

    /// The epoch that this node works with; 0 for none.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0.now.borrow().as_ref().map_or(0, |now| now.epoch)
    }

    /// What it works with, and whatever that becomes; none before the first epoch.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<Applied>> {
        self.0.now.subscribe()
    }

    /// Why it does not work with what the store has, if it does not.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.fault_now().clone()
    }

    /// Adds `POST /config`.
    #[must_use]
    pub fn route(&self, admin: Admin) -> Admin {
        let global = self.clone();
        admin.route(Method::POST, CONFIG, move |request| {
            let global = global.clone();
            Box::pin(async move { global.obey(request).await })
        })
    }

    async fn obey(&self, request: AdminRequest) -> Result<Value, AdminError> {
        let order = serde_json::from_value::<Order>(request.body.unwrap_or_default());
        let order = order.map_err(|error| AdminError::bad_request(error.to_string()))?;
        let epochs = self.epochs().map_err(|error| refusal(&error.into()))?;
        info!(%order, "the configuration is asked for by command");
        let done = perform(order, &epochs).await;
        let done = done.map_err(|error| refusal(&error))?;
        if done["applied"] == true {
            self.until_it_holds(done["epoch"].as_u64()).await;
        }
        Ok(done)
    }

    /// Who has changed the configuration finds it changed on this node, unless the store is slow to tell.
    async fn until_it_holds(&self, epoch: Option<u64>) {
        let mut changes = self.changes();
        let holds = changes.wait_for(|now| now.as_ref().map(|now| now.epoch) >= epoch);
        drop(timeout(HOLDS_WITHIN, holds).await);
    }

    fn epochs(&self) -> Result<Epochs, NotAKey> {
        let shared = &self.0;
        let floor = shared.now.borrow().clone().filter(|_| shared.is_shared);
        let seal = seal(shared.is_shared, &shared.keys.borrow());
        Epochs::new(Arc::clone(&shared.store), seal, floor, shared.node.as_str())
    }

    async fn keep_following(self) {
        let mut keys = self.0.keys.clone();
        loop {
            match self.watch().await {
                Ok(watch) => self.keep_looking(watch, &mut keys).await,
                Err(error) => self.note(&error),
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    async fn watch(&self) -> Result<Watch, EpochError> {
        let pointers = pointers()?;
        Ok(self.0.store.watch(&pointers).await?)
    }

    /// Looks at the store whenever it changes, until the watch is over.
    async fn keep_looking(&self, mut watch: Watch, keys: &mut watch::Receiver<Arc<ClusterKeys>>) {
        let (mut again, mut renewed) = (false, false);
        loop {
            tokio::select! {
                change = watch.next() => if let Err(error) = change {
                    return self.note(&error.into());
                },
                () = sleep(AGAIN_AFTER), if again => {}
                changed = keys.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    renewed = false;
                }
            }
            again = self.look().await.is_err();
            if !again && !renewed {
                self.renew().await;
                renewed = true;
            }
        }
    }

    /// Takes what the store has, if it can be believed and used.
    ///
    /// # Errors
    /// If the store could not be read.
    async fn look(&self) -> Result<(), ClusterError> {
        let newest = match self.epochs() {
            Ok(epochs) => epochs.newest().await,
            Err(error) => Err(error.into()),
        };
        match newest {
            Ok(newest) => self.take(newest).await,
            Err(error) => {
                self.note(&error);
                if let EpochError::Store(error) = error {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn take(&self, newest: Option<Applied>) {
        *self.fault_now() = None;
        let is_known = *self.0.now.borrow() == newest;
        let Some(newest) = newest.filter(|_| !is_known) else {
            return;
        };
        if self.0.is_shared
            && let Err(cause) = self.keep(newest.clone()).await
        {
            let path = self.0.kept.display();
            error!(%path, %cause, "the configuration could not be kept for the next start");
        }
        info!(
            epoch = newest.epoch,
            objects = newest.bundle.len(),
            "the cluster's configuration was taken"
        );
        self.0.now.send_replace(Some(newest));
    }

    async fn keep(&self, newest: Applied) -> io::Result<()> {
        let path = self.0.kept.clone();
        let written = spawn_blocking(move || {
            let kept = Kept {
                epoch: newest.epoch,
                sha256: newest.sha256,
                bundle: newest.bundle.to_value(),
            };
            files::write_atomic(&path, &serde_json::to_vec(&kept)?, MODE)
        });
        written.await?
    }

    /// So that a key that the pointer was signed with can be revoked.
    async fn renew(&self) {
        if let Ok(epochs) = self.epochs()
            && let Err(error) = epochs.renew_seal().await
        {
            debug!(%error, "the configuration was not signed anew");
        }
    }

    /// A store that cannot be reached is told elsewhere.
    fn note(&self, error: &EpochError) {
        if matches!(error, EpochError::Store(error) if error.is_passing()) {
            return debug!(%error, "the configuration cannot be looked at now");
        }
        let text = format!("{error}; epoch {} holds on this node", self.epoch());
        let mut fault = self.fault_now();
        if fault.as_ref() != Some(&text) {
            error!("{text}");
            *fault = Some(text);
        }
    }

    fn fault_now(&self) -> MutexGuard<'_, Option<String>> {
        self.0.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refusal(error: &EpochError) -> AdminError {
    let status = match error {
        EpochError::Bundle(_) => StatusCode::BAD_REQUEST,
        EpochError::NoEpoch { .. } | EpochError::NoObject { .. } => StatusCode::NOT_FOUND,
        EpochError::Changed => StatusCode::CONFLICT,
        EpochError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        EpochError::NoKey
        | EpochError::Distrust(_)
        | EpochError::Older { .. }
        | EpochError::Damaged { .. }
        | EpochError::Key(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    AdminError::new(status, error.to_string())
}
