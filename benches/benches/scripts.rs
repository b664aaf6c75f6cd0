//! Administrators' functions in worker processes: a call by itself, and a chain that chooses among 1,000 servers.
#![expect(clippy::expect_used, reason = "a benchmark that fails panics")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use hdrhistogram::Histogram;
use sallyport_ops::{Exit, Tasks};
use sallyport_scripts::{Choice, Moment, Script, Scripts, Server, Settings, worker};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// The argument with which this program is a worker of itself.
const WORKER: &str = "script-worker";

/// Servers to choose from.
const SERVERS: u64 = 1_000;

/// Calls of which the percentiles are taken.
const CALLS: u64 = 1_000;

/// Two filters that keep about half, then the one with the most free memory.
const CHAIN: [&str; 3] = [
    "function(input) { return input.servers.filter(s => s.loginEnabled && !s.draining) }",
    "function(input) { return input.servers.filter(s => s.staticData.gpu && input.userGroups.includes(s.group)) }",
    "function(input) { return input.servers.sort((a, b) => b.memAvailable - a.memAvailable)[0].serverId }",
];

/// What no interrupt ends.
const HANG: &str = "() => { const a = []; a.length = 2 ** 32 - 1; a.sort() }";

/// With all the fields that a server publishes.
fn server(n: u64, version: u64) -> Arc<Server> {
    let id = format!("node{n:04}");
    let object = json!({
        "serverId": id, "hostname": format!("{id}.cluster.example.org"), "urls": [format!("https://{id}:3300")],
        "site": "hall-2", "groups": ["batch", "interactive"], "group": if n.is_multiple_of(2) { "physics" } else { "chemistry" },
        "ncpu": 64, "arch": "x86_64", "os": "Debian GNU/Linux 12 (bookworm)", "kernel": "6.1.0-28-amd64",
        "cpu": "AMD EPYC 7513 32-Core Processor", "loadavg": [0.5, 1.25, 3.0], "freemem": 123_456_789 + n,
        "totalmem": 540_000_000_000_u64, "memAvailable": (n * 7919) % 100_000, "uptime": 1_234_567 + version,
        "sessions": n % 9, "uniqueSessionUsers": 3, "logins": 4, "uniqueLogins": 3,
        "loggedInUsers": ["ada", "eve", "grace"], "gpus": [{ "name": "A100", "memory": 40960, "used": 12, "load": 0.4 }],
        "staticData": { "gpu": n % 4 < 2, "rack": "r17" }, "metrics": { "licences": 3, "big": 2 }, "loginEnabled": true,
        "startEnabled": true, "reservable": false, "reserved": false, "draining": false, "pending": 0,
        "configEpoch": 42, "version": "0.1.0", "lastUpdate": 1_763_700_000_000_u64,
    });
    Arc::new(Server::new(id, &object))
}

fn input() -> Value {
    json!({ "action": "session/start", "user": { "login": "eve", "serverId": "node0007", "sessions": [] },
        "userGroups": ["staff", "physics"], "isManager": false, "isAdmin": false,
        "local": { "serverId": "node0001" }, "data": { "command": "xterm", "name": "x" } })
}

/// Workers, and what they are given.
struct Bench {
    runtime: Runtime,
    scripts: Scripts,
    chain: Vec<Script>,
    servers: Vec<Arc<Server>>,
    input: Value,
}

