//! Relays that share one process: the relay's own code, once for each, with an identity, a node name, a session and a
//! tunnel of its own.
//!
//! `many-relays GATEWAY-FILE COUNT TARGET FOLDER`, until it is ended. Relay `n7` offers session `n7`, which is TARGET.
#![expect(
    clippy::expect_used,
    reason = "a load of the benchmark that cannot be made ends"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sallyport_link::identity::next_generation;
use sallyport_link::{Dialer, GatewayFile, NodeIdentity, ProxyRules, Settings, backoff};
use sallyport_ops::{Metrics, Ready, Tasks, privileges};
use sallyport_relay::board::{Board, TUNNELS};
use sallyport_relay::config::Config;
use sallyport_relay::keeper;
use sallyport_relay::outfit::{Outfit, Person};
use sallyport_relay::sessions::{Session, Sessions};
use sallyport_relay::streams::Streams;
use sallyport_relay::wanted::Wanted;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::Span;

/// Nodes are not switched on in the same instant.
const BETWEEN: Duration = Duration::from_millis(5);

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, count, target, folder] = args.as_slice() else {
        return;
    };
    privileges::raise_descriptor_limit().expect("up to the hard limit anyone may go");
    let file = GatewayFile::load(Path::new(file)).expect("a gateway file");
    let address = file.gateways.first().expect("one gateway").clone();
    let wanted = Arc::new(Wanted {
        address,
        file: Arc::new(file),
    });
    let (_wishes, seen) = watch::channel(wanted);
    let tasks = Tasks::new();
    for number in 0..count.parse::<u32>().expect("a number") {
        let node = Node {
            name: format!("n{number}"),
            folder: Path::new(folder).join(number.to_string()),
            target,
        };
        let keeping = keeper::keep(Arc::new(node.outfit(&tasks)), seen.clone(), tasks.clone());
        tasks.spawn(Span::none(), keeping);
        sleep(BETWEEN).await;
    }
    std::future::pending::<()>().await;
}

/// What tells one relay from another.
struct Node<'t> {
    name: String,
    folder: PathBuf,
    target: &'t str,
}

impl Node<'_> {
    fn outfit(&self, tasks: &Tasks) -> Outfit {
        fs::create_dir_all(&self.folder).expect("the folder is writable");
        let (config, metrics) = (self.config(), Metrics::new());
        let sessions = config.sessions.iter().cloned();
        let sessions = Sessions::new(sessions.map(|session| Session::new(session, None)));
        let streams = Streams::new(
            config.node.clone(),
            Arc::new(sessions),
            config.limits,
            &metrics,
        );
        let settings = Arc::new(Settings::relay());
        Outfit {
            person: self.person(&config),
            dialer: Dialer::new(settings, ProxyRules::none(), tasks.clone()),
            seed: backoff::seed(),
            choice: config.transport,
            tunnels: config.tunnels,
            limits: config.limits,
            streams: Arc::new(streams),
            board: Board::new(Ready::new(&[TUNNELS]), &metrics),
            leaving: CancellationToken::new(),
        }
    }

    fn person(&self, config: &Config) -> Person {
        Person {
            features: Vec::new(),
            node: config.node.clone(),
            site: config.site.clone(),
            generation: next_generation(&self.folder, SystemTime::now()).expect("a number"),
            identity: NodeIdentity::load_or_create(&self.folder).expect("a key"),
        }
    }

    fn config(&self) -> Config {
        let Self { name, target, .. } = self;
        let text = format!(
            "node = \"{name}\"\ntunnels = 1\n[[session]]\nid = \"{name}\"\nprotocol = \"tcp\"\ntarget = \"{target}\"\naccess = \"public\"\n"
        );
        Config::parse(&text, &self.folder.join("relay.toml")).expect("a configuration")
    }
}
