//! Nodes that users have for themselves and what waits for one, by the commands that an administrator types on nodes that
//! share a broker. The logins and sessions that make them are made here as a relay would.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sallyport_cluster::{Broker, Limits, Nats, Progress, Seal};
use sallyport_link::ClusterKeys;
use sallyport_ops::Tasks;
use sallyport_placement::queue::Queue;
use sallyport_placement::reservations::{
    Hold, Kind, Login, Reservation, Reservations, Standing, Terms,
};
use sallyport_relay::credentials::signing;
use sallyport_tests::broker::{NatsServer, NatsVersion};
use sallyport_tests::{BOUND, Relay, Site, eventually, eventually_some};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Two nodes with a broker and the same keys, and a way of our own to the store.
struct Shared {
    _site: Site,
    server: NatsServer,
    one: Relay,
    two: Relay,
    /// In the test's own process, as a relay of the cluster has it.
    store: Nats,
    keys: Seal,
    tasks: Tasks,
    runtime: Runtime,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.tasks.stop();
        self.runtime.block_on(self.tasks.drain(Duration::ZERO));
    }
}

impl Shared {
    fn new() -> Self {
        let site = Site::new();
        let server = NatsServer::start(NatsVersion::Debian, &site.path().join("nats"), "");
        let [one, two] = ["n1", "n2"].map(|node| site.relay_stopped(node, &[], ""));
        let broker = json!({ "host": server.address() }).to_string();
        for relay in [&one, &two] {
            let path = relay.path().join("broker.json");
            fs::write(&path, &broker).expect("writable");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
        }
        assert!(one.command(&["cluster-key", "add"]).status.success());
        let keys = one.path().join("cluster-keys.json");
        fs::copy(&keys, two.path().join("cluster-keys.json")).expect("made");
        let runtime = Runtime::new().expect("threads");
        let tasks = Tasks::new();
        let store = runtime.block_on(connected(one.path(), &tasks));
        Self {
            keys: Seal::with(&signing(&ClusterKeys::load(&keys).expect("made"))),
            _site: site,
            server,
            one: one.started(),
            two: two.started(),
            store,
            tasks,
            runtime,
        }
    }

    fn reservations(&self) -> Reservations {
        let (store, tasks) = (Arc::new(self.store.clone()), self.tasks.clone());
        let node = "n3".parse().expect("a name");
        let made = Reservations::new(store, self.keys.clone(), node, Terms::default(), tasks);
        made.expect("keys")
    }

    /// A login of ann at n1.
    fn login(&self, reservations: &Reservations) -> Reservation {
        let login = Login {
            id: "1".to_owned(),
            user: "ann".to_owned(),
            kind: Kind::Person,
        };
        let hold = Hold::none("n1".parse().expect("a name"));
        let made = self.runtime.block_on(reservations.confirm(hold, login));
        made.expect("it is free").expect("a person reserves")
    }
}

