//! `sallyport-relay doctor`: which step it blames, and what it says to change and where.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use sallyport_tests::service::wait_listening;
use sallyport_tests::{
    Cable, Daemon, Gateway, Port, Relay, Site, client, eventually, network, program,
};
use serde_json::Value;

const WEB: &str = "[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:9\"\naccess = \"public\"\n";

/// Every step of a way without a proxy.
const ALL: [&str; 6] = ["dns", "tcp", "tls", "clock", "auth", "udp"];

/// What doctor found at a gateway, and its exit code.
struct Found {
    steps: Vec<Value>,
    exit: Option<i32>,
}

impl Found {
    fn of(output: &Output) -> Self {
        let all: Vec<Value> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let at_a_gateway = |step: &Value| !field(step, "gateway").is_empty();
        Self {
            steps: all.into_iter().filter(at_a_gateway).collect(),
            exit: output.status.code(),
        }
    }

    fn is_well(&self) -> bool {
        self.steps.iter().all(|step| field(step, "verdict") == "ok")
    }

    fn names(&self) -> Vec<&str> {
        self.steps.iter().map(|step| field(step, "step")).collect()
    }

    /// The one step that did not go well, which must be `name`.
    fn blames(&self, name: &str, verdict: &str) -> &Value {
        let bad: Vec<_> = self
            .steps
            .iter()
            .filter(|step| field(step, "verdict") != "ok")
            .collect();
        let only = bad.first().filter(|_| bad.len() == 1);
        let step = only.unwrap_or_else(|| panic!("one step is to blame: {:?}", self.steps));
        assert_eq!(
            (field(step, "step"), field(step, "verdict")),
            (name, verdict),
            "{step}"
        );
        step
    }
}

fn field<'v>(step: &'v Value, name: &str) -> &'v str {
    step.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn doctor(relay: &Relay) -> Found {
    Found::of(&relay.command(&["doctor", "--json"]))
}

/// The numbers of the tunnels that are connected.
fn tunnels(gateway: &Gateway) -> Vec<Value> {
    let status = gateway.status().expect("it runs");
    let tunnels = status.get("tunnels").and_then(Value::as_array);
    let id = |tunnel: &Value| tunnel.get("id").cloned();
    tunnels.into_iter().flatten().filter_map(id).collect()
}

/// A relay that has been there before, so that it has a key, and has ended.
fn known(site: &Site, gateway: &Gateway) -> Relay {
    let mut relay = site.relay("node-a", gateway, &format!("proxy = \"none\"\n{WEB}"));
    gateway.wait_session("web");
    assert!(relay.daemon().terminate().success());
    relay
}

/// Changes the relay's copy of the gateway's file.
fn change_file(relay: &Relay, gateway: &Gateway, from: &str, to: &str) {
    let path = relay
        .path()
        .join(format!("gateways/{}.json", gateway.port()));
    let text = fs::read_to_string(&path).expect("it was copied there");
    assert!(text.contains(from), "{from}");
    fs::write(&path, text.replace(from, to)).expect("writable");
}

#[test]
fn all_is_well_beside_a_running_relay_and_without_it() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let mut relay = known(&site, &gateway);

    let alone = doctor(&relay);
    assert_eq!(
        (alone.names().as_slice(), alone.exit),
        (&ALL[..], Some(0)),
        "{:?}",
        alone.steps
    );

    relay.start();
    gateway.wait_session("web");
    let before = tunnels(&gateway);
    let beside = doctor(&relay);
    assert_eq!(
        (beside.names().as_slice(), beside.exit),
        (&ALL[..], Some(0)),
        "{:?}",
        beside.steps
    );
    assert!(alone.is_well() && beside.is_well());
    let after = tunnels(&gateway);
    assert!(
        before.iter().all(|tunnel| after.contains(tunnel)),
        "doctor does not disturb the relay: {before:?}, {after:?}"
    );
    drop(gateway.wait_for_line(&["dry run", "node-a"]));
    let log = gateway.log();
    let of_relays = |line: &&str| line.contains("sallyport_gateway::arrive");
    let alarms: Vec<_> = log
        .lines()
        .filter(of_relays)
        .filter(|line| line.contains("WARN"))
        .collect();
    assert!(alarms.is_empty(), "{alarms:?}");

    let text = relay.command(&["doctor"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains(gateway.url()) && !text.contains("FAIL"),
        "{text}"
    );
}