impl Bench {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let settings = Settings {
            program: std::env::current_exe().expect("a program"),
            arguments: vec![WORKER.to_owned()],
            ..Settings::default()
        };
        let entered = runtime.enter();
        let scripts = Scripts::start(settings, &Tasks::new());
        drop(entered);
        Self {
            runtime,
            scripts,
            chain: CHAIN.map(|text| Script::new("chain", text)).to_vec(),
            servers: (0..SERVERS).map(|n| server(n, 0)).collect(),
            input: input(),
        }
    }

    fn choose(&self, servers: &[Arc<Server>]) {
        let chosen = self
            .scripts
            .choose(&self.chain, &self.input, servers, Moment::now());
        let steps = self.runtime.block_on(chosen);
        let last = steps.last().expect("a step");
        assert!(matches!(last.outcome, Ok(Choice::Server(_))), "{last:?}");
    }

    fn call(&self, script: &Script) {
        let called = self.scripts.call(script, &self.input, Moment::now(), None);
        black_box(self.runtime.block_on(called)).expect("a value");
    }

    /// The list after so many servers have published anew.
    fn changed(&self, count: u64, version: u64) -> Vec<Arc<Server>> {
        let mut servers = self.servers.clone();
        for (n, place) in (0..count).zip(&mut servers) {
            *place = server(n, version);
        }
        servers
    }
}

fn times(c: &mut Criterion, bench: &Bench) {
    let script = Script::new("local", "function(input) { return input.local.serverId }");
    c.bench_function("scripts, one call", |bencher| {
        bencher.iter(|| bench.call(&script))
    });
    c.bench_function("scripts, chain of 3 at 1,000 servers", |bencher| {
        bencher.iter(|| bench.choose(&bench.servers));
    });
    for count in [50, SERVERS] {
        let mut version = 0;
        c.bench_function(
            &format!("scripts, chain of 3 at 1,000 servers, {count} of them new"),
            |bencher| {
                bencher.iter_batched(
                    || {
                        version += 1;
                        bench.changed(count, version)
                    },
                    |servers| bench.choose(&servers),
                    criterion::BatchSize::PerIteration,
                );
            },
        );
    }
}

/// What Criterion does not show: the slow end.
fn percentiles(bench: &Bench) {
    let line = |what: &str, times: &Histogram<u64>| {
        let [half, most, all] =
            [0.5, 0.99, 1.0].map(|q| Duration::from_micros(times.value_at_quantile(q)));
        format!("{what}: p50 {half:.2?}, p99 {most:.2?}, longest {all:.2?}\n")
    };
    let measure = |work: &dyn Fn(u64)| {
        let mut times = Histogram::<u64>::new(3).expect("a histogram");
        for n in 0..CALLS {
            let begun = Instant::now();
            work(n);
            times.saturating_record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        times
    };
    let script = Script::new("local", "function(input) { return input.local.serverId }");
    let mut said = line(
        "chain of 3 at 1,000 servers",
        &measure(&|_| bench.choose(&bench.servers)),
    );
    said += &line("one call", &measure(&|_| bench.call(&script)));
    let (hang, stop) = (
        bench.scripts.clone(),
        tokio_util::sync::CancellationToken::new(),
    );
    let stopped = stop.clone();
    let hanging = bench.runtime.handle().clone();
    let tasks = Tasks::new();
    let entered = hanging.enter();
    tasks.spawn(tracing::Span::none(), async move {
        for n in 0_u64.. {
            let script = Script::new("hang", format!("/* {n} */ {HANG}"));
            let killed = hang.call(&script, &Value::Null, Moment::now(), None).await;
            assert!(killed.is_err(), "it came back");
            if stopped.is_cancelled() {
                break;
            }
        }
    });
    drop(entered);
    said += &line(
        "one call beside one that always hangs",
        &measure(&|_| bench.call(&script)),
    );
    stop.cancel();
    bench.runtime.block_on(tasks.drain(Duration::from_secs(5)));
    std::io::Write::write_all(&mut std::io::stdout(), said.as_bytes()).expect("written");
}

fn main() -> Exit {
    if std::env::args().nth(1).as_deref() == Some(WORKER) {
        return worker::serve();
    }
    let bench = Bench::new();
    let mut criterion = Criterion::default().configure_from_args();
    times(&mut criterion, &bench);
    percentiles(&bench);
    criterion.final_summary();
    Exit::Ok
}
