//! What a relay has of its cluster: one handle, whatever carries it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt as _};
use rustls::ClientConfig;
use sallyport_ops::Tasks;

use crate::broker::{BROKER_FILE, Broker, BrokerError, Transporter};
use crate::bus::Bus;
use crate::embedded::{Embedded, OpenError, STORE_FILE};
use crate::limits::Limits;
use crate::nats::Nats;
use crate::progress::Progress;
use crate::redis::Redis;
use crate::store::Store;

/// Store and bus of this relay's cluster. A clone is the same one.
#[derive(Clone)]
pub struct Cluster(Carrier);

#[derive(Debug, Clone)]
enum Carrier {
    Embedded(Embedded),
    Nats(Nats),
    Redis(Redis),
}

/// A broker to connect to, and its TLS.
type Connection = (Broker, Option<ClientConfig>);

/// Why a relay has no cluster, not even one that is still to be reached.
#[derive(Debug, thiserror::Error)]
pub enum ClusterStartError {
    /// `broker.json` or a file that it names.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The embedded store's file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file that was named is of a cluster of one node.
    #[error("{0} names no broker: it says that each node has a store of its own")]
    NoBroker(String),
}

impl Cluster {
    /// The cluster of the relay whose configuration is the file `config`: what `broker.json` beside it names is connected
    /// to in the background; without that file, or where it says so, the store is a file in the directory `state`.
    ///
    /// # Errors
    /// [`ClusterStartError`]; never because a broker cannot be reached.
    pub fn start(
        config: &Path,
        state: &Path,
        limits: Limits,
        tasks: &Tasks,
    ) -> Result<Self, ClusterStartError> {
        Ok(match broker_of(config)? {
            None => Self(Carrier::Embedded(Embedded::open(
                &state.join(STORE_FILE),
                limits,
            )?)),
            Some(connection) => Self::connect(connection, limits, tasks),
        })
    }

    /// The cluster behind `broker`, connected to in the background.
    ///
    /// # Errors
    /// [`ClusterStartError`]; never because the broker cannot be reached.
    pub fn start_with(
        broker: Broker,
        limits: Limits,
        tasks: &Tasks,
    ) -> Result<Self, ClusterStartError> {
        let path = broker.path.display().to_string();
        match connection_to(broker)? {
            Some(connection) => Ok(Self::connect(connection, limits, tasks)),
            None => Err(ClusterStartError::NoBroker(path)),
        }
    }

    fn connect((broker, tls): Connection, limits: Limits, tasks: &Tasks) -> Self {
        Self(match broker.transporter {
            Transporter::Redis => Carrier::Redis(Redis::start(broker, tls, limits, tasks)),
            Transporter::Nats | Transporter::Embedded => {
                Carrier::Nats(Nats::start(broker, tls, limits, tasks))
            }
        })
    }

    /// Whether [`start`](Self::start) would take the `broker.json` beside `config`, as far as files tell.
    ///
    /// # Errors
    /// As there.
    pub fn check(config: &Path) -> Result<(), ClusterStartError> {
        broker_of(config).map(drop)
    }

    /// Its store.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        match &self.0 {
            Carrier::Embedded(embedded) => Arc::new(embedded.clone()),
            Carrier::Nats(nats) => Arc::new(nats.clone()),
            Carrier::Redis(redis) => Arc::new(redis.clone()),
        }
    }

    /// Its bus.
    #[must_use]
    pub fn bus(&self) -> Arc<dyn Bus> {
        match &self.0 {
            Carrier::Embedded(embedded) => Arc::new(embedded.clone()),
            Carrier::Nats(nats) => Arc::new(nats.clone()),
            Carrier::Redis(redis) => Arc::new(redis.clone()),
        }
    }

    /// Whether other relays share it.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        matches!(self.0, Carrier::Nats(_) | Carrier::Redis(_))
    }

    /// What carries it.
    #[must_use]
    pub const fn transporter(&self) -> Transporter {
        match &self.0 {
            Carrier::Embedded(_) => Transporter::Embedded,
            Carrier::Nats(_) => Transporter::Nats,
            Carrier::Redis(_) => Transporter::Redis,
        }
    }

    /// Whether it can be used now.
    #[must_use]
    pub fn progress(&self) -> Progress {
        match &self.0 {
            Carrier::Embedded(_) => Progress::Ready,
            Carrier::Nats(nats) => nats.progress(),
            Carrier::Redis(redis) => redis.progress(),
        }
    }

    /// What [`progress`](Self::progress) says now, and whatever it says later.
    #[must_use]
    pub fn progress_changes(&self) -> BoxStream<'static, Progress> {
        match &self.0 {
            Carrier::Embedded(_) => stream::once(async { Progress::Ready }).boxed(),
            Carrier::Nats(nats) => nats.progress_changes().boxed(),
            Carrier::Redis(redis) => redis.progress_changes().boxed(),
        }
    }
}

/// The broker to connect to and its TLS; none for the embedded store.
fn broker_of(config: &Path) -> Result<Option<Connection>, ClusterStartError> {
    match broker_beside(config)? {
        Some(broker) => connection_to(broker),
        None => Ok(None),
    }
}

fn connection_to(broker: Broker) -> Result<Option<Connection>, ClusterStartError> {
    match broker.transporter {
        Transporter::Embedded => Ok(None),
        Transporter::Nats | Transporter::Redis => {
            let tls = broker.client_config()?;
            Ok(Some((broker, tls)))
        }
    }
}

/// The `broker.json` beside the file `config`; none if there is none.
///
/// # Errors
/// [`BrokerError`] if it is there and cannot be used.
pub fn broker_beside(config: &Path) -> Result<Option<Broker>, BrokerError> {
    let path = config.with_file_name(BROKER_FILE);
    match path.try_exists() {
        Ok(false) => Ok(None),
        Ok(true) => Broker::load(&path).map(Some),
        Err(cause) => Err(BrokerError::Io { path, cause }),
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
