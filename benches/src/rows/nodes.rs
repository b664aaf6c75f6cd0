//! Many nodes of one cluster, who tell each other what they are over a real broker.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use sallyport_ops::Tasks;
use sallyport_tests::broker::NatsVersion;
use sallyport_tests::cluster::Cluster;
use sallyport_tests::{Daemon, Relay, eventually, eventually_some, program};
use serde_json::Value;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use crate::cost::{Process, during};
use crate::lab::Lab;
use crate::node::{Load, Node, SERVER_FILE};
use crate::outcome::{Goal, Metric, Outcome, Wanted};
use crate::progress::say;

/// Sizes of the cluster; goals are for the last.
const SIZES: [u32; 3] = [100, 300, 1_000];

/// Of the nodes in one process, so many hear all the others. A real relay and whoever measures make twenty of them.
const OBSERVERS: u32 = 18;

/// How long use is counted.
const COUNTED: Duration = Duration::from_secs(20);

/// Longest wait for a node to be seen or missed: not a figure.
const SEEN_WITHIN: Duration = Duration::from_secs(60);

/// How often one looks.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What one size of cluster came to.
struct Found {
    relay: Use,
    broker: Use,
    /// Milliseconds until a new node was seen, and until a dead one was missed.
    seen: Vec<f64>,
    gone: Vec<f64>,
}

struct Use {
    /// Share of a processor.
    percent: f64,
    /// Private memory.
    mebibytes: f64,
}

pub(super) fn of_one_cluster(lab: &Lab) -> Outcome {
    let found = SIZES.map(|size| (format!("{size} nodes"), measure(lab, size)));
    let metric = |name: &str, unit, of: &dyn Fn(&Found) -> Vec<f64>| {
        let mut metric = Metric::new(name, unit);
        for (way, found) in &found {
            metric.push(way, of(found));
        }
        metric
    };
    let goal = |text: &str, most: f64, of: fn(&Found) -> &[f64]| Goal {
        text: text.to_owned(),
        values: found
            .last()
            .map(|(_, found)| of(found).to_vec())
            .unwrap_or_default(),
        unit: "ms".into(),
        wanted: Wanted::AtMost(most),
    };
    Outcome {
        metrics: vec![
            metric(
                "A processor's time of a relay that hears all",
                "%",
                &|found| vec![found.relay.percent],
            ),
            metric("A processor's time of nats-server", "%", &|found| {
                vec![found.broker.percent]
            }),
            metric("Private memory of that relay", "MiB", &|found| {
                vec![found.relay.mebibytes]
            }),
            metric("Private memory of nats-server", "MiB", &|found| {
                vec![found.broker.mebibytes]
            }),
            metric("Until a new node is seen", "ms", &|found| {
                found.seen.clone()
            }),
            metric("Until a killed node is gone", "ms", &|found| {
                found.gone.clone()
            }),
        ],
        goals: vec![
            goal("a new node is seen within 3 s", 3_000.0, |found| {
                &found.seen
            }),
            goal("a dead node is gone within 6 s", 6_000.0, |found| {
                &found.gone
            }),
        ],
        notes: vec![format!(
            "Each node says what it is every two seconds over TLS to one nats-server as `cluster init` sets it up; {} of them \
             hear all. The nodes are the relay's own code in one load process, each with a connection of its own, and share \
             the machine with the relay and the server. A new node's time begins before it connects.",
            OBSERVERS + 2
        )],
        ..Outcome::default()
    }
}

fn measure(lab: &Lab, size: u32) -> Found {
    let site = lab.site();
    let cluster = Cluster::single(site.path());
    let server = cluster.serve(0, NatsVersion::Debian);
    let mut relay = site.relay_stopped("relay", &[], "");
    cluster.copy_to(&relay);
    relay.start_quietly();
    let own = eventually_some("the relay describes itself", || own_object(&relay));
    fs::write(cluster.folder.join(SERVER_FILE), own.to_string()).expect("our own folder");
    say(&format!("starting {size} nodes in one process"));
    let _nodes = many_nodes(&cluster.folder, size);
    eventually("the relay sees them all", || nodes_seen(&relay) > size);
    let processes = [
        Process::new("relay", relay.daemon().id()),
        Process::new("nats-server", server.id()),
    ];
    let (used, ()) = during(&processes, || thread::sleep(COUNTED));
    let mut uses = used.iter().zip(&processes).map(|(cpu, process)| Use {
        percent: cpu.per(COUNTED.as_secs_f64()).total() * 100.0,
        mebibytes: process.memory().private / 1024.0,
    });
    let (relay, broker) = (uses.next(), uses.next());
    let (seen, gone) = come_and_go(lab, &cluster.folder, size);
    Found {
        relay: relay.expect("two processes"),
        broker: broker.expect("two processes"),
        seen,
        gone,
    }
}

fn many_nodes(folder: &Path, count: u32) -> Daemon {
    let args = [
        folder.display().to_string(),
        count.to_string(),
        OBSERVERS.to_string(),
    ];
    Daemon::start(
        &program("many-nodes"),
        &args,
        &folder.join("many-nodes.log"),
    )
}

/// What the relay says of itself.
fn own_object(relay: &Relay) -> Option<Value> {
    let servers = relay.command(&["servers", "--json"]).stdout;
    let servers: Value = serde_json::from_slice(&servers).ok()?;
    servers.get(0).cloned()
}

/// Nodes that the relay sees, itself included.
fn nodes_seen(relay: &Relay) -> u32 {
    let nodes = relay
        .status()
        .and_then(|status| status["cluster"]["nodes"].as_u64());
    nodes
        .and_then(|nodes| u32::try_from(nodes).ok())
        .unwrap_or(0)
}

/// Milliseconds until each of some new nodes is seen by another, and until it is missed once it was killed.
fn come_and_go(lab: &Lab, folder: &Path, size: u32) -> (Vec<f64>, Vec<f64>) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = runtime.expect("threads");
    runtime.block_on(async {
        let (load, tasks) = (Load::read(folder), Tasks::new());
        let eye = load.node("eye", &tasks);
        eye.observer.observe(&tasks);
        eye.speak(&tasks);
        until(|| u32::try_from(eye.observer.others().len()).is_ok_and(|seen| seen >= size)).await;
        let mut times = (Vec::new(), Vec::new());
        for round in 0..u32::try_from(lab.effort.rounds).unwrap_or(1) {
            let own = tasks.child();
            let name = format!("new{round}");
            let begun = Instant::now();
            let new = load.node(&name, &own);
            new.speak(&own);
            until(|| sees(&eye, &name)).await;
            times.0.push(begun.elapsed().as_secs_f64() * 1e3);
            // not always at the same moment between two of its messages
            sleep(Duration::from_millis(270) * round).await;
            own.stop();
            let killed = Instant::now();
            until(|| !sees(&eye, &name)).await;
            times.1.push(killed.elapsed().as_secs_f64() * 1e3);
        }
        tasks.stop();
        times
    })
}

fn sees(eye: &Node, name: &str) -> bool {
    let others = eye.observer.others();
    others
        .iter()
        .any(|other| other.server.server_id.as_str() == name)
}

async fn until(holds: impl Fn() -> bool) {
    let holding = async {
        while !holds() {
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(SEEN_WITHIN, holding)
        .await
        .expect("it is seen, or missed");
}
