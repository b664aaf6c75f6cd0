//! A cluster as a site has it: five nodes that only dial out, three NATS servers on them, two gateways, and a client who
//! sees nothing but the gateways. Each of them is killed, cut off or taken away in turn.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sallyport_tests::broker::NatsVersion;
use sallyport_tests::cluster::Cluster;
use sallyport_tests::network::{inside, wait_answer};
use sallyport_tests::{Daemon, Gateway, Lan, Relay, Site, eventually};
use serde_json::Value;

/// The nodes, and the session of each.
const NODES: [(&str, &str); 5] = [
    ("n1", "apple"),
    ("n2", "birch"),
    ("n3", "cedar"),
    ("n4", "daisy"),
    ("n5", "elder"),
];

/// Places of the gateways and of the client on the network, behind those of the nodes.
const GATEWAYS: [usize; 2] = [5, 6];
const CLIENT: usize = 7;

/// NATS servers, on the first nodes.
const SERVERS: usize = 3;

/// Bytes of a long download, and how many of them a second.
const MUCH: usize = 1 << 20;
const RATE: &str = "100k";

struct Five {
    servers: Vec<Option<Daemon>>,
    relays: Vec<Relay>,
    gateways: Vec<Gateway>,
    cluster: Cluster,
    _services: Vec<Daemon>,
    lan: Lan,
    site: Site,
    /// Of the configuration that was made last.
    epoch: u64,
}

impl Five {
    /// All is up, and every session is reached through each gateway.
    fn start() -> Option<Self> {
        let lan = Lan::lay(NODES.len() + GATEWAYS.len() + 1)?;
        let site = Site::new();
        for node in 0..NODES.len() {
            lan.take_only(
                node,
                &[&format!(
                    "ip saddr {{ {} }} tcp dport {{ 4222, 6222 }}",
                    nodes()
                )],
            );
        }
        let services = (0..NODES.len())
            .map(|node| serve(&site, &lan, node))
            .collect();
        let hosts: Vec<_> = (0..SERVERS)
            .map(|node| format!("{}:4222", Lan::address(node)))
            .collect();
        let cluster = Cluster::of(site.path(), &hosts);
        let gateways = gateways(&site, &lan);
        let relays = (0..NODES.len())
            .map(|node| relay(&site, (&lan, node), &gateways, &cluster))
            .collect();
        let mut five = Self {
            servers: (0..SERVERS).map(|_| None).collect(),
            relays,
            gateways,
            cluster,
            _services: services,
            lan,
            site,
            epoch: 0,
        };
        for server in 0..SERVERS {
            five.start_server(server);
        }
        for relay in &mut five.relays {
            relay.start();
        }
        five.wait_whole();
        five.configure(0);
        five.wait_whole();
        Some(five)
    }

    /// Changes the configuration of the cluster from a node.
    fn configure(&mut self, node: usize) {
        self.epoch += 1;
        let path = self.site.path().join("least.js");
        fs::write(&path, format!("() => 'epoch {}'", self.epoch)).expect("writable");
        let path = path.to_str().expect("text");
        let made = self.relays[node].command(&["scripts", "edit", "least", "--file", path]);
        let said = String::from_utf8_lossy(&made.stdout);
        let epoch = format!("epoch {}", self.epoch);
        assert!(made.status.success() && said.contains(&epoch), "{made:?}");
    }

    fn start_server(&mut self, server: usize) {
        let network = self.lan.host(server);
        let started = self
            .cluster
            .serve_inside(server, network, NatsVersion::Debian);
        self.servers[server] = Some(started);
    }

    fn kill_server(&mut self, server: usize) {
        drop(self.servers[server].take());
    }

    /// Every node sees all, with the configuration that was made last, and every session is reached through each gateway.
    fn wait_whole(&self) {
        let all: Vec<_> = NODES.iter().map(|(node, _)| (*node, false)).collect();
        for relay in &self.relays {
            wait_seen(relay, &all);
            let what = format!("{} sees all with epoch {}", relay.node(), self.epoch);
            eventually(&what, || {
                let servers = servers(relay);
                servers.len() == NODES.len()
                    && servers
                        .iter()
                        .all(|server| server["configEpoch"] == self.epoch)
            });
        }
        for gateway in &self.gateways {
            for node in 0..NODES.len() {
                self.wait_reached(gateway, node);
            }
        }
    }

    fn wait_reached(&self, gateway: &Gateway, node: usize) {
        let (name, session) = NODES[node];
        eventually(
            &format!("{session} is reached through {}", gateway.url()),
            || self.get(gateway, session) == (200, name.to_owned()),
        );
    }

    /// Status and body of what a client asks for.
    fn get(&self, gateway: &Gateway, session: &str) -> (u16, String) {
        let mut curl = self.curl(gateway);
        curl.args(["--max-time", "10", "--write-out", "\n%{http_code}"])
            .arg(gateway.session_url(session, "/who"));
        let said = curl.output().expect("curl is installed").stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        let (body, status) = said.rsplit_once('\n').unwrap_or_default();
        (status.parse().unwrap_or(0), body.to_owned())
    }

