//! A pool of ssh servers whose clients the login chain distributes, whichever node their streams come to first.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{ErrorKind, Read as _};

use sallyport_tests::broker::NatsVersion;
use sallyport_tests::cluster::Cluster;
use sallyport_tests::member::{connect, service, source, visit};
use sallyport_tests::{Daemon, Gateway, Port, Relay, Site, eventually};
use serde_json::Value;

const NODES: [&str; 3] = ["a", "b", "c"];

struct Pool {
    relays: [Relay; 3],
    port: Port,
    _gateway: Gateway,
    _server: Daemon,
    _ports: Vec<Port>,
    site: Site,
}

impl Pool {
    /// Three nodes that share a broker, each with a member that says the node's name.
    fn start() -> Self {
        Self::with(service)
    }

    /// With members at these ports.
    fn with(member: impl Fn(&'static str) -> u16) -> Self {
        let site = Site::new();
        let cluster = Cluster::single(site.path());
        let server = cluster.serve(0, NatsVersion::Debian);
        let port = Port::reserve();
        let listen = format!(
            "[[tcp]]\nlisten = \"127.0.0.1:{}\"\npool = \"ssh\"\n",
            port.number()
        );
        let gateway = site.gateway_with("gw", "127.0.0.1", &listen);
        let mut ports = Vec::new();
        let relays = NODES.map(|node| {
            let direct = Port::reserve();
            let config = format!(
                "[direct]\nlisten = \"127.0.0.1:{}\"\n[[session]]\nid = \"ssh-{node}\"\nprotocol = \"tcp\"\n\
                 target = \"127.0.0.1:{}\"\naccess = \"public\"\npool = \"ssh\"\nbalance = \"login\"\n",
                direct.number(),
                member(node),
            );
            ports.push(direct);
            let relay = site.relay_stopped(node, &[&gateway], &config);
            cluster.copy_to(&relay);
            relay.started()
        });
        for node in NODES {
            gateway.wait_session(&format!("ssh-{node}"));
        }
        let pool = Self {
            relays,
            port,
            _gateway: gateway,
            _server: server,
            _ports: ports,
            site,
        };
        for relay in &pool.relays {
            eventually("each node sees all", || seen(relay) == 3);
        }
        pool
    }

    /// The chain for logins is this script.
    fn decide_by(&self, source: &str) {
        let path = self.site.path().join("ours.js");
        fs::write(&path, source).expect("writable");
        let [one, ..] = &self.relays;
        let edit = [
            "scripts",
            "edit",
            "ours",
            "--file",
            path.to_str().expect("text"),
        ];
        let said = [&edit[..], &["scripts", "chain", "login", "ours"]].map(|args| {
            let output = one.command(args);
            assert!(output.status.success(), "{output:?}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        });
        let epoch = said[1].split_once("epoch ").expect("it is said").1;
        let epoch = epoch
            .split(' ')
            .next()
            .and_then(|word| word.parse::<u64>().ok());
        let epoch = epoch.expect("a number");
        for relay in &self.relays {
            let what = format!("{} has the script", relay.node());
            eventually(&what, || config_epoch(relay) == epoch);
        }
    }

    /// The node to which a client comes.
    fn visit(&self, client: u8) -> String {
        let said = visit(self.port.number(), source(client));
        said.strip_suffix(" hello").unwrap_or_default().to_owned()
    }

    /// Whether a client is sent away without a word.
    fn refuses(&self, client: u8) -> bool {
        let mut stream = connect(self.port.number(), source(client));
        let mut said = Vec::new();
        let ended = stream.read_to_end(&mut said);
        said.is_empty() && ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    }
}

fn servers(relay: &Relay) -> Vec<Value> {
    let said = relay.command(&["servers", "--json"]).stdout;
    serde_json::from_slice(&said).unwrap_or_default()
}

fn seen(relay: &Relay) -> usize {
    servers(relay).len()
}

fn config_epoch(relay: &Relay) -> u64 {
    let epochs = servers(relay).into_iter();
    let own = epochs.filter(|server| server["serverId"] == relay.node());
    own.filter_map(|server| server["configEpoch"].as_u64())
        .sum()
}

fn set(relay: &Relay, login: &str) {
    let output = relay.command(&["set", "login-enabled", login]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_login_chain_chooses_the_node_of_each_client_of_a_pool() {
    let pool = Pool::start();
    pool.decide_by(
        "input => { if (input.data.pool === 'ssh' && input.user.login === '') return 'b' }",
    );
    for client in 1..=6 {
        assert_eq!(pool.visit(client), "b", "whichever node it came to first");
    }
    let text = "input => { if (input.data.client === '127.0.1.1') throw 'not you'; return input.servers[0].serverId }";
    pool.decide_by(text);
    assert_eq!(pool.visit(7), "a");
    assert_eq!(pool.visit(1), "b", "it comes back to where it was");

    let [_, b, _] = &pool.relays;
    set(b, "off");
    for relay in &pool.relays {
        eventually("all know that b takes none", || {
            servers(relay)
                .iter()
                .any(|server| server["serverId"] == "b" && server["loginEnabled"] == false)
        });
    }
    assert_eq!(pool.visit(2), "a", "its node takes nobody any more");
    assert!(pool.refuses(1), "it is thrown out");
}

#[test]
fn a_member_that_takes_nobody_is_given_up_for_the_next_one() {
    // nothing listens where the member of a should be
    let nobody = Port::reserve();
    let pool = Pool::with(|node| {
        if node == "a" {
            nobody.number()
        } else {
            service(node)
        }
    });
    pool.decide_by("input => input.servers.map(server => server.serverId).sort()[0]");
    for client in 1..=6 {
        assert_eq!(pool.visit(client), "b", "whichever node it came to first");
    }
    let traces = pool.relays.each_ref().map(|relay| {
        let said = relay.command(&["scripts", "trace", "--json"]).stdout;
        serde_json::from_slice::<Vec<Value>>(&said).expect("a list")
    });
    let tried: Vec<_> = traces
        .concat()
        .iter()
        .map(|trace| trace["attempts"].clone())
        .collect();
    assert_eq!(tried, [2; 6].map(Value::from), "a first");
}