#[test]
fn before_the_first_start_all_is_tested_and_nothing_is_bound() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let mut relay = site.relay_stopped("node-a", &[&gateway], &format!("proxy = \"none\"\n{WEB}"));

    let found = doctor(&relay);

    assert_eq!(
        (found.names().as_slice(), found.exit),
        (&ALL[..], Some(0)),
        "{:?}",
        found.steps
    );
    assert!(found.is_well(), "{:?}", found.steps);
    assert!(!relay.path().join("state").exists(), "doctor makes no key");
    let known = gateway.command(&["relays", "--json"]);
    assert_eq!(String::from_utf8_lossy(&known.stdout).trim(), "[]");

    relay.start();
    gateway.wait_session("web");
}

#[test]
fn a_name_that_another_node_holds() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let relay = known(&site, &gateway);
    fs::remove_dir_all(relay.path().join("state")).expect("the node is installed anew");

    let found = doctor(&relay);

    let cure = field(found.blames("auth", "fail"), "cure");
    assert!(cure.contains("relays forget"), "{cure}");
    assert_eq!((found.names().as_slice(), found.exit), (&ALL[..], Some(1)));
}

#[test]
fn a_full_gateway() {
    let site = Site::new();
    let gateway = site.gateway_with("gw", "127.0.0.1", "[tunnels]\nnames = 1\n");
    let _only = site.relay("node-b", &gateway, &format!("proxy = \"none\"\n{WEB}"));
    gateway.wait_session("web");
    let relay = site.relay_stopped("node-a", &[&gateway], "proxy = \"none\"\n");

    let found = doctor(&relay);

    let cure = field(found.blames("auth", "fail"), "cure");
    assert!(cure.contains("tunnels.names"), "{cure}");
}

#[test]
fn a_name_that_does_not_resolve() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let relay = known(&site, &gateway);
    change_file(
        &relay,
        &gateway,
        "https://127.0.0.1",
        "https://nowhere.invalid",
    );

    let found = doctor(&relay);

    let cure = field(found.blames("dns", "fail"), "cure");
    assert!(
        cure.contains("nowhere.invalid") && cure.contains("/etc/hosts"),
        "{cure}"
    );
    assert_eq!((found.names(), found.exit), (vec!["dns"], Some(1)));
    let text = relay.command(&["doctor"]);
    assert_eq!(text.status.code(), Some(1));
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("FAIL") && text.contains("What to do:") && text.contains("/etc/hosts"),
        "{text}"
    );
}

#[test]
fn nothing_listens() {
    let site = Site::new();
    let mut gateway = site.gateway("gw");
    let relay = known(&site, &gateway);
    gateway.daemon().kill();

    let found = doctor(&relay);

    let cure = field(found.blames("tcp", "fail"), "cure");
    assert!(
        cure.contains(&gateway.port().to_string()) && cure.contains("firewall"),
        "{cure}"
    );
    assert_eq!((found.names(), found.exit), (vec!["dns", "tcp"], Some(1)));
}

