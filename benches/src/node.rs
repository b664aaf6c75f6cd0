//! Nodes of a cluster that are nothing but what they tell the others.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use sallyport_cluster::{Cluster, Limits, Progress};
use sallyport_link::ClusterKeys;
use sallyport_node::Server;
use sallyport_node::members::Incarnation;
use sallyport_ops::Tasks;
use sallyport_placement::pending::{Counts, Pending};
use sallyport_relay::membership::{Describe, Here, Observer, Reach, Speaker};
use tokio::sync::watch;

/// What such a node says of itself, as JSON.
pub const SERVER_FILE: &str = "server.json";

/// What all of them share.
#[derive(Debug)]
pub struct Load {
    folder: PathBuf,
    server: Server,
    keys: watch::Sender<Arc<ClusterKeys>>,
}

/// One of them, with a connection of its own to the broker.
#[derive(Debug)]
pub struct Node {
    /// Hears the others, once it is told to.
    pub observer: Observer,
    speaker: Speaker,
    cluster: Cluster,
}

impl Load {
    /// As a folder has it: broker.json, cluster-keys.json and [`SERVER_FILE`].
    ///
    /// # Panics
    /// If one of them is missing.
    #[must_use]
    pub fn read(folder: &Path) -> Self {
        let server = fs::read(folder.join(SERVER_FILE)).expect("a server object");
        let keys = ClusterKeys::load(&folder.join("cluster-keys.json"));
        Self {
            folder: folder.to_owned(),
            server: serde_json::from_slice(&server).expect("a server object"),
            keys: watch::Sender::new(Arc::new(keys.expect("cluster keys"))),
        }
    }

    /// A node that begins to connect to the broker.
    ///
    /// # Panics
    /// If the name or the files are none.
    #[must_use]
    pub fn node(&self, name: &str, tasks: &Tasks) -> Node {
        let config = self.folder.join("relay.toml");
        let cluster = Cluster::start(&config, &self.folder, Limits::default(), tasks);
        let cluster = cluster.expect("a broker");
        let server = Server {
            server_id: name.parse().expect("a name"),
            ..self.server.clone()
        };
        let own = || Incarnation {
            node: server.server_id.clone(),
            id: name.to_owned(),
            generation: server.generation,
        };
        let keys = || self.keys.subscribe();
        let observer = Observer::new(own(), cluster.bus(), keys(), Pending::default());
        let observer = observer.expect("a topic");
        let here = Here {
            server: server.clone(),
            reach: Reach::default(),
            placing: Counts::new(),
        };
        let describe: Describe = Arc::new(move || here.clone());
        let speaker = Speaker::new(own(), describe, cluster.bus(), keys());
        Node {
            observer,
            speaker: speaker.expect("a topic"),
            cluster,
        }
    }
}

impl Node {
    /// Says what it is, at once when it is connected and then every two seconds.
    pub fn speak(&self, tasks: &Tasks) {
        let ready = self.cluster.progress_changes();
        let ready = ready.filter(|now| std::future::ready(*now == Progress::Ready));
        let prompts = ready.map(drop).chain(stream::pending());
        self.speaker.speak(prompts.boxed(), tasks);
    }
}
