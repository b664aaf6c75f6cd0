//! The gateway's own code behind a port of the simulated network.

use std::io::sink;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sallyport_certs::{Reloading, tunnel_server_config};
use sallyport_edge::newcomers::Newcomers;
use sallyport_edge::opener::Denial;
use sallyport_gateway::arrive::Visitor;
use sallyport_gateway::config::{Config, Destination, Goal};
use sallyport_gateway::figures::Figures;
use sallyport_gateway::files;
use sallyport_gateway::hub::{Hub, Parts};
use sallyport_gateway::init::{self, InitArgs};
use sallyport_gateway::keys::{self, AddArgs, KeyArgs, KeyCommand};
use sallyport_gateway::open::{Opened, Passage, Want};
use sallyport_gateway::quic::Quic;
use sallyport_link::gate::accept_tls;
use sallyport_link::names::{Binding, NodeKey};
use sallyport_link::quic_endpoint_on;
use sallyport_link::{GatewayFile, KeyRing, Network as _, NodeIdentity, Settings, TunnelStream};
use sallyport_ops::{Metrics, Tasks};
use sallyport_wire::message::{Client, Kind};
use sallyport_wire::{ALPN, ClusterName, ClusterNode, NodeName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::Span;

use crate::network::{Connection, Network, Process};

const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PORT: u16 = 443;

/// A node as the gateway knows it, in the default cluster.
fn known(node: &NodeName) -> ClusterNode {
    ClusterNode {
        cluster: ClusterName::DEFAULT,
        name: node.clone(),
    }
}

/// Handshakes in progress at most: more than there are relays here.
const HANDSHAKES: usize = 1_024;

/// A client gives up on a session after this time and asks again.
const PATIENCE: Duration = Duration::from_millis(500);

/// A gateway as `init` makes it; it runs or is away.
pub(crate) struct Gateway {
    network: Network,
    folder: TempDir,
    running: Option<Running>,
}

struct Running {
    process: Process,
    hub: Arc<Hub>,
    tasks: Tasks,
}

/// A way to a session that is open.
pub(crate) struct Served {
    /// The way itself.
    pub(crate) stream: TunnelStream,
    _passage: Passage,
}

impl Gateway {
    pub(crate) fn new(network: &Network) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let args = InitArgs {
            url: format!("https://{IP}:{PORT}").parse().expect("a URL"),
            dir: folder.path().join("gw"),
            cert: None,
            key: None,
            join: None,
        };
        init::run(&args, &mut sink()).expect("a gateway");
        Self {
            network: network.clone(),
            folder,
            running: None,
        }
    }

    /// What nodes know of it.
    pub(crate) fn file(&self) -> GatewayFile {
        files::keys(&self.config()).expect("its own file")
    }

    /// Adds a key to its file, where it finds it once it looks: it does not follow the file here. What nodes are
    /// given for it, and the key's id.
    pub(crate) fn add_key(&self) -> (GatewayFile, String) {
        let out = self.folder.path().join("new.json");
        let command = KeyCommand::Add(AddArgs {
            out: Some(out.clone()),
            ..AddArgs::default()
        });
        let file = self.config().gateway_file;
        let now = std::time::SystemTime::now().into();
        keys::run(&KeyArgs { command }, &file, now, &mut sink()).expect("a key");
        let given = GatewayFile::load(&out).expect("the file for nodes");
        let kid = given.keys.first().expect("the key alone").kid.clone();
        (given, kid)
    }

    /// Binds a node's name beforehand: at the first hello it would be written with a thread of its own, and no clock
    /// can be paused while threads are at work.
    pub(crate) fn know(&self, nodes: &[(NodeName, &NodeIdentity)]) {
        let config = self.config();
        std::fs::create_dir_all(&config.state_dir).expect("writable");
        let names = files::names(&config).expect("no names yet");
        let file = self.file();
        for (node, identity) in nodes {
            let binding = Binding {
                key: NodeKey::new(*identity.public()),
                kid: file.keys.first().expect("one key").kid.clone(),
                ephemeral: false,
            };
            names.claim(&known(node), binding, || false).expect("free");
        }
        names.save().expect("writable");
    }

    /// Starts it: from now on it listens.
    pub(crate) fn start(&mut self) {
        let config = self.config();
        let names = Arc::new(files::names(&config).expect("names"));
        let certs = Reloading::new(files::identity(&config).expect("a certificate"));
        let reset_key = files::reset_key(&config.state_dir).expect("a key");
        let tls = tunnel_server_config(certs, &[ALPN]).expect("TLS");
        let tasks = Tasks::new();
        let settings = Arc::new(Settings {
            open: config.tunnels.streams,
            ..Settings::gateway()
        });
        let hub = Hub::new(Parts {
            keys: KeyRing::new(&self.file().keys),
            names,
            figures: Figures::new(&Metrics::new()),
            tasks: tasks.clone(),
            data: 0,
            tunnels: config.tunnels.most,
            config,
        });
        let process = self.network.process(IP.into());
        let socket = process
            .bind(SocketAddr::new(IP.into(), PORT))
            .expect("free");
        let endpoint = quic_endpoint_on(socket, Arc::clone(&tls), &reset_key, &settings);
        let quic = Quic {
            hub: Arc::clone(&hub),
            settings: Arc::clone(&settings),
            newcomers: Newcomers::new(HANDSHAKES, HANDSHAKES, Vec::new()),
            prove_address_at: 50,
            tasks: tasks.clone(),
        };
        tasks.spawn(Span::none(), quic.serve(endpoint.expect("QUIC")));
        let doors = (Arc::clone(&hub), TlsAcceptor::from(tls), settings);
        tasks.spawn(Span::none(), serve_tls(process.listen(PORT), doors));
        self.running = Some(Running {
            process,
            hub,
            tasks,
        });
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let running = self.running.take().expect("it runs");
        running.process.kill();
        running.tasks.stop();
    }

    /// How many tunnels of a node it knows.
    pub(crate) fn tunnels(&self, node: &NodeName) -> usize {
        self.hub().registry().members(&known(node)).len()
    }

    /// The keys that the tunnels of a node rest on.
    pub(crate) fn keys(&self, node: &NodeName) -> Vec<String> {
        let registry = self.hub().registry();
        let of = registry.members(&known(node)).iter();
        of.map(|member| member.grant().kid.clone()).collect()
    }

    /// What carries the tunnels of a node.
    pub(crate) fn transports(&self, node: &NodeName) -> Vec<&'static str> {
        let registry = self.hub().registry();
        let of = registry.members(&known(node)).iter();
        of.map(|member| member.tunnel.transport().word()).collect()
    }

    /// A client's way to the session of a node, up to the first byte of its answer.
    pub(crate) async fn open(&self, node: &NodeName) -> Option<Served> {
        let opened = self.ask(node).await.ok()?;
        let mut served = Served {
            stream: opened.stream,
            _passage: opened.passage,
        };
        let answered = async {
            served.stream.write_all(b"hello").await.ok()?;
            served.stream.flush().await.ok()?;
            served.stream.read_u8().await.ok()
        };
        timeout(PATIENCE, answered).await.ok()??;
        Some(served)
    }

    /// Why a client is not let through to the session of a node.
    pub(crate) async fn refusal(&self, node: &NodeName) -> Denial {
        self.ask(node).await.expect_err("a refusal")
    }

    async fn ask(&self, node: &NodeName) -> Result<Opened<TunnelStream>, Denial> {
        let session = node.as_str().parse().expect("a session id");
        let to = Destination {
            cluster: ClusterName::DEFAULT,
            to: Goal::Session(session),
        };
        let want = Want {
            kind: Kind::Http,
            client: Client {
                address: "192.0.2.1:5000".to_owned(),
                ..Client::default()
            },
            request_id: "r".to_owned(),
            credential: String::new(),
            port: None,
            affinity: None,
            avoid: Vec::new(),
        };
        self.hub().open_stream(&to, &want).await
    }

    fn hub(&self) -> &Arc<Hub> {
        &self.running.as_ref().expect("it runs").hub
    }

    fn config(&self) -> Config {
        Config::load(&self.folder.path().join("gw/gateway.toml")).expect("its configuration")
    }
}

async fn serve_tls(
    mut backlog: mpsc::Receiver<(Connection, SocketAddr)>,
    (hub, acceptor, settings): (Arc<Hub>, TlsAcceptor, Arc<Settings>),
) {
    while let Some((io, peer)) = backlog.recv().await {
        let (hub, acceptor, settings) = (Arc::clone(&hub), acceptor.clone(), Arc::clone(&settings));
        let tasks = hub.tasks.clone();
        tasks.spawn(Span::none(), async move {
            let Ok(tls) = acceptor.accept(io).await else {
                return;
            };
            let visitor = Visitor::new(Arc::clone(&hub));
            let accepted = accept_tls(tls, peer, &visitor, &settings, &hub.tasks).await;
            hub.receive(accepted.map(|(tunnel, _hello)| tunnel), visitor);
        });
    }
}

/// The address of the host of a relay.
pub(crate) fn relay_ip(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 1, high, low).into()
}