#[test]
fn another_key_than_the_pinned_one() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let other = site.gateway("other");
    let relay = known(&site, &gateway);
    let pin = |of: &Gateway| {
        let text = fs::read(of.path().join("gateway.json")).expect("init wrote it");
        let file: Value = serde_json::from_slice(&text).expect("JSON");
        let pin = file.pointer("/gateways/0/pins/0").and_then(Value::as_str);
        pin.expect("a pin").to_owned()
    };
    change_file(&relay, &gateway, gateway.url(), other.url());

    let found = doctor(&relay);

    let step = found.blames("tls", "fail");
    let seen = field(step, "seen");
    assert!(
        seen.contains(&pin(&gateway)) && seen.contains(&pin(&other)),
        "{seen}"
    );
    assert!(field(step, "cure").contains("gateway.json"), "{step}");
    assert_eq!(
        (found.names(), found.exit),
        (vec!["dns", "tcp", "tls"], Some(1))
    );
    let text = relay.command(&["doctor"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(!text.contains("udp") && !text.contains("QUIC"), "{text}");
}

#[test]
fn where_only_quic_is_allowed_tcp_is_not_asked_for() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let other = site.gateway("other");
    let config = format!("proxy = \"none\"\ntransport = \"quic\"\n{WEB}");
    let relay = site.relay_stopped("node-a", &[&gateway], &config);

    let well = doctor(&relay);
    let steps = ["dns", "tls", "clock", "auth", "udp"];
    assert_eq!(
        (well.names().as_slice(), well.exit),
        (&steps[..], Some(0)),
        "{:?}",
        well.steps
    );
    assert!(well.is_well(), "{:?}", well.steps);

    change_file(&relay, &gateway, gateway.url(), other.url());
    let found = doctor(&relay);
    let step = found.blames("tls", "fail");
    let (seen, cure) = (field(step, "seen"), field(step, "cure"));
    assert!(seen.contains("the server's key has pin"), "{seen}");
    assert!(cure.contains("compare the pin"), "{cure}");
    assert_eq!((found.names(), found.exit), (vec!["dns", "tls"], Some(1)));
}

#[test]
fn another_service_is_no_gateway() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let sshd = sallyport_tests::service::Sshd::start(site.path());
    let relay = known(&site, &gateway);
    let number = sshd.port.number();
    change_file(
        &relay,
        &gateway,
        gateway.url(),
        &format!("https://127.0.0.1:{number}"),
    );

    let found = doctor(&relay);

    assert!(field(found.blames("tls", "fail"), "cure").contains("gateway.json"));
    assert_eq!(found.exit, Some(1));
}

#[test]
fn a_revoked_key() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let relay = known(&site, &gateway);
    let listed = gateway.command(&["key", "list", "--json"]);
    let keys: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let old = keys
        .pointer("/0/kid")
        .and_then(Value::as_str)
        .expect("one key")
        .to_owned();
    let out = site.path().join("k.json").display().to_string();
    assert!(
        gateway
            .command(&["key", "add", "--out", &out])
            .status
            .success()
    );
    assert!(gateway.command(&["key", "revoke", &old]).status.success());
    drop(gateway.wait_for_line(&["keys taken", "removed", &old]));

    let found = doctor(&relay);

    let cure = field(found.blames("auth", "fail"), "cure");
    assert!(
        cure.contains("gateway.json") && cure.contains("revoked"),
        "{cure}"
    );
    assert_eq!(
        (found.names(), found.exit),
        (vec!["dns", "tcp", "tls", "auth", "udp"], Some(1))
    );
}

#[test]
fn a_clock_ten_minutes_off() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let relay = known(&site, &gateway);
    for offset in ["+10m", "-10m"] {
        let mut command = Command::new("faketime");
        command.args(["--exclude-monotonic", "-f", offset]);
        command.arg(program("sallyport-relay"));
        command
            .args(["doctor", "--json", "--config"])
            .arg(relay.config());
        command.env("SALLYPORT_STATE_DIR", relay.path().join("state"));

        let found = Found::of(&client::run(&mut command));

        let cure = field(found.blames("clock", "fail"), "cure");
        assert!(cure.contains("NTP"), "{cure}");
        assert_eq!(found.exit, Some(1));
    }
}

#[test]
fn dropped_udp_is_a_warning() {
    let Some(cable) = Cable::lay() else { return };
    let site = Site::new();
    let mut gateway = site.gateway_init("gw", Cable::FIRST, &[]);
    gateway.enter(cable.first());
    gateway.start();
    gateway.wait_ready();
    let mut relay = site.relay_stopped("node-a", &[&gateway], &format!("proxy = \"none\"\n{WEB}"));
    relay.enter(cable.second());
    relay.start();
    gateway.wait_session("web");
    cable.drop_matching("meta l4proto udp");
    let mut command = network::inside(cable.second(), program("sallyport-relay"));
    command
        .args(["doctor", "--json", "--config"])
        .arg(relay.config());
    command.env("SALLYPORT_STATE_DIR", relay.path().join("state"));

    let found = Found::of(&client::run(&mut command));

    let cure = field(found.blames("udp", "warn"), "cure");
    assert!(
        cure.contains("allow udp port") && cure.contains("tunnels run over TLS"),
        "{cure}"
    );
    assert_eq!(found.exit, Some(0));
}