async fn connected(folder: &Path, tasks: &Tasks) -> Nats {
    let broker = Broker::load(&folder.join("broker.json")).expect("a good file");
    let nats = Nats::start(broker, None, Limits::default(), tasks);
    let until = Instant::now() + BOUND;
    while nats.progress() != Progress::Ready {
        assert!(Instant::now() < until, "the broker lets us in");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    nats
}

/// What a command prints for programs.
fn json(relay: &Relay, args: &[&str]) -> Value {
    let output = relay.command(&[args, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// What a command prints for people.
fn told(relay: &Relay, args: &[&str]) -> String {
    let output = relay.command(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command that fails says.
fn refused(relay: &Relay, args: &[&str]) -> String {
    let output = relay.command(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn is_reserved(relay: &Relay, node: &str) -> Option<bool> {
    let servers = json(relay, &["servers"]);
    let server = servers
        .as_array()?
        .iter()
        .find(|server| server["serverId"] == node)?;
    server["reserved"].as_bool()
}

/// Whether n1 is left out where a login of this user is tried.
fn is_closed_to(relay: &Relay, user: &str) -> bool {
    let request = relay.path().join("request.json");
    let asked = json!({ "user": { "login": user } });
    fs::write(&request, asked.to_string()).expect("writable");
    let file = request.to_str().expect("a path of ours");
    let dry_run = [
        "scripts",
        "dry-run",
        "--action",
        "user/login",
        "--file",
        file,
    ];
    let trace = json(relay, &dry_run);
    let dropped = &trace["attempts"][0]["dropped"];
    assert!(dropped.is_array(), "{trace}");
    let dropped = dropped.to_string();
    dropped.contains("n1") && dropped.contains("reserved")
}

#[test]
fn a_reserved_node_is_shown_on_every_node_and_freed_by_command() {
    let mut shared = Shared::new();
    let (one, two) = (&shared.one, &shared.two);
    eventually("both are up", || is_reserved(two, "n1") == Some(false));
    told(one, &["set", "reservable", "on"]);
    let reservations = shared.reservations();
    let ann = shared.login(&reservations);

    for relay in [one, two] {
        eventually("it is shown", || {
            let rows = json(relay, &["reservations"]);
            rows[0]["server"] == "n1" && rows[0]["state"] == "reserved" && rows[0]["user"] == "ann"
        });
        eventually("its server object says so", || {
            is_reserved(relay, "n1") == Some(true)
        });
    }
    assert_eq!(is_reserved(one, "n2"), Some(false));
    assert!(told(one, &["status"]).contains("reservable on, reserved"));
    assert!(told(two, &["reservations"]).contains("ann"));

    assert!(is_closed_to(two, "bob") && !is_closed_to(two, "ann"));

    assert_eq!(
        told(two, &["reservations", "free", "n1"]),
        "Node n1 is free again.\n"
    );

    eventually("it is free", || is_reserved(one, "n1") == Some(false));
    assert_eq!(json(one, &["reservations"]), json!([]));
    let said = refused(one, &["reservations", "free", "n1"]);
    assert!(said.contains("nobody has reserved node n1"), "{said}");
    let mut standing = ann.standing();
    let lost = shared.runtime.block_on(async {
        let lost = standing.wait_for(|standing| *standing == Standing::Lost);
        timeout(BOUND, lost).await.map(|told| told.is_ok())
    });
    assert_eq!(lost, Ok(true), "whoever has the login is told");

    shared.server.kill();
    let said = eventually_some("the broker is missed", || {
        let output = shared.one.command(&["reservations"]);
        (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
    });
    assert!(
        said.contains("no server can be reserved: the cluster's store"),
        "{said}"
    );
}

/// Who runs the queue, as a node sees it.
fn run_by(relay: &Relay) -> Option<String> {
    let status = relay.status()?;
    status["queue"]["run_by"].as_str().map(str::to_owned)
}

#[test]
fn what_waits_is_held_released_and_cancelled_and_another_node_takes_over_the_queue() {
    let mut shared = Shared::new();
    let (one, two) = (&shared.one, &shared.two);
    let holder = eventually_some("one of them runs it, and both know", || {
        run_by(one).filter(|holder| run_by(two).as_ref() == Some(holder))
    });
    let queue = Queue::new(Arc::new(shared.store.clone()), shared.keys.clone()).expect("keys");
    let submit = |user: &str| {
        let what = json!({ "profile": "desktop" });
        let submitted = queue.submit(user, what, "all servers are in use");
        shared
            .runtime
            .block_on(submitted)
            .expect("there is room")
            .id
    };
    let (ann, bob) = (submit("ann"), submit("bob"));

    let rows = json(two, &["queue"]);
    assert_eq!(
        (&rows[0]["id"], &rows[0]["position"]),
        (&json!(ann), &json!(1)),
        "{rows}"
    );
    assert_eq!(rows[1]["reason"], "all servers are in use");
    assert_eq!(json(one, &["queue", "hold", &ann])["state"], "held");
    let rows = json(two, &["queue", "list"]);
    assert_eq!(
        (&rows[0]["user"], &rows[0]["position"]),
        (&json!("bob"), &json!(1)),
        "{rows}"
    );
    let said = told(two, &["queue", "release", &ann]);
    assert_eq!(said, format!("{ann} of ann waits.\n"));
    let said = told(one, &["queue", "cancel", &bob]);
    assert_eq!(said, format!("{bob} of bob was taken out.\n"));
    assert!(refused(one, &["queue", "cancel", &bob]).contains("see `queue list`"));
    let listed = told(one, &["queue"]);
    assert!(listed.contains(&ann) && !listed.contains(&bob), "{listed}");

    assert!(told(two, &["status"]).contains(&format!("the queue is run by {holder}")));
    let (killed, left) = match holder.as_str() {
        "n1" => (&mut shared.one, &shared.two),
        "n2" => (&mut shared.two, &shared.one),
        other => panic!("{other}"),
    };
    killed.daemon().kill();
    eventually("the other one takes over", || {
        run_by(left).as_deref() == Some(left.node())
    });
    assert_eq!(
        json(left, &["queue"])[0]["id"],
        json!(ann),
        "nothing is lost"
    );
}
