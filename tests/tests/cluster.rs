//! Relays and their cluster's store: embedded without further ado, or a broker that `cluster init` has set up; named step
//! by step when it cannot be used, and never waited for.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sallyport_tests::broker::NatsVersion;
use sallyport_tests::service::wait_listening;
use sallyport_tests::{Daemon, Port, Relay, Site, eventually, eventually_some, program, run_ok};
use serde_json::Value;

/// A cluster that `cluster init` has written, on one server.
struct Cluster {
    folder: PathBuf,
    port: Port,
}

impl Cluster {
    fn init(site: &Site) -> (Self, String) {
        let (folder, port) = (site.path().join("cluster"), Port::reserve());
        let said = run_ok(&mut init(&folder, &[&port], site.path()));
        (Self { folder, port }, said)
    }

    /// Its server, started as `init` says: in its folder, with the file as it was written.
    fn serve(&self, version: NatsVersion) -> Daemon {
        let folder = self
            .folder
            .join(format!("nats-127.0.0.1_{}", self.port.number()));
        let log = folder.join("log");
        let server = Daemon::start_with(
            &version.program(),
            &["-c", "nats-server.conf"],
            &log,
            |command| {
                command.current_dir(&folder);
            },
        );
        wait_listening(self.port.number());
        server
    }

    /// Puts what nodes need beside a relay's configuration.
    fn copy_to(&self, relay: &Relay) {
        for name in ["broker.json", "cluster-ca.pem", "cluster-keys.json"] {
            fs::copy(self.folder.join(name), relay.path().join(name)).expect("init wrote it");
        }
    }
}

fn init(folder: &Path, ports: &[&Port], site: &Path) -> Command {
    let mut command = Command::new(program("sallyport-relay"));
    command.args(["cluster", "init"]);
    for port in ports {
        command.args(["--host", &format!("127.0.0.1:{}", port.number())]);
    }
    command
        .arg("--dir")
        .arg(folder)
        .arg("--data")
        .arg(site.join("nats-data"));
    command
}

fn alone(site: &Site, node: &str) -> Relay {
    site.relay_stopped(node, &[], "")
}

/// What status shows of the store, once it is as wanted.
fn store_when(relay: &Relay, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually_some(what, || {
        let store = relay.status()?.get("store")?.clone();
        wanted(&store).then_some(store)
    })
}

fn wait_ready(relay: &Relay) {
    store_when(relay, "the store can be used", |store| {
        store["ready"] == true
    });
}

fn findings(output: &Output) -> Vec<Value> {
    serde_json::from_slice(&output.stdout).expect("an array")
}

fn of_broker(output: &Output) -> Vec<(String, String)> {
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings = findings(output).into_iter();
    findings
        .filter(|finding| word(finding, "gateway").starts_with("broker "))
        .map(|finding| (word(&finding, "step"), word(&finding, "verdict")))
        .collect()
}

#[test]
fn without_a_broker_each_relay_has_a_store_of_its_own() {
    let site = Site::new();
    let mut relay = alone(&site, "n1").started();
    wait_ready(&relay);
    let status = relay.status().expect("it runs");
    assert_eq!(status["store"]["transporter"], "embedded");
    assert!(relay.path().join("state/store.redb").exists());

    // a crash leaves nothing to mend
    relay.daemon().kill();
    relay.start();
    wait_ready(&relay);

    let mut second = Command::new(program("sallyport-relay"));
    let other = alone(&site, "n2");
    second.args(["run", "--config"]).arg(other.config());
    second.env("SALLYPORT_STATE_DIR", relay.path().join("state"));
    let refused = second.output().expect("it runs");
    let said = [refused.stdout, refused.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("in use by another process"), "{said}");
}

#[test]
fn what_init_writes_makes_a_cluster_as_it_stands() {
    for version in [NatsVersion::Debian, NatsVersion::Current] {
        let site = Site::new();
        let (cluster, said) = Cluster::init(&site);
        assert!(
            said.contains("nft add rule") && said.contains("broker.json"),
            "{said}"
        );
        let server = cluster.serve(version);
        let relays = ["n1", "n2"].map(|node| {
            let relay = alone(&site, node);
            cluster.copy_to(&relay);
            relay
        });

        let doctor = relays[0].command(&["doctor", "--json"]);
        let steps = of_broker(&doctor);
        let good = ["dns", "tcp", "tls", "credentials", "storage", "namespace"];
        let good = good.map(|step| (step.to_owned(), "ok".to_owned()));
        assert_eq!(steps.get(..6), Some(&good[..]), "{steps:?}");

        for mut relay in relays {
            relay.start();
            wait_ready(&relay);
            assert_eq!(
                relay.status().expect("it runs")["store"]["transporter"],
                "nats"
            );
        }
        drop(server);
    }
}

