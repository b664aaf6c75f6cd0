//! Nodes that a running relay is told of: dialled when they are wanted, and left when they are known no more.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use sallyport_link::identity::next_generation;
use sallyport_link::{
    Choice, ClusterKeys, Dialer, Key, Names, NodeIdentity, ProxyRules, Settings, TunnelStream,
};
use sallyport_ops::{Metrics, Ready, Tasks};
use sallyport_relay::board::{Board, TUNNELS};
use sallyport_relay::config::Config;
use sallyport_relay::credentials::Credentials;
use sallyport_relay::direct::{self, Behind};
use sallyport_relay::hop::Hop;
use sallyport_relay::outfit::{Outfit, Person};
use sallyport_relay::peers::{Peers, Trust};
use sallyport_relay::sessions::{Session, Sessions};
use sallyport_relay::streams::Streams;
use sallyport_tests::Port;
use sallyport_wire::message::{Advertise, Client, Head, Kind, Offer};
use sallyport_wire::{Code, NodeName, Scope};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Span;

/// How long a state may take before the test fails: not a figure of the product.
const BOUND: Duration = Duration::from_secs(30);

const AGAIN: Duration = Duration::from_millis(10);

/// The part of a relay that knows other nodes.
struct Node {
    streams: Arc<Streams>,
    peers: Arc<Peers>,
    tasks: Tasks,
    _folder: TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Node {
    fn start(name: &str, key: &Key, more: &str) -> Self {
        let (tasks, folder) = (Tasks::new(), tempfile::tempdir().expect("a directory"));
        let text = format!("node = \"{name}\"\n{more}");
        let config = Config::parse(&text, &folder.path().join("relay.toml")).expect("loads");
        let keys = vec![key.clone()];
        let keys = ClusterKeys { keys }.save_new(&config.cluster_keys);
        keys.expect("written");
        let metrics = Metrics::new();
        let sessions = config.sessions.iter().cloned();
        let sessions = Sessions::new(sessions.map(|session| Session::new(session, None)));
        let streams = Streams::new(
            config.node.clone(),
            Arc::new(sessions),
            config.limits,
            &metrics,
        );
        let streams = Arc::new(streams);
        let outfit = Arc::new(Outfit {
            person: person(&config.node, folder.path()),
            dialer: Dialer::new(
                Arc::new(Settings::relay()),
                ProxyRules::none(),
                tasks.clone(),
            ),
            seed: 1,
            choice: Choice::Auto,
            tunnels: 0,
            limits: config.limits,
            streams: Arc::clone(&streams),
            board: Board::new(Ready::new(&[TUNNELS]), &metrics),
            leaving: CancellationToken::new(),
        });
        let trust = Trust {
            credentials: Credentials::open(&config.node, &config.cluster_keys).expect("keys"),
            names: Arc::new(Names::load(&folder.path().join("names.json"), 8).expect("none")),
            named: Vec::new(),
        };
        let owners = (tasks.child(), tasks.child());
        let peers = Peers::new(outfit, trust, Settings::relay(), owners);
        peers.start(&tasks);
        if let Some(port) = &config.direct {
            let with = (&config.limits, Settings::relay());
            let behind = Behind {
                peers: Arc::clone(&peers),
                links: tasks.child(),
                clients: None,
            };
            let opened = direct::open(port, behind, with, &tasks);
            opened.expect("a free port");
        }
        Self {
            streams,
            peers,
            tasks,
            _folder: folder,
        }
    }

    fn hop(&self) -> &Hop {
        self.streams.hop()
    }

    fn know(&self, node: &str, ports: &[u16]) {
        let address = |port| format!("127.0.0.1:{port}").parse().expect("an address");
        let addresses = ports.iter().map(address).collect();
        self.peers.know(vec![(name(node), addresses)]);
    }

    async fn open(&self, node: &str) -> Result<TunnelStream, Code> {
        let client = Client {
            address: "127.0.0.2:5".to_owned(),
            ..Client::default()
        };
        let head = Head {
            kind: Kind::Tcp.into(),
            target: "echo".to_owned(),
            client: Some(client),
            ..Head::default()
        };
        self.hop().open(&name(node), head).await
    }

    async fn reach(&self, node: &str) -> TunnelStream {
        let mut again = interval(AGAIN);
        let reached = async {
            loop {
                again.tick().await;
                if let Ok(stream) = self.open(node).await {
                    break stream;
                }
            }
        };
        timeout(BOUND, reached).await.expect("reached")
    }
}

fn name(node: &str) -> NodeName {
    node.parse().expect("a node name")
}

fn person(node: &NodeName, state: &Path) -> Person {
    Person {
        node: node.clone(),
        site: String::new(),
        generation: next_generation(state, SystemTime::now()).expect("writable"),
        features: Vec::new(),
        identity: NodeIdentity::load_or_create(state).expect("a key"),
    }
}

fn key() -> Key {
    Key::generate(Scope::default(), None).expect("randomness")
}

async fn eventually(what: &str, state: impl Fn() -> bool) {
    let until = Instant::now() + BOUND;
    let mut again = interval(AGAIN);
    while !state() {
        assert!(Instant::now() < until, "still not after {BOUND:?}: {what}");
        again.tick().await;
    }
}

async fn echoes(stream: &mut TunnelStream) -> bool {
    let talk = async {
        stream.write_all(b"ping").await.ok()?;
        stream.flush().await.ok()?;
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.ok()?;
        (back == *b"ping").then_some(())
    };
    timeout(BOUND, talk).await.is_ok_and(|said| said.is_some())
}

/// A service that sends back what comes, and its port.
async fn echo(tasks: &Tasks) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let owner = tasks.clone();
    tasks.spawn(Span::none(), async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            owner.spawn(Span::none(), async move {
                let (mut read, mut write) = socket.split();
                let _ended = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

fn shown(node: &Node) -> usize {
    node.peers.show().as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn nodes_come_and_go_while_a_relay_runs() {
    let (key, tasks) = (key(), Tasks::new());
    let (nowhere, port) = (Port::reserve(), Port::reserve());
    let target = echo(&tasks).await;
    let far = format!(
        "[direct]\nlisten = \"127.0.0.1:{}\"\n[[session]]\nid = \"echo\"\nprotocol = \"tcp\"\n\
         target = \"127.0.0.1:{target}\"\naccess = \"public\"\n",
        port.number()
    );
    let far = Node::start("far", &key, &far);
    let near = Node::start("near", &key, "");
    assert_eq!(near.open("far").await.err(), Some(Code::HomeLost));

    near.know("far", &[nowhere.number(), port.number()]);
    let directory = near.hop().directory();
    let mut before = near.reach("far").await;
    assert!(directory.knows(&name("far")), "it said what it has");
    assert!(echoes(&mut before).await);

    near.peers.know(Vec::new());
    let refused = async {
        loop {
            if let Err(code) = near.open("far").await {
                break code;
            }
        }
    };
    let refused = timeout(BOUND, refused).await.expect("no new streams");
    assert_eq!(refused, Code::HomeLost);
    assert!(echoes(&mut before).await, "what runs goes on");
    drop(before);
    eventually("the tunnel goes", || shown(&near) + shown(&far) == 0).await;
    let down = directory.offers(Instant::now());
    assert!(
        down.iter().all(|offer| offer.down) && down.len() == 1,
        "{down:?}"
    );

    near.know("far", &[port.number()]);
    let mut after = near.reach("far").await;
    assert!(echoes(&mut after).await);
    tasks.stop();
}

#[tokio::test]
async fn of_many_nodes_only_those_are_dialled_that_a_stream_wants() {
    let near = Node::start("near", &key(), "");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let dialled = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&dialled);
    near.tasks.spawn(Span::none(), async move {
        while let Ok((socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            drop(socket);
        }
    });
    let address = format!("127.0.0.1:{port}").parse::<sallyport_link::PeerAddress>();
    let address = address.expect("an address");
    let nodes: Vec<NodeName> = (0..1_000).map(|n| name(&format!("n{n}"))).collect();
    for (number, node) in nodes.iter().enumerate() {
        let offer = Offer {
            id: format!("s{number}"),
            ..Offer::default()
        };
        let said = Advertise {
            home: vec![offer],
            ..Advertise::default()
        };
        near.hop().directory().learn(node, said, Instant::now());
    }

    let found = nodes
        .iter()
        .map(|node| (node.clone(), vec![address.clone()]));
    near.peers.know(found.collect());

    let refused = async {
        let mut again = interval(AGAIN);
        while dialled.load(Ordering::Relaxed) == 0 {
            again.tick().await;
            assert_eq!(near.open("n999").await.err(), Some(Code::HomeLost));
        }
    };
    timeout(BOUND, refused).await.expect("it is dialled");
    assert_eq!(dialled.load(Ordering::Relaxed), 1);
}