#[test]
fn among_other_nodes_a_key_without_via_is_a_warning() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let peer = Port::reserve();
    let more = format!(
        "proxy = \"none\"\n{WEB}[[peer]]\nnode = \"node-b\"\naddress = \"127.0.0.1:{}\"\n",
        peer.number()
    );
    let relay = site.relay_stopped("node-a", &[&gateway], &more);

    let found = doctor(&relay);
    let step = found.blames("via", "warn");
    assert!(field(step, "cure").contains("key add --via"), "{step}");
    assert_eq!(found.exit, Some(0), "it works");

    assert!(gateway.command(&["key", "add", "--via"]).status.success());
    let copy = format!("gateways/{}.json", gateway.port());
    fs::copy(gateway.path().join("gateway.json"), relay.path().join(copy)).expect("copied");
    eventually("the new key is taken", || doctor(&relay).is_well());
}

#[test]
fn a_node_of_the_lan_alone_is_well_without_a_gateway() {
    let site = Site::new();
    let port = Port::reserve();
    let listen = format!("[direct]\nlisten = \"127.0.0.1:{}\"\n", port.number());
    let lan = site.relay_stopped("lan", &[], &format!("{WEB}{listen}"));
    let lost = site.relay_stopped("lost", &[], WEB);

    for relay in [&lan, &lost] {
        let text = fs::read_to_string(relay.config()).expect("written");
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("gateway_file"));
        let without: Vec<_> = lines.collect();
        fs::write(relay.config(), without.join("\n")).expect("writable");
    }

    let well = lan.command(&["doctor"]);
    let said = String::from_utf8_lossy(&well.stdout).into_owned();
    assert!(
        well.status.success() && said.contains("at its own port"),
        "{said}"
    );
    let lost = lost.command(&["doctor"]);
    let said = String::from_utf8_lossy(&lost.stdout).into_owned();
    assert_eq!(lost.status.code(), Some(1));
    assert!(
        said.contains("gateway_file") && said.contains("[direct] listen"),
        "{said}"
    );
}

#[test]
fn the_proxy_is_a_step_of_its_own() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let relay = known(&site, &gateway);
    let port = Port::reserve();
    let text = fs::read_to_string(relay.config()).expect("written");
    let proxy = format!("proxy = \"http://127.0.0.1:{}\"", port.number());
    fs::write(relay.config(), text.replace("proxy = \"none\"", &proxy)).expect("writable");

    let found = doctor(&relay);
    assert!(field(found.blames("tcp", "fail"), "cure").contains("proxy"));

    let allowed = tinyproxy(site.path(), &port, gateway.port());
    let found = doctor(&relay);
    let steps = ["dns", "tcp", "proxy", "tls", "clock", "auth", "udp"];
    assert_eq!(
        (found.names().as_slice(), found.exit),
        (&steps[..], Some(0)),
        "{:?}",
        found.steps
    );
    assert_eq!(field(found.blames("udp", "skip"), "cure"), "");
    drop(allowed);

    let _refusing = tinyproxy(site.path(), &port, 1);
    let found = doctor(&relay);
    let step = found.blames("proxy", "fail");
    assert!(field(step, "seen").contains("403"), "{step}");
    assert!(field(step, "cure").contains("relay.toml"), "{step}");
    assert_eq!(found.exit, Some(1));
}

/// A proxy that leads to one port only.
fn tinyproxy(folder: &Path, port: &Port, connects_to: u16) -> Daemon {
    let config = folder.join("tinyproxy.conf");
    let text = format!(
        "Port {}\nListen 127.0.0.1\nLogLevel Connect\nAllow 127.0.0.1\nConnectPort {connects_to}\n",
        port.number()
    );
    fs::write(&config, text).expect("writable");
    let proxy = Daemon::start(
        Path::new("/usr/bin/tinyproxy"),
        &["-d".as_ref(), "-c".as_ref(), config.as_os_str()],
        &folder.join("proxy.log"),
    );
    wait_listening(port.number());
    proxy
}
