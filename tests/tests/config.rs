//! The configuration of a cluster: exported, imported and taken back, by the commands that an administrator types, on a
//! node alone and on nodes that share a broker.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use sallyport_cluster::global::{Applied, Bundle, Epochs, Seal};
use sallyport_cluster::{
    Broker, ClusterKey, Embedded, Key, Limits, Nats, Progress, STORE_FILE, Store as _,
};
use sallyport_ops::Tasks;
use sallyport_tests::broker::{NatsServer, NatsVersion};
use sallyport_tests::{BOUND, Relay, Site, eventually, eventually_some, program};
use serde_json::{Value, json};

const FILE: &str = "sallyport-config.json";

fn function(source: &str) -> Value {
    json!({ "kind": "javascript", "source": source, "enabled": true })
}

/// A folder with a configuration to import.
fn folder(site: &Site, name: &str, objects: &Value) -> PathBuf {
    let folder = site.path().join(name);
    fs::create_dir_all(&folder).expect("writable");
    let bundle = json!({ "format": "sallyport-config/1", "objects": objects });
    fs::write(folder.join(FILE), bundle.to_string()).expect("writable");
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

fn told(relay: &Relay, args: &[&str]) -> String {
    let output = relay.command(&[&["config"], args].concat());
    assert_eq!(said(&output), (Some(0), String::new()), "{args:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(relay: &Relay, args: &[&str]) -> Value {
    serde_json::from_str(&told(relay, &[args, &["--json"]].concat())).expect("JSON")
}

fn refused(relay: &Relay, args: &[&str]) -> (i32, String) {
    let (code, said) = said(&relay.command(&[&["config"], args].concat()));
    let code = code.filter(|code| *code != 0);
    (code.unwrap_or_else(|| panic!("{args:?} is refused")), said)
}

fn import(relay: &Relay, from: &Path, more: &[&str]) -> Value {
    json(relay, &[&["import", "--dir", text(from)], more].concat())
}

/// The bytes that an export writes.
fn exported(site: &Site, relay: &Relay, more: &[&str]) -> Vec<u8> {
    let folder = site.path().join("exported");
    told(relay, &[&["export", "--dir", text(&folder)], more].concat());
    fs::read(folder.join(FILE)).expect("it was written")
}

fn epochs(relay: &Relay) -> Vec<u64> {
    let history = json(relay, &["history"]);
    let rows = history.as_array().expect("an array").iter();
    rows.map(|row| row["epoch"].as_u64().expect("a number"))
        .collect()
}

fn up(relay: Relay) -> Relay {
    let relay = relay.started();
    eventually("the relay answers", || relay.status().is_some());
    relay
}

/// A broker, and relays beside whose configuration it is named; all have the same keys.
struct Shared {
    server: NatsServer,
    relays: Vec<Relay>,
}

impl Shared {
    fn new(site: &Site, nodes: &[&str]) -> Self {
        let server = NatsServer::start(NatsVersion::Debian, &site.path().join("nats"), "");
        let config = format!("[cluster]\nprograms = [{:?}]\n", site.path());
        let relays: Vec<_> = nodes
            .iter()
            .map(|node| site.relay_stopped(node, &[], &config))
            .collect();
        for relay in &relays {
            write_broker(relay.path(), &server);
        }
        assert!(relays[0].command(&["cluster-key", "add"]).status.success());
        for relay in &relays[1..] {
            copy_keys(&relays[0], relay);
        }
        Self { server, relays }
    }

    fn started(mut self) -> Self {
        self.relays = self.relays.into_iter().map(up).collect();
        self
    }

    fn wait_epoch(&self, epoch: u64) {
        for relay in &self.relays {
            let what = format!("{} works with epoch {epoch}", relay.node());
            eventually(&what, || status(relay)["epoch"] == epoch);
        }
    }
}

fn copy_keys(from: &Relay, to: &Relay) {
    let keys = "cluster-keys.json";
    fs::copy(from.path().join(keys), to.path().join(keys)).expect("made");
}

fn write_broker(folder: &Path, server: &NatsServer) -> PathBuf {
    let path = folder.join("broker.json");
    fs::write(&path, json!({ "host": server.address() }).to_string()).expect("writable");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our own file");
    path
}

fn status(relay: &Relay) -> Value {
    relay.status().unwrap_or_default()["config"].clone()
}

/// How doctor sees the configuration.
fn doctor(relay: &Relay) -> (String, String) {
    let found = relay.command(&["doctor", "--json"]).stdout;
    let found: Vec<Value> = serde_json::from_slice(&found).expect("an array");
    let step = found.iter().find(|finding| finding["step"] == "config");
    let step = step.unwrap_or_else(|| panic!("no step in {found:?}"));
    let text = |field: &str| step[field].as_str().unwrap_or_default().to_owned();
    (text("verdict"), text("seen"))
}

fn finds(verdict: &str, seen: &str) -> (String, String) {
    (verdict.to_owned(), seen.to_owned())
}

/// Each node's epoch and whether it is behind, as a relay shows them.
fn shown(relay: &Relay) -> Vec<(String, Value, Value)> {
    let servers = relay.command(&["servers", "--json"]).stdout;
    let servers: Vec<Value> = serde_json::from_slice(&servers).unwrap_or_default();
    let row = |server: &Value| {
        let name = server["serverId"].as_str().unwrap_or_default().to_owned();
        (
            name,
            server["configEpoch"].clone(),
            server["behind"].clone(),
        )
    };
    servers.iter().map(row).collect()
}

#[test]
fn a_node_alone_has_its_configuration_with_and_without_its_relay() {
    let site = Site::new();
    let first = folder(
        &site,
        "first",
        &json!({ "metrics": { "licences": function("() => 1"), "load": function("() => 2") } }),
    );
    let second = folder(
        &site,
        "second",
        &json!({ "metrics": { "licences": function("() => 3") }, "settings": {} }),
    );
    let mut relay = site.relay_stopped("n1", &[], "");
    assert_eq!(json(&relay, &["history"]), json!([]));

    // nobody runs: the command opens the store itself
    let added = |name| json!({ "kind": "metrics", "name": name, "change": "added" });
    assert_eq!(
        import(&relay, &first, &["--dry-run"]),
        json!([added("licences"), added("load")])
    );
    assert_eq!(epochs(&relay), [] as [u64; 0]);
    import(&relay, &first, &[]);
    let one = exported(&site, &relay, &[]);

    relay.start();
    eventually("the relay takes what is there", || {
        status(&relay)["epoch"] == 1
    });
    assert_eq!(exported(&site, &relay, &[]), one);
    let dry = told(&relay, &["import", "--dry-run", "--dir", text(&second)]);
    for part in ["changed", "removed", "nothing was changed: epoch 1 holds"] {
        assert!(dry.contains(part), "{dry}");
    }
    assert_eq!(
        (epochs(&relay), exported(&site, &relay, &[])),
        (vec![1], one.clone())
    );
    let done = told(&relay, &["import", "--dir", text(&second)]);
    assert!(done.contains("epoch 2 holds now"), "{done}");
    let again = told(&relay, &["import", "--dir", text(&second)]);
    assert!(
        again.contains("same") && again.contains("nothing was changed: epoch 2"),
        "{again}"
    );

    let changes = json(&relay, &["rollback", "1"]);
    assert_eq!(changes[0]["change"], "changed");
    assert_eq!(
        (epochs(&relay), exported(&site, &relay, &[])),
        (vec![3, 2, 1], one)
    );
    let history = told(&relay, &["history"]);
    assert!(
        history.contains("rollback to 1") && history.contains("n1"),
        "{history}"
    );
    eventually("the relay takes it", || status(&relay)["epoch"] == 3);
    assert_eq!(shown(&relay), [("n1".to_owned(), json!(3), json!(false))]);
}

#[test]
fn doctor_says_which_epoch_a_node_works_with() {
    let site = Site::new();
    let first = folder(
        &site,
        "first",
        &json!({ "metrics": { "m": function("() => 1") } }),
    );
    let mut relay = up(site.relay_stopped("n1", &[], ""));
    assert_eq!(doctor(&relay), finds("ok", "there is none yet"));

    import(&relay, &first, &[]);
    eventually("the relay takes it", || status(&relay)["epoch"] == 1);
    assert_eq!(doctor(&relay), finds("ok", "this node works with epoch 1"));

    assert!(relay.daemon().terminate().success());
    assert_eq!(doctor(&relay).0, "skip");
}

#[test]
fn a_mistake_is_named_and_nothing_is_applied() {
    let site = Site::new();
    let good = folder(
        &site,
        "good",
        &json!({ "metrics": { "m": function("() => 1") } }),
    );
    let wrong = folder(
        &site,
        "wrong",
        &json!({ "metrics": { "m": function("() => 2"), "x": { "kind": "executable", "path": "x", "enabled": true } }, "roles": {} }),
    );
    let relay = up(site.relay_stopped("n1", &[], ""));
    import(&relay, &good, &[]);

    let (code, said) = refused(&relay, &["import", "--dir", text(&wrong)]);
    assert_eq!(code, 78);
    for part in ["metrics/x: `path`", "roles: there is no such kind"] {
        assert!(said.contains(part), "{said}");
    }
    for (args, code, part) in [
        (
            &["import", "--dir", text(&good), "--only", "roles"][..],
            64,
            "metrics",
        ),
        (
            &["import", "--dir", text(&site.path().join("none"))],
            1,
            "No such file",
        ),
        (&["rollback", "7"], 1, "there are: 1"),
        (
            &[
                "history",
                "--broker",
                text(&site.path().join("no-broker.json")),
            ],
            78,
            "no-broker.json",
        ),
    ] {
        let (ended, said) = refused(&relay, args);
        assert!(
            ended == code && said.contains(part),
            "{args:?}: {ended} {said}"
        );
    }
    assert_eq!(epochs(&relay), [1]);
    assert_eq!(
        import(&relay, &good, &["--only", "metrics"])[0]["change"],
        "same"
    );
}

#[test]
fn what_is_carried_from_store_to_store_stays_the_same_bytes() {
    let site = Site::new();
    let from = folder(
        &site,
        "from",
        &json!({
            "settings": { "history": { "keep": 5 } },
            "metrics": { "b": function("() =>\n\"\u{e4}\""), "a": { "enabled": false, "path": "/bin/a", "kind": "executable" } },
        }),
    );
    let alone = site.relay_stopped("alone", &[], "");
    import(&alone, &from, &[]);
    let bytes = exported(&site, &alone, &[]);

    let shared = Shared::new(&site, &["n1"]);
    let broker = shared.relays[0].path().join("broker.json");
    let carried = site.path().join("exported");
    import(&alone, &carried, &["--broker", text(&broker)]);
    assert_eq!(exported(&site, &alone, &["--broker", text(&broker)]), bytes);

    let shared = shared.started();
    shared.wait_epoch(1);
    assert_eq!(exported(&site, &shared.relays[0], &[]), bytes);
    let back = up(site.relay_stopped("back", &[], ""));
    import(&back, &carried, &[]);
    assert_eq!(exported(&site, &back, &[]), bytes);

    // one kind alone, over something else
    let other = folder(
        &site,
        "other",
        &json!({ "metrics": { "c": function("() => 3") }, "settings": {} }),
    );
    import(&back, &other, &[]);
    import(&back, &carried, &["--only", "settings"]);
    let now: Value = serde_json::from_slice(&exported(&site, &back, &[])).expect("JSON");
    // of the other kinds there is nothing
    let objects = now["objects"].as_object().expect("objects by kind");
    let mut objects = objects.clone();
    objects.retain(|_, of_kind| {
        of_kind
            .as_object()
            .is_some_and(|objects| !objects.is_empty())
    });
    assert_eq!(
        Value::from(objects),
        json!({ "metrics": { "c": function("() => 3") }, "settings": { "history": { "keep": 5 } } })
    );
}

#[test]
fn all_nodes_reach_a_new_epoch_and_none_goes_back() {
    let site = Site::new();
    let first = folder(
        &site,
        "first",
        &json!({ "metrics": { "m": function("() => 1") } }),
    );
    let second = folder(
        &site,
        "second",
        &json!({ "metrics": { "m": function("() => 2") } }),
    );
    let mut shared = Shared::new(&site, &["n1", "n2"]).started();
    import(&shared.relays[0], &first, &[]);
    shared.wait_epoch(1);
    let row = |node: &str, epoch: u64, behind: bool| (node.to_owned(), json!(epoch), json!(behind));
    let both = |epoch| [row("n1", epoch, false), row("n2", epoch, false)];
    eventually("each shows both", || {
        shared.relays.iter().all(|relay| shown(relay) == both(1))
    });

    // a node that has seen more is not deceived by a store that was set back
    let kept = shared.relays[1].path().join("state/config.json");
    shared.relays[1].daemon().terminate();
    let mut seen: Value = serde_json::from_slice(&fs::read(&kept).expect("kept")).expect("JSON");
    seen["epoch"] = json!(40);
    fs::write(&kept, seen.to_string()).expect("our own file");
    shared.relays[1].start();
    let [one, two] = &shared.relays[..] else {
        panic!("there are two");
    };
    eventually("the other one is behind", || {
        shown(one) == [row("n1", 1, true), row("n2", 40, false)]
    });
    let servers = one.command(&["servers"]).stdout;
    let servers = String::from_utf8_lossy(&servers).into_owned();
    assert!(servers.contains("behind"), "{servers}");
    let fault = eventually_some("it says why", || {
        status(two)["fault"].as_str().map(str::to_owned)
    });
    assert!(
        fault.contains("epoch 1") && fault.contains("epoch 40 was accepted"),
        "{fault}"
    );

    let newest = "this node works with epoch 1, the newest";
    assert_eq!(doctor(one), finds("ok", newest));
    assert_eq!(doctor(two), finds("fail", &fault));

    import(two, &second, &[]);
    shared.wait_epoch(41);
    eventually("each shows both", || {
        shared.relays.iter().all(|relay| shown(relay) == both(41))
    });
    assert_eq!(status(&shared.relays[1])["fault"], Value::Null);
}

/// The metrics of a node, as a relay hears them.
fn metrics(relay: &Relay, of: &str) -> Value {
    let servers = relay.command(&["servers", "--json"]).stdout;
    let servers: Vec<Value> = serde_json::from_slice(&servers).unwrap_or_default();
    let server = servers.iter().find(|server| server["serverId"] == of);
    server.map_or(Value::Null, |server| server["metrics"].clone())
}

fn program_of(site: &Site, name: &str, text: &str, mode: u32) -> Value {
    let path = site.path().join(name);
    fs::write(&path, text).expect("writable");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
    json!({ "kind": "executable", "path": path, "enabled": true })
}

fn metrics_of_all_kinds(site: &Site) -> Value {
    let mut off = function("() => 'off'");
    off["enabled"] = json!(false);
    json!({ "metrics": {
        "licences": function("() => 6 * 7"),
        "count": program_of(site, "count", "#!/bin/sh\necho 7\n", 0o755),
        "loose": program_of(site, "loose", "#!/bin/sh\necho 8\n", 0o777),
        "away": { "kind": "executable", "path": "/bin/true", "enabled": true },
        "off": off,
    } })
}

/// Two nodes, the second with files of metrics: one with a name that the cluster has, too.
fn with_files_of_metrics(site: &Site) -> Shared {
    let shared = Shared::new(site, &["n1", "n2"]);
    let files = shared.relays[1].path().join("metrics");
    fs::create_dir(&files).expect("writable");
    fs::write(files.join("licences.js"), "() => 'local'").expect("writable");
    fs::write(files.join("own.js"), "() => 2").expect("writable");
    shared.started()
}

#[test]
fn metrics_of_the_configuration_run_on_every_node_and_go_before_files() {
    let site = Site::new();
    let shared = with_files_of_metrics(&site);
    let configured = folder(&site, "configured", &metrics_of_all_kinds(&site));
    let nothing = folder(&site, "nothing", &json!({ "metrics": {} }));
    let [one, two] = &shared.relays[..] else {
        panic!("there are two");
    };

    import(one, &configured, &[]);

    let both = json!({ "licences": 42, "count": 7, "own": 2 });
    eventually("another node's metrics are heard", || {
        metrics(one, "n2") == both
    });
    eventually("and those of this node", || {
        metrics(one, "n1") == json!({ "licences": 42, "count": 7 })
    });
    let listed = two.command(&["metrics", "--json"]).stdout;
    let listed: Vec<Value> = serde_json::from_slice(&listed).expect("an array");
    let mut rows: Vec<_> = listed
        .iter()
        .map(|row| {
            let text = |field: &str| row[field].as_str().unwrap_or_default();
            let why = text("error").split_whitespace().next().unwrap_or_default();
            (text("name"), text("from"), !why.is_empty())
        })
        .collect();
    rows.sort_unstable();
    assert_eq!(
        rows,
        [
            ("away", "cluster", true),
            ("count", "cluster", false),
            ("licences", "cluster", false),
            ("licences", "folder", true),
            ("loose", "cluster", true),
            ("own", "folder", false),
        ],
        "{listed:?}"
    );
    let said = two.command(&["metrics"]).stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    for part in ["FROM", "rename the file", "loose", "[cluster] programs"] {
        assert!(said.contains(part), "{part}: {said}");
    }

    // a program that has become fit to run is run, without another epoch
    let loose = site.path().join("loose");
    fs::set_permissions(&loose, fs::Permissions::from_mode(0o755)).expect("ours");
    eventually("it is run", || metrics(one, "n2")["loose"] == 8);

    import(one, &nothing, &[]);
    let own = json!({ "licences": "local", "own": 2 });
    eventually("the files hold again", || metrics(one, "n2") == own);
}

/// The broker's store, as somebody without the cluster's keys may write it.
async fn stranger(folder: &Path, tasks: &Tasks) -> Nats {
    let broker = Broker::load(&folder.join("broker.json")).expect("a good file");
    let nats = Nats::start(broker, None, Limits::default(), tasks);
    let until = Instant::now() + BOUND;
    while nats.progress() != Progress::Ready {
        assert!(Instant::now() < until, "the broker lets us in");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    nats
}

/// Has somebody without the cluster's keys do something to the broker's store.
fn meddle<T>(shared: &Shared, work: impl AsyncFnOnce(Nats, Key) -> T) -> T {
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(async {
        let tasks = Tasks::new();
        let nats = stranger(shared.relays[0].path(), &tasks).await;
        let done = work(nats, "config/current".parse().expect("a key")).await;
        tasks.drain(Duration::ZERO).await;
        done
    })
}

/// Puts another configuration in the place of what is there.
fn forge(shared: &Shared, bundle: &Bundle, seal: Seal) {
    meddle(shared, async |nats, place| {
        nats.delete(&place, None).await.expect("deleted");
        let forging = Epochs::new(Arc::new(nats), seal, None, "stranger").expect("keys");
        let forged = forging.import(bundle, false).await;
        forged.expect("the broker takes anything");
    });
}

fn wait_fault(shared: &Shared, part: &str, epoch: u64) {
    for relay in &shared.relays {
        let what = format!("{} says: {part}", relay.node());
        eventually(&what, || {
            let fault = status(relay)["fault"].clone();
            fault.as_str().is_some_and(|fault| fault.contains(part))
        });
        assert_eq!(status(relay)["epoch"], epoch);
    }
}

#[test]
fn a_forged_configuration_is_refused_and_the_last_good_one_stays() {
    let site = Site::new();
    let metric = |value| json!({ "metrics": { "m": function(&format!("() => '{value}'")) } });
    let good = folder(&site, "good", &metric("good"));
    let next = folder(&site, "next", &metric("next"));
    let evil = json!({ "format": "sallyport-config/1", "objects": metric("evil") });
    let evil = Bundle::from_value(evil).expect("a good bundle");
    let mut shared = Shared::new(&site, &["n1", "n2"]).started();
    import(&shared.relays[0], &good, &[]);
    shared.wait_epoch(1);
    let bytes = exported(&site, &shared.relays[0], &[]);

    let other = ClusterKey::new("k1", &[7; 32], None).expect("long enough");
    let seals = [
        (Seal::none(), "not a signed value"),
        (Seal::with(&[other]), "the cluster key `k1`"),
    ];
    for (seal, why) in seals {
        forge(&shared, &evil, seal);
        wait_fault(&shared, why, 1);
    }
    // nor after a restart
    shared.relays[1].daemon().kill();
    shared.relays[1].start();
    wait_fault(&shared, "not believed", 1);
    assert_eq!(exported(&site, &shared.relays[1], &[]), bytes);

    // an administrator's next change mends the store
    import(&shared.relays[1], &next, &[]);
    shared.wait_epoch(2);
    let mended = |relay: &Relay| status(relay)["fault"].is_null();
    assert!(shared.relays.iter().all(mended));
}

#[test]
fn what_was_good_once_is_not_good_again() {
    let site = Site::new();
    let shared = Shared::new(&site, &["n1", "n2"]).started();
    for (number, source) in [(1, "() => 1"), (2, "() => 2")] {
        let from = folder(
            &site,
            &number.to_string(),
            &json!({ "metrics": { "m": function(source) } }),
        );
        import(&shared.relays[0], &from, &[]);
        shared.wait_epoch(number);
        if number == 1 {
            meddle(&shared, async |nats, place| {
                let there = nats.get(&place).await.expect("read").expect("there");
                let aside = "aside/current".parse().expect("a key");
                nats.put(&aside, there.value).await.expect("put");
            });
        }
    }

    meddle(&shared, async |nats, place| {
        let aside = "aside/current".parse().expect("a key");
        let old = nats.get(&aside).await.expect("read").expect("there");
        nats.put(&place, old.value).await.expect("put");
    });

    wait_fault(&shared, "set back", 2);
}

#[test]
fn a_key_that_it_was_signed_with_can_be_revoked() {
    let site = Site::new();
    let good = folder(
        &site,
        "good",
        &json!({ "metrics": { "m": function("() => 'good'") } }),
    );
    let shared = Shared::new(&site, &["n1"]).started();
    let relay = &shared.relays[0];
    import(relay, &good, &[]);
    shared.wait_epoch(1);
    let keys = |args: &[&str]| {
        let output = relay.command(&[&["cluster-key"], args, &["--json"]].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let old = keys(&["list"])[0]["kid"]
        .as_str()
        .expect("an id")
        .to_owned();
    let new = keys(&["add"])["kid"].as_str().expect("an id").to_owned();

    meddle(&shared, async |nats, place| {
        let until = Instant::now() + BOUND;
        loop {
            let there = nats.get(&place).await.expect("read").expect("there");
            if String::from_utf8_lossy(&there.value).contains(&new) {
                break;
            }
            assert!(Instant::now() < until, "the relay signs it anew");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    keys(&["revoke", &old]);
    // without the keys of before, nor what was accepted before
    let fresh = Shared::fresh(&site, &shared, "n2");
    eventually("a new node takes it", || status(&fresh)["epoch"] == 1);
}

impl Shared {
    /// One more node, started.
    fn fresh(site: &Site, shared: &Self, node: &str) -> Relay {
        let relay = site.relay_stopped(node, &[], "");
        write_broker(relay.path(), &shared.server);
        copy_keys(&shared.relays[0], &relay);
        up(relay)
    }
}

/// So often an import is killed.
const KILLS: u32 = 60;

/// Of several parts, in an order that keeps two epochs beside the newest. Each function has an argument with a long name.
fn large(fill: &str) -> Value {
    let source = format!("{} => 0", fill.repeat(60 << 10));
    let metrics: serde_json::Map<String, Value> = (0..10)
        .map(|number| (format!("m{number}"), function(&source)))
        .collect();
    json!({ "metrics": metrics, "settings": { "history": { "keep": 3 } } })
}

#[tokio::test]
async fn an_import_that_is_killed_leaves_the_old_or_the_new_one() {
    let site = Site::new();
    let relay = site.relay_stopped("n1", &[], "");
    let fills = ["a", "b"];
    let folders = fills.map(|fill| folder(&site, fill, &large(fill)));
    let begun = Instant::now();
    import(&relay, &folders[0], &[]);
    let life = begun.elapsed();
    let mut chance = seed();
    let (mut before, mut interrupted, mut applied) = (1_u64, 0_u32, 0_u32);
    let mut fill = "a";
    for round in 0..KILLS {
        let turn = usize::from(fill == "a");
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let most = u64::try_from(life.as_micros()).expect("short");
        let finished = killed_after(
            &relay,
            &folders[turn],
            Duration::from_micros((chance >> 33) % most),
        );

        let (epoch, found, _parts) = found(&relay).await;
        let is_new = epoch == before + 1 && found == fills[turn];
        let is_old = epoch == before && found == fill && !finished;
        assert!(
            is_new || is_old,
            "round {round}: epoch {epoch} of {found:.1} after epoch {before} of {fill}"
        );
        interrupted += u32::from(!finished);
        applied += u32::from(is_new);
        if is_new {
            (before, fill) = (epoch, fills[turn]);
        }
    }
    assert!(interrupted > 0, "it was killed while it worked");
    import(&relay, &folders[usize::from(fill == "a")], &[]);
    let (epoch, _found, parts) = found(&relay).await;
    assert_eq!(epoch, u64::from(applied) + 2);
    assert_eq!(
        parts,
        3 * epoch.min(3),
        "nothing is left of those that were killed"
    );
}

fn seed() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::from(since.expect("after 1970").subsec_nanos())
}

/// Whether the import had ended by then.
fn killed_after(relay: &Relay, from: &Path, life: Duration) -> bool {
    let mut command = Command::new(program("sallyport-relay"));
    command.args(["config", "import", "--dir"]).arg(from);
    command.arg("--config").arg(relay.config());
    let import = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut import = import.expect("it is built");
    thread::sleep(life);
    import.kill().expect("it is ours");
    import.wait().expect("it ended").success()
}

/// The store, as soon as a worker that was just forked has let go of it, which may come after its parent's end.
fn opened(path: &Path) -> Embedded {
    let mut store = None;
    eventually("it opens after any end", || {
        store = Embedded::open(path, Limits::default()).ok();
        store.is_some()
    });
    store.expect("it is open")
}

/// The epoch that holds, what it is filled with, and how many parts there are in the store.
async fn found(relay: &Relay) -> (u64, String, u64) {
    let path = relay.path().join("state").join(STORE_FILE);
    let store = opened(&path);
    let epochs = Epochs::new(Arc::new(store.clone()), Seal::none(), None, "test").expect("keys");
    let Applied { epoch, bundle, .. } = epochs.newest().await.expect("whole").expect("there");
    let mut fills: Vec<_> = bundle
        .objects("metrics")
        .map(|(_, object)| object["source"].as_str().expect("text")[..1].to_owned())
        .collect();
    assert_eq!(fills.len(), 10);
    fills.dedup();
    assert_eq!(fills.len(), 1, "one content, not two");
    let parts = "config-parts".parse().expect("a prefix");
    let parts = store.list(&parts).await.expect("listed").len();
    (epoch, fills.remove(0), u64::try_from(parts).expect("few"))
}

#[test]
fn a_function_that_is_none_is_refused_by_name_and_line() {
    let site = Site::new();
    let mut relay = up(site.relay_stopped("n1", &[], ""));
    let objects = json!({
        "metrics": { "good": function("() => 1"), "bad": function("function() {\n  return (;\n}") },
        "scripts": { "none": { "kind": "javascript", "source": "42" } },
    });
    let from = folder(&site, "broken", &objects);
    let import = ["import", "--dir", text(&from)];
    let draft = site.path().join("draft.js");
    fs::write(&draft, "function(input) { return").expect("writable");

    for dry_run in [&["--dry-run"][..], &[]] {
        let (_, said) = refused(&relay, &[&import, dry_run].concat());
        assert!(
            said.contains("metrics/bad: `source`") && said.contains("bad:2:"),
            "{said}"
        );
        assert!(
            said.contains("scripts/none") && !said.contains("good"),
            "{said}"
        );
    }
    let edited = relay.command(&["scripts", "edit", "draft", "--file", text(&draft)]);
    let (code, said) = said(&edited);
    assert!(code != Some(0) && said.contains("scripts/draft"), "{said}");
    assert_eq!(status(&relay)["epoch"], 0, "nothing was changed");

    assert!(relay.daemon().terminate().success());
    let (_, said) = refused(&relay, &import);
    assert!(
        said.contains("metrics/bad"),
        "without a running relay: {said}"
    );
}
