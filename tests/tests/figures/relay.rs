//! The relay's own code on a host of the simulated network, with one session that answers and then ticks for ever.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sallyport_link::identity::next_generation;
use sallyport_link::{Choice, Dialer, GatewayFile, NodeIdentity, ProxyRules, Settings};
use sallyport_ops::{Metrics, Ready, Tasks};
use sallyport_relay::board::{Board, TUNNELS};
use sallyport_relay::config::Config;
use sallyport_relay::keeper;
use sallyport_relay::outfit::{Outfit, Person};
use sallyport_relay::sessions::{Session, Sessions};
use sallyport_relay::streams::Streams;
use sallyport_relay::wanted::Wanted;
use sallyport_wire::NodeName;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::watch;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::network::{Network, Process};

/// A relay; it runs or is away.
pub(crate) struct Relay {
    pub(crate) node: NodeName,
    pub(crate) ip: IpAddr,
    identity: NodeIdentity,
    folder: TempDir,
    settings: Setup,
    running: Option<Running>,
}

/// What tells one relay from another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) choice: Choice,
    /// Tunnels to its gateway.
    pub(crate) tunnels: usize,
    /// Of its jitter.
    pub(crate) seed: u64,
}

struct Running {
    process: Process,
    tasks: Tasks,
    board: Board,
    wishes: watch::Sender<Arc<Wanted>>,
}

impl Relay {
    pub(crate) fn new(number: u16, settings: Setup) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        Self {
            node: format!("n{number}").parse().expect("a name"),
            ip: crate::gateway::relay_ip(number),
            identity: NodeIdentity::load_or_create(folder.path()).expect("a key"),
            folder,
            settings,
            running: None,
        }
    }

    pub(crate) const fn identity(&self) -> &NodeIdentity {
        &self.identity
    }

    /// Starts a new process of it, which dials at once.
    pub(crate) fn start(&mut self, network: &Network, file: &GatewayFile) {
        let process = network.process(self.ip);
        let tasks = Tasks::new();
        let socket = self.folder.path().join("app");
        tasks.spawn(Span::none(), tick(listen(&socket)));
        let config = self.config(&socket);
        let metrics = Metrics::new();
        let sessions = config.sessions.iter().cloned();
        let sessions = Sessions::new(sessions.map(|session| Session::new(session, None)));
        let streams = Streams::new(
            self.node.clone(),
            Arc::new(sessions),
            config.limits,
            &metrics,
        );
        let dialer = Dialer::through(
            Arc::new(process.clone()),
            Arc::new(Settings::relay()),
            ProxyRules::none(),
            tasks.clone(),
        );
        let board = Board::new(Ready::new(&[TUNNELS]), &metrics);
        let outfit = Outfit {
            person: self.person(),
            dialer,
            seed: self.settings.seed,
            choice: self.settings.choice,
            tunnels: self.settings.tunnels,
            limits: config.limits,
            streams: Arc::new(streams),
            board: board.clone(),
            leaving: CancellationToken::new(),
        };
        let (wishes, seen) = watch::channel(wanted(file));
        tasks.spawn(
            Span::none(),
            keeper::keep(Arc::new(outfit), seen, tasks.clone()),
        );
        self.running = Some(Running {
            process,
            tasks,
            board,
            wishes,
        });
    }

    /// Gives it another gateway file.
    pub(crate) fn give(&self, file: &GatewayFile) {
        let running = self.running.as_ref().expect("it runs");
        running.wishes.send_replace(wanted(file));
    }

    /// Ends its process as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let running = self.running.take().expect("it runs");
        running.process.kill();
        running.tasks.stop();
    }

    /// How many tunnels it holds for live.
    pub(crate) fn tunnels(&self) -> usize {
        let shown = self.running.as_ref().expect("it runs").board.show();
        let tunnels = shown.get("tunnels").and_then(serde_json::Value::as_array);
        tunnels.expect("a list").len()
    }

    fn person(&self) -> Person {
        let state = self.folder.path();
        Person {
            features: Vec::new(),
            node: self.node.clone(),
            site: String::new(),
            generation: next_generation(state, SystemTime::now()).expect("a number"),
            identity: NodeIdentity::load_or_create(state).expect("its key"),
        }
    }

    fn config(&self, socket: &Path) -> Config {
        let text = format!(
            "node = \"{node}\"\n[[session]]\nid = \"{node}\"\nprotocol = \"http\"\ntarget = \"unix:{}\"\naccess = \"public\"\n",
            socket.display(),
            node = self.node,
        );
        Config::parse(&text, &self.folder.path().join("relay.toml")).expect("a configuration")
    }
}

fn wanted(file: &GatewayFile) -> Arc<Wanted> {
    Arc::new(Wanted {
        address: file.gateways.first().expect("one gateway").clone(),
        file: Arc::new(file.clone()),
    })
}

fn listen(path: &Path) -> UnixListener {
    drop(std::fs::remove_file(path)); // of the process before
    UnixListener::bind(path).expect("a socket")
}

/// The session: to whoever connects it says a byte at once and another one again and again, and takes all it gets.
async fn tick(listener: UnixListener) {
    let clients = Tasks::new();
    while let Ok((client, _)) = listener.accept().await {
        clients.spawn(Span::none(), async move {
            let (mut from, mut to) = client.into_split();
            let taken = async {
                tokio::io::copy(&mut from, &mut tokio::io::sink())
                    .await
                    .is_ok()
            };
            tokio::join!(taken, tick_to(&mut to));
        });
    }
}

async fn tick_to(client: &mut OwnedWriteHalf) {
    let mut every = interval(Duration::from_millis(100));
    loop {
        every.tick().await;
        if client.write_all(b".").await.is_err() {
            return;
        }
    }
}
