//! Decisions where there are many servers: the relay's own placement in this process, and the release binary's workers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sallyport_cluster::global::{Applied, Bundle};
use sallyport_node::Server;
use sallyport_ops::{Bounds, Programs, Tasks};
use sallyport_placement::engine::{Engine, PROGRAMS};
use sallyport_placement::filter::{Known, Look, Roster};
use sallyport_placement::pending::Pending;
use sallyport_placement::placement::Parts;
use sallyport_placement::{Action, Placement, Request, Settings};
use sallyport_scripts::Folders;
use sallyport_tests::program;
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::{Instant as Heard, sleep};

use crate::lab::Lab;
use crate::outcome::{Goal, Metric, Outcome, Wanted};

/// Servers of the cluster.
const SERVERS: u32 = 1_000;

/// Each server says something new so often.
const SPEAKS_EVERY: Duration = Duration::from_secs(2);

/// Decisions of a round, after some that are not counted.
const DECISIONS: usize = 500;
const WARM_UP: usize = 50;

/// Between two decisions.
const PAUSE: Duration = Duration::from_millis(10);

/// Scripts as sites write them, behind which a predefined one chooses.
const USERS: &str = "function(input) {
    return input.servers.filter(s => !s.users || s.users.includes(input.user.login)) }";
const GROUP: &str = "function(input) {
    return input.servers.filter(s => input.userGroups.indexOf(s.group) >= 0) }";

/// Servers that go on speaking, or do not.
#[derive(Debug)]
struct Speaking {
    known: Mutex<(Vec<Known>, u32)>,
    count: u32,
    since: Instant,
    speak: bool,
}

impl Speaking {
    fn new(count: u32, speak: bool) -> Self {
        Self {
            known: Mutex::new(((0..count).map(|number| server(number, 0)).collect(), 0)),
            count,
            since: Instant::now(),
            speak,
        }
    }
}

impl Roster for Speaking {
    fn look(&self) -> Option<Look> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (servers, said) = &mut *known;
        let due = self.since.elapsed().as_secs_f64() / SPEAKS_EVERY.as_secs_f64();
        let due = due * f64::from(self.count);
        while self.speak && f64::from(*said) < due {
            let number = *said % self.count;
            let place = usize::try_from(number).unwrap_or(0);
            servers[place] = server(number, *said);
            *said += 1;
        }
        let heard = Heard::now();
        let servers = servers.iter().map(|known| Known {
            server: Arc::clone(&known.server),
            heard,
        });
        Some(Look {
            servers: servers.collect(),
            stale: false,
        })
    }
}

fn server(number: u32, said: u32) -> Known {
    let gpu = |index: u32| {
        json!({ "index": index, "uuid": format!("GPU-{number}-{index}"), "name": "NVIDIA A40",
            "memoryTotal": 48_u64 << 30, "memoryUsed": u64::from(said % 48) << 30, "utilization": said % 100 })
    };
    let groups = ["physics", "chemistry", "render"];
    let server = json!({
        "serverId": format!("node-{number}.cluster.example.org"), "hostname": format!("node-{number}"), "generation": 1,
        "urls": ["https://gateway.example.org"], "site": "north", "groups": ["compute"], "ncpu": 64, "arch": "x86_64",
        "os": "Debian GNU/Linux 12 (bookworm)", "kernel": "6.1.0-25-amd64", "cpu": said % 100,
        "loadavg": [f64::from(said % 64), 2.0, 1.5], "freemem": 8_u64 << 30, "totalmem": 256_u64 << 30,
        "memAvailable": 128_u64 << 30, "uptime": said, "loggedInUsers": ["ada", "eve", "bob"], "gpus": [gpu(0), gpu(1)],
        "sessions": (number + said) % 17, "staticData": { "group": groups[number as usize % 3], "gpu": true },
        "metrics": { "licences": { "free": said % 10, "used": 3 } }, "loginEnabled": true, "startEnabled": true,
        "reservable": false, "version": "1.0.0", "lastUpdate": said, "configEpoch": 1_000,
    });
    Known {
        server: Arc::new(serde_json::from_value::<Server>(server).expect("a server")),
        heard: Heard::now(),
    }
}