#[test]
fn a_broker_that_is_away_is_named_and_nobody_waits_for_it() {
    let site = Site::new();
    let (cluster, _said) = Cluster::init(&site);
    let relay = alone(&site, "n1");
    cluster.copy_to(&relay);

    let relay = relay.started();

    let at_tcp = |store: &Value| store["ready"] == false && store["step"] == "tcp";
    let store = store_when(&relay, "status names the step", at_tcp);
    assert!(
        store["host"]
            .as_str()
            .is_some_and(|host| host.contains("127.0.0.1")),
        "{store}"
    );
    let text = relay.command(&["status"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("store (nats): 127.0.0.1") && text.contains("fails at tcp"),
        "{text}"
    );
    let doctor = relay.command(&["doctor", "--json"]);
    assert_eq!(
        of_broker(&doctor).last(),
        Some(&("tcp".to_owned(), "fail".to_owned()))
    );

    let mut server = cluster.serve(NatsVersion::Debian);
    wait_ready(&relay);
    server.kill();
    store_when(&relay, "status names the step again", at_tcp);
    let _server = cluster.serve(NatsVersion::Debian);
    wait_ready(&relay);
}

#[test]
fn readiness_names_the_store() {
    let site = Site::new();
    let (cluster, _said) = Cluster::init(&site);
    let relay = alone(&site, "n1");
    cluster.copy_to(&relay);
    let relay = relay.started();
    let readyz = || {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "--unix-socket"]);
        let asked = curl
            .arg(relay.path().join("relay.sock"))
            .arg("http://admin/readyz");
        let said = asked.output().expect("curl is installed").stdout;
        String::from_utf8_lossy(&said).into_owned()
    };
    eventually("readiness names the step", || {
        let said = readyz();
        said.contains("store") && said.contains("tcp")
    });
}

#[test]
fn a_wrong_file_is_refused_with_the_fix() {
    let site = Site::new();
    let (cluster, _said) = Cluster::init(&site);
    let relay = alone(&site, "n1");
    cluster.copy_to(&relay);
    let broker = relay.path().join("broker.json");
    let right = fs::read_to_string(&broker).expect("init wrote it");

    for (wrong, part) in [
        (right.replace("hosts", "hots"), "hots"),
        (right.replace("cluster-ca.pem", "other.pem"), "other.pem"),
        (right.replace("\"nats\"", "\"redis\""), "Redis"),
    ] {
        fs::write(&broker, wrong).expect("our own file");
        for command in ["run", "check"] {
            let refused = relay.command(&[command]);
            let said = [refused.stdout, refused.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert_eq!(refused.status.code(), Some(78), "{command}: {said}");
            assert!(said.contains(part), "{command}: {said}");
        }
    }
}

#[test]
fn init_never_overwrites_and_refuses_what_makes_no_cluster() {
    let site = Site::new();
    let (cluster, _said) = Cluster::init(&site);
    let before = fs::read(cluster.folder.join("broker.json")).expect("init wrote it");

    let again = init(&cluster.folder, &[&cluster.port], site.path()).output();
    let again = again.expect("it runs");
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("never overwrites"));
    assert_eq!(
        fs::read(cluster.folder.join("broker.json")).expect("it is there"),
        before
    );

    let two = [&Port::reserve(), &Port::reserve()];
    let refused = init(&site.path().join("two"), &two, site.path()).output();
    assert_eq!(refused.expect("it runs").status.code(), Some(64));
    assert!(!site.path().join("two").exists());
}

#[test]
fn three_servers_take_what_init_writes() {
    let site = Site::new();
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    let folder = site.path().join("cluster");
    run_ok(&mut init(
        &folder,
        &[&ports[0], &ports[1], &ports[2]],
        site.path(),
    ));

    for port in &ports {
        let own = folder.join(format!("nats-127.0.0.1_{}", port.number()));
        let mut check = Command::new(NatsVersion::Debian.program());
        check
            .args(["-t", "-c", "nats-server.conf"])
            .current_dir(&own);
        let said = check.output().expect("it runs");
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(
            said.status.success(),
            "the server takes what was written: {text}"
        );
    }
}
