//! A node that is drained from another one, by the broker that both share.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::thread;

use rustix::process::Signal;
use sallyport_tests::broker::NatsVersion;
use sallyport_tests::cluster::Cluster;
use sallyport_tests::daemon::Daemon;
use sallyport_tests::service::{Certificate, Nginx};
use sallyport_tests::{Endless, Port, Relay, Site, eventually};
use serde_json::Value;

/// Two nodes, and clients that come to the second one itself.
struct Nodes {
    one: Relay,
    two: Relay,
    port: Port,
    certificate: Certificate,
    nginx: Nginx,
    _server: Daemon,
    _cluster: Cluster,
    _site: Site,
}

fn nodes() -> Nodes {
    let site = Site::new();
    let cluster = Cluster::single(site.path());
    let server = cluster.serve(0, NatsVersion::Debian);
    let nginx = Nginx::start(site.path(), "");
    let certificate = Certificate::make(site.path(), "node", "DNS:localhost");
    let port = Port::reserve();
    let config = format!(
        "[direct]\nlisten = \"127.0.0.1:{number}\"\nurl = \"https://localhost:{number}\"\ncert = \"{}\"\nkey = \"{}\"\n\
         [[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{}\"\naccess = \"public\"\n",
        certificate.cert.display(),
        certificate.key.display(),
        nginx.port.number(),
        number = port.number(),
    );
    let start = |node, config: &str| {
        let relay = site.relay_stopped(node, &[], config);
        cluster.copy_to(&relay);
        relay.started()
    };
    // one that does not hear the others all the time asks them as well
    let one = start("one", "[cluster]\nobserve = false\n");
    let two = start("two", &config);
    let nodes = Nodes {
        one,
        two,
        port,
        certificate,
        nginx,
        _server: server,
        _cluster: cluster,
        _site: site,
    };
    eventually("they hear each other", || nodes.heard("two").is_some());
    nodes
}

impl Nodes {
    /// What the first node hears of another.
    fn heard(&self, node: &str) -> Option<Value> {
        let servers = self.one.command(&["servers", "--json"]).stdout;
        let servers: Vec<Value> = serde_json::from_slice(&servers).ok()?;
        servers
            .into_iter()
            .find(|server| server["serverId"] == node)
    }

    /// A command of the first node that does its work.
    fn told(&self, args: &[&str]) -> Value {
        let done = self.one.command(&[args, &["--json"]].concat());
        assert!(done.status.success(), "{args:?}: {done:?}");
        serde_json::from_slice(&done.stdout).expect("JSON")
    }

    fn refused(&self, args: &[&str]) -> String {
        let done = self.one.command(args);
        assert_eq!(done.status.code(), Some(1), "{args:?}: {done:?}");
        String::from_utf8_lossy(&done.stderr).into_owned()
    }

    /// Whether the second node has it in its settings that it drains.
    fn drains(&self) -> bool {
        let settings = self.two.command(&["set", "--json"]).stdout;
        let settings: Value = serde_json::from_slice(&settings).unwrap_or_default();
        settings["drain"].is_object()
    }

    /// A client of the second node that does not end.
    fn client(&self) -> Endless {
        Endless::lay(&self.nginx.root);
        let url = format!("https://localhost:{}/s/web/large", self.port.number());
        let client = Endless::of(&url, &self.certificate.cert);
        eventually("its stream is counted", || {
            self.heard("two").is_some_and(|two| two["streams"] == 1)
        });
        client
    }
}

#[test]
fn another_node_is_drained_and_let_go_on_and_knows_who_asked() {
    let mut nodes = nodes();

    let drained = nodes.told(&["drain", "two", "--deadline", "1h"]);

    assert_eq!(
        (&drained["node"], &drained["draining"]),
        (&"two".into(), &true.into())
    );
    assert!(
        drained["since"].is_string() && drained["deadline"].is_string(),
        "{drained}"
    );
    assert!(nodes.drains());
    let log = nodes.two.log();
    assert!(
        log.contains("the node drains") && log.contains("from node one"),
        "{log}"
    );
    eventually("all hear of it", || {
        let two = nodes.heard("two").unwrap_or_default();
        two["draining"] == true && two["drainDeadline"].is_i64()
    });
    assert_eq!(nodes.heard("one").expect("this node")["draining"], false);

    let waited = nodes.told(&["drain", "two", "--wait"]);
    assert_eq!(
        waited["deadline"], drained["deadline"],
        "users were told so"
    );

    assert!(nodes.two.daemon().terminate().success());
    nodes.two.start();
    eventually("it is there again, and drains", || {
        nodes.two.status().is_some() && nodes.drains()
    });
    eventually("the other one hears it", || nodes.heard("two").is_some());
    let over = nodes.told(&["undrain", "two"]);
    assert_eq!(over["draining"], false);
    assert!(!nodes.drains());
}

#[test]
fn a_command_waits_until_another_node_is_empty_or_the_deadline_has_passed() {
    let nodes = nodes();
    let client = nodes.client();

    let late = nodes.refused(&["drain", "two", "--deadline", "0s", "--wait"]);
    assert!(late.contains("1 streams are left"), "{late}");
    nodes.told(&["undrain", "two"]);

    thread::scope(|scope| {
        let waiting = scope.spawn(|| nodes.told(&["drain", "two", "--wait"]));
        eventually("it drains", || nodes.drains());
        assert!(!waiting.is_finished());
        drop(client);
        let done = waiting.join().expect("it ended");
        assert_eq!(
            (&done["draining"], &done["streams"]),
            (&true.into(), &0.into())
        );
    });

    let other = nodes.client();
    nodes.told(&["undrain", "two"]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| nodes.refused(&["drain", "two", "--wait"]));
        eventually("it drains", || nodes.drains());
        let ended = nodes.two.command(&["undrain", "two"]);
        assert!(ended.status.success(), "{ended:?}");
        let said = waiting.join().expect("it ended");
        assert!(said.contains("somebody ended the drain"), "{said}");
    });
    drop(other);
}

#[test]
fn a_node_that_is_not_there_or_does_not_answer_is_told_of() {
    let mut nodes = nodes();

    let unknown = nodes.refused(&["drain", "three"]);
    assert!(unknown.contains("no node three is heard"), "{unknown}");
    let wrong = nodes.refused(&["drain", "two", "--deadline", "9999h"]);
    assert!(wrong.contains("8784 hours"), "{wrong}");

    nodes.two.daemon().signal(Signal::STOP);
    let silent = nodes.one.command(&["drain", "two"]);
    nodes.two.daemon().signal(Signal::CONT);
    let said = String::from_utf8_lossy(&silent.stderr).into_owned();
    let heard_no_more = said.contains("no node two is heard");
    assert!(
        heard_no_more || said.contains("did not answer within 5 s"),
        "{said}"
    );
}