pub(super) fn of_a_thousand_servers(lab: &Lab) -> Outcome {
    let ways = [("servers that stay", false), ("servers that speak", true)];
    let mut half = Metric::new("A decision, half of them within", "ms");
    let mut most = Metric::new("A decision, 99 of 100 within", "ms");
    let mut goal = Vec::new();
    for (way, speak) in ways {
        let rounds: Vec<_> = (0..lab.effort.rounds).map(|_| round(speak)).collect();
        let (halves, all): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
        half.push(way, halves);
        most.push(way, all.clone());
        goal = all;
    }
    Outcome {
        metrics: vec![half, most],
        goals: vec![Goal {
            text: format!(
                "99 of 100 decisions among {SERVERS} servers that speak take 10 ms at most"
            ),
            values: goal,
            unit: "ms".into(),
            wanted: Wanted::AtMost(10.0),
        }],
        notes: vec![format!(
            "A chain of three scripts: who may use a server, whose group it is, and the fewest sessions. {SERVERS} servers of \
             about 1.3 KiB, each of which says something new every two seconds or nothing; {DECISIONS} decisions one after \
             the other, {} ms apart. The placement is the relay's own code in the benchmark's process, its workers are the \
             relay's binary.",
            PAUSE.as_millis()
        )],
        ..Outcome::default()
    }
}

/// Milliseconds within which half of the decisions and 99 of 100 were made.
fn round(speak: bool) -> (f64, f64) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    runtime.expect("threads").block_on(async {
        let tasks = Tasks::new();
        let config = watch::channel(Some(config())).1;
        let placement = placement((SERVERS, speak), config, &tasks);
        let mut times = Vec::new();
        for _ in 0..WARM_UP + DECISIONS {
            let begun = Instant::now();
            let placed = Box::pin(placement.place(request(Action::Start))).await;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            drop(placed.expect("a server"));
            sleep(PAUSE).await;
        }
        tasks.drain(Duration::ZERO).await;
        let mut times = times.split_off(WARM_UP);
        times.sort_by(f64::total_cmp);
        (times[DECISIONS / 2], times[DECISIONS * 99 / 100])
    })
}

/// A relay's placement among so many servers, which speak or do not, with workers of the release binary.
pub(super) fn placement(
    (servers, speak): (u32, bool),
    config: watch::Receiver<Option<Applied>>,
    tasks: &Tasks,
) -> Placement {
    let settings = sallyport_scripts::Settings {
        program: program("sallyport-relay"),
        ..sallyport_scripts::Settings::default()
    };
    let parts = Parts {
        node: "here".parse().expect("a name"),
        roster: Arc::new(Speaking::new(servers, speak)),
        config,
        pending: Pending::default(),
        occupied: watch::channel(Arc::default()).1,
        engine: Engine::new(
            settings,
            (Programs::new(PROGRAMS), Folders::default()),
            Bounds::default(),
            tasks.clone(),
        ),
    };
    Placement::new(parts, Settings::default())
}

fn config() -> Applied {
    let script = |source: &str| json!({ "kind": "javascript", "source": source });
    let objects = json!({
        "scripts": { "users": script(USERS), "group": script(GROUP) },
        "chains": { "start": { "scripts": ["users", "group", "fewest-sessions"] } },
    });
    applied(1, &objects)
}

/// A configuration with these objects.
pub(super) fn applied(epoch: u64, objects: &Value) -> Applied {
    let bundle = json!({ "format": "sallyport-config/1", "objects": objects });
    Applied {
        epoch,
        sha256: String::new(),
        bundle: Arc::new(Bundle::from_value(bundle).expect("a good bundle")),
    }
}

pub(super) fn request(action: Action) -> Request {
    let mut request = Request::new(action);
    request.user.insert("login".to_owned(), json!("ada"));
    request.user_groups = vec!["staff".to_owned(), "physics".to_owned()];
    request
}