    fn curl(&self, gateway: &Gateway) -> Command {
        let mut curl = inside(self.lan.host(CLIENT), "curl");
        curl.args(["--silent", "--noproxy", "*", "--cacert"])
            .arg(gateway.certificate());
        curl
    }

    /// A download that takes a while.
    fn download(&self, gateway: usize, node: usize) -> Download {
        let session = NODES[node].1;
        let out = self.site.path().join(format!("down-{gateway}-{session}"));
        let gateway = &self.gateways[gateway];
        let mut args: Vec<_> = ["netns", "exec", self.lan.host(CLIENT), "curl", "--silent"]
            .map(str::to_owned)
            .into();
        args.extend(
            ["--noproxy", "*", "--fail", "--limit-rate", RATE, "--cacert"].map(str::to_owned),
        );
        args.push(gateway.certificate().display().to_string());
        args.push("--output".to_owned());
        args.push(out.display().to_string());
        args.push(gateway.session_url(session, "/much"));
        let curl = Daemon::start(Path::new("ip"), &args, &out.with_extension("log"));
        eventually("the first bytes come", || {
            fs::metadata(&out).is_ok_and(|file| file.len() > 0)
        });
        Download { curl, out }
    }
}

/// A client's download.
struct Download {
    curl: Daemon,
    out: PathBuf,
}

impl Download {
    /// It came to its end, with every byte.
    fn ends_whole(mut self) {
        let ended = self.curl.wait();
        assert!(ended.success(), "{}: {ended}", self.out.display());
        let came = fs::read(&self.out).expect("curl wrote it");
        assert!(
            came == much(),
            "{}: {} bytes",
            self.out.display(),
            came.len()
        );
    }
}

/// Bytes of which none can be taken for its neighbour.
fn much() -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(MUCH).collect()
}

fn nodes() -> String {
    let all: Vec<_> = (0..NODES.len()).map(Lan::address).collect();
    all.join(", ")
}

/// A web server of a node, for nobody but the node.
fn serve(site: &Site, lan: &Lan, node: usize) -> Daemon {
    let (name, network) = (NODES[node].0, lan.host(node));
    let root = site.path().join(format!("files-{name}"));
    fs::create_dir_all(&root).expect("writable");
    fs::write(root.join("who"), name).expect("writable");
    fs::write(root.join("much"), much()).expect("writable");
    let root = root.display().to_string();
    let args = [
        "netns",
        "exec",
        network,
        "python3",
        "-m",
        "http.server",
        "--protocol",
        "HTTP/1.1",
        "--bind",
        "127.0.0.1",
        "-d",
        &root,
        "8000",
    ];
    let log = site.path().join(format!("service-{name}.log"));
    let service = Daemon::start(Path::new("ip"), &args, &log);
    wait_answer(network, "http://127.0.0.1:8000/who");
    service
}

/// Two gateways that share their keys.
fn gateways(site: &Site, lan: &Lan) -> Vec<Gateway> {
    let address = GATEWAYS.map(Lan::address);
    let first = site.gateway_init("gw-1", &address[0], &[]);
    let file = first.path().join("gateway.json").display().to_string();
    let second = site.gateway_init("gw-2", &address[1], &["--join", &file]);
    let mut gateways = vec![first, second];
    for (gateway, host) in gateways.iter_mut().zip(GATEWAYS) {
        gateway.enter(lan.host(host));
        gateway.start();
        gateway.wait_ready();
    }
    gateways
}

fn relay(
    site: &Site,
    (lan, node): (&Lan, usize),
    gateways: &[Gateway],
    cluster: &Cluster,
) -> Relay {
    let (name, session) = NODES[node];
    let session = format!(
        "[[session]]\nid = \"{session}\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:8000\"\naccess = \"public\"\n"
    );
    let files: Vec<_> = gateways.iter().collect();
    let mut relay = site.relay_stopped(name, &files, &session);
    cluster.copy_to(&relay);
    relay.enter(lan.host(node));
    relay
}

/// Nodes, and whether they are taken for stale.
type Seen = Vec<(&'static str, bool)>;

/// Which nodes a relay sees, and whether it takes them for stale.
fn seen(relay: &Relay) -> Vec<(String, bool)> {
    let row = |server: &Value| {
        let name = server["serverId"].as_str().unwrap_or_default().to_owned();
        (name, server["stale"] == true)
    };
    servers(relay).iter().map(row).collect()
}

fn servers(relay: &Relay) -> Vec<Value> {
    let servers = relay.command(&["servers", "--json"]).stdout;
    serde_json::from_slice(&servers).unwrap_or_default()
}

fn wait_seen(relay: &Relay, wanted: &[(&str, bool)]) {
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(name, stale)| ((*name).to_owned(), *stale))
        .collect();
    eventually(&format!("{} sees {wanted:?}", relay.node()), || {
        seen(relay) == wanted
    });
}

/// What those who see each other see, and what one who is alone does.
fn apart(alone: &str) -> (Seen, Seen) {
    let names = NODES.map(|(name, _)| name);
    let others = names.into_iter().filter(|name| *name != alone);
    let alone = names.into_iter().map(|name| (name, name != alone));
    (others.map(|name| (name, false)).collect(), alone.collect())
}

