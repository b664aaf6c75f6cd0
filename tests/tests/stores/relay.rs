//! A relay's handle of a broker, as its `broker.json` says.

use std::any::Any;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use sallyport_cluster::{Broker, Limits, Nats, Progress, Redis, Step};
use sallyport_ops::Tasks;

use crate::pair::{Pair, Shared, limits, look_again, soon};

/// A kind of broker.
pub(crate) trait Client: Shared + Clone + 'static {
    fn start(broker: Broker, tls: Option<ClientConfig>, limits: Limits, tasks: &Tasks) -> Self;
    fn progress(&self) -> Progress;
}

impl Client for Nats {
    fn start(broker: Broker, tls: Option<ClientConfig>, limits: Limits, tasks: &Tasks) -> Self {
        Self::start(broker, tls, limits, tasks)
    }

    fn progress(&self) -> Progress {
        self.progress()
    }
}

impl Client for Redis {
    fn start(broker: Broker, tls: Option<ClientConfig>, limits: Limits, tasks: &Tasks) -> Self {
        Self::start(broker, tls, limits, tasks)
    }

    fn progress(&self) -> Progress {
        self.progress()
    }
}

/// A relay's handle, whose tasks end with it.
pub(crate) struct Relay<C> {
    pub(crate) store: C,
    tasks: Tasks,
}

impl<C> Drop for Relay<C> {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl<C: Client> Relay<C> {
    /// One that reads this `broker.json`.
    pub(crate) fn start(folder: &Path, json: &str) -> Self {
        let broker = broker(folder, json);
        let tls = broker.client_config().expect("good certificates");
        let tasks = Tasks::new();
        let store = C::start(broker, tls, limits(), &tasks);
        Self { store, tasks }
    }

    pub(crate) async fn is(&self, what: &str, holds: impl Fn(&Progress) -> bool) -> Progress {
        let holding = async {
            loop {
                let progress = self.store.progress();
                if holds(&progress) {
                    return progress;
                }
                look_again().await;
            }
        };
        soon(what, holding).await
    }

    pub(crate) async fn ready(self) -> Self {
        self.is("the broker lets us in", |now| *now == Progress::Ready)
            .await;
        self
    }

    /// The step at which it fails, with the text.
    pub(crate) async fn fails_at(&self, step: Step) -> String {
        let fails = |now: &Progress| matches!(now, Progress::Failing(at) if at.step == step);
        self.is(&format!("it fails at {step}"), fails)
            .await
            .to_string()
    }
}

pub(crate) fn broker(folder: &Path, json: &str) -> Broker {
    let path = folder.join("broker.json");
    fs::write(&path, json).expect("the folder is writable");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our own file");
    Broker::load(&path).expect("a good file")
}

/// Two relays that read the same file.
pub(crate) async fn pair_with<C: Client>(
    dir: &Path,
    json: &str,
    kept: impl Any + Send + Sync,
) -> Pair {
    let one = Relay::<C>::start(dir, json).ready().await;
    let other = Relay::<C>::start(dir, json).ready().await;
    let handles = (Arc::new(one.store.clone()), Arc::new(other.store.clone()));
    Pair::new(handles.0, handles.1, (one, other, kept))
}