#[test]
fn nobody_but_the_gateways_is_reached_and_every_session_through_either() {
    let Some(five) = Five::start() else { return };

    for node in 0..NODES.len() {
        let address = Lan::address(node);
        for port in ["8000", "4222", "3300"] {
            let url = format!("http://{address}:{port}/");
            let mut curl = inside(five.lan.host(CLIENT), "curl");
            curl.args(["--silent", "--noproxy", "*", "--max-time", "1", &url]);
            assert_eq!(
                curl.output().expect("curl is installed").status.code(),
                Some(28),
                "{url}"
            );
        }
    }
    for relay in &five.relays {
        let status = relay.status().expect("it runs");
        let tunnels = status["tunnels"].as_array().expect("a list");
        assert_eq!(tunnels.len(), 4, "two to each gateway");
        assert_eq!(status["store"]["ready"], true);
    }
}

#[test]
fn a_node_a_server_and_a_gateway_are_killed_in_turn_and_nothing_else_is_lost() {
    let Some(mut five) = Five::start() else {
        return;
    };

    // a NATS server: nobody notices
    let downloads: Vec<_> = (0..NODES.len())
        .map(|node| five.download(node % 2, node))
        .collect();
    five.kill_server(1);
    five.wait_whole();
    five.start_server(1);
    for download in downloads {
        download.ends_whole();
    }

    // a node: its session alone is away, and comes back with it
    let downloads = [0, 1, 3, 4].map(|node| five.download(node % 2, node));
    five.relays[2].daemon().kill();
    for gateway in &five.gateways {
        eventually("the session's clients are told", || {
            five.get(gateway, "cedar").0 == 503
        });
    }
    let (others, _) = apart("n3");
    wait_seen(&five.relays[0], &others);
    for node in [0, 1, 3, 4] {
        assert_eq!(five.get(&five.gateways[0], NODES[node].1).0, 200);
    }
    five.configure(0);
    five.relays[2].start();
    five.wait_whole();
    for download in downloads {
        download.ends_whole();
    }

    // a gateway: the other one serves all, and streams on it go on
    let downloads: Vec<_> = (0..NODES.len())
        .map(|node| five.download(0, node))
        .collect();
    five.gateways[1].daemon().kill();
    for (node, session) in NODES {
        assert_eq!(five.get(&five.gateways[0], session), (200, node.to_owned()));
    }
    five.configure(3);
    five.gateways[1].start();
    five.gateways[1].wait_ready();
    five.wait_whole();
    for download in downloads {
        download.ends_whole();
    }
}

#[test]
fn a_partition_is_seen_from_both_sides_and_heals() {
    let Some(mut five) = Five::start() else {
        return;
    };
    let all_nodes = format!("ip saddr {{ {} }}", nodes());
    let (without, alone) = apart("n5");

    five.lan.drop_at(4, &all_nodes);
    wait_seen(&five.relays[0], &without);
    wait_seen(&five.relays[4], &alone);

    // its way to the gateways is another one
    for gateway in &five.gateways {
        assert_eq!(five.get(gateway, "elder"), (200, "n5".to_owned()));
    }
    five.configure(1);
    five.lan.heal(4);
    five.wait_whole();

    // now a node with a server: two of three go on
    let (without, alone) = apart("n1");
    five.lan.drop_at(0, &all_nodes);
    wait_seen(&five.relays[3], &without);
    wait_seen(&five.relays[0], &alone);
    for gateway in &five.gateways {
        assert_eq!(five.get(gateway, "apple"), (200, "n1".to_owned()));
    }
    five.lan.heal(0);
    five.wait_whole();
}

#[test]
fn nats_is_gone_for_a_while_and_streams_run_on() {
    nats_is_gone_for(Duration::ZERO);
}

#[test]
#[ignore = "takes four minutes"]
fn nats_is_gone_for_minutes_and_streams_run_on() {
    nats_is_gone_for(Duration::from_secs(180));
}

/// For as long, and at least until every node knows.
fn nats_is_gone_for(time: Duration) {
    let Some(mut five) = Five::start() else {
        return;
    };
    let begun = Instant::now();
    let mut downloads: Vec<_> = (0..NODES.len())
        .map(|node| five.download(0, node))
        .collect();
    for server in 0..SERVERS {
        five.kill_server(server);
    }
    for (relay, (node, _)) in five.relays.iter().zip(NODES) {
        wait_seen(relay, &apart(node).1);
        let status = relay.status().expect("it runs");
        assert_eq!(status["store"]["step"], "tcp", "{status}");
    }
    loop {
        for gateway in &five.gateways {
            for (node, session) in NODES {
                assert_eq!(five.get(gateway, session), (200, node.to_owned()));
            }
        }
        for download in downloads.drain(..) {
            download.ends_whole();
        }
        if begun.elapsed() >= time {
            break;
        }
        downloads = (0..NODES.len())
            .map(|node| five.download(1, node))
            .collect();
    }

    for server in 0..SERVERS {
        five.start_server(server);
    }
    five.wait_whole();
}
