//! Many streams and many relays on one gateway.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use sallyport_tests::{Daemon, Gateway, Port, Relay, Site, program};

use crate::cost::Process;
use crate::lab::Lab;
use crate::outcome::{Goal, Metric, Outcome, Wanted};
use crate::progress::say;
use crate::ways::PATIENCE;

/// Relays that carry the streams, each a process.
const RELAYS: usize = 100;
/// Streams on each of them.
const STREAMS: usize = 100;

/// Relays that have to be back after a restart.
const BACK: usize = 1_000;
/// Restarts, at most.
const RESTARTS: usize = 3;

/// Relays on one gateway.
const MANY: usize = 2_000;

/// Of relays in one process, so many are asked whether they carry.
const ASKED: usize = 20;

/// How long everything has to stay up.
const STAY: Duration = Duration::from_secs(8);

/// A tunnel that lived so long is redialled at once.
const STABLE: Duration = Duration::from_secs(3);

/// Longest wait for relays: not a figure, only so that those that never come are told from slow ones.
const ALL_WITHIN: Duration = Duration::from_secs(90);

/// How often the gateway is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// What is said of relays in one process.
const ONE_PROCESS: &str = "The relays are the relay's own code in one load process, each with an identity, a node name, \
    a session and a tunnel of its own; it starts two hundred a second, and shares the machine with the gateway.";

pub(super) fn streams(lab: &Lab) -> Outcome {
    let site = lab.site();
    let (_echo, target) = echo(&site);
    let ids: Vec<String> = (0..RELAYS).map(|number| format!("n{number}")).collect();
    let (mut gateway, ports) = gateway(&site, &ids);
    let mut relays: Vec<Relay> = ids
        .iter()
        .map(|id| relay(&site, &gateway, id, &target))
        .collect();
    wait_sessions(&gateway, RELAYS);
    let process = Process::new("gateway", gateway.daemon().id());
    let before = process.memory().private;
    let (mut clients, took) = open(&ports);
    let open = to_f64(clients.len());
    say(&format!("{open:.0} streams are open after {took:.1} s"));
    let first = alive(&mut clients);
    let memory = (process.memory().private - before) / open;
    let of_relays: f64 = relays
        .iter_mut()
        .map(|relay| Process::new("relay", relay.daemon().id()).memory().private / 1024.0)
        .sum();
    thread::sleep(STAY);
    let still = alive(&mut clients);
    let goal = Goal {
        text: format!(
            "{} streams over {RELAYS} relays, all alive",
            RELAYS * STREAMS
        ),
        values: vec![first.0.min(still.0)],
        unit: "streams".into(),
        wanted: Wanted::AtLeast(to_f64(RELAYS * STREAMS)),
    };
    Outcome {
        metrics: vec![
            single("Opening them all, one after the other", "s", took),
            single("A message there and back on every one", "s", still.1),
            single("Private memory of the gateway for each", "KiB", memory),
            single("Private memory of all relays", "MiB", of_relays),
        ],
        goals: vec![goal],
        notes: vec![format!(
            "Each relay is a process as it comes. Every stream was asked once all were open, and again {} s later.",
            STAY.as_secs()
        )],
        ..Outcome::default()
    }
}

pub(super) fn back(lab: &Lab) -> Outcome {
    let site = lab.site();
    let (_echo, target) = echo(&site);
    let (mut gateway, ports) = gateway(&site, &sample(BACK));
    let _relays = many_relays(&site, &gateway, BACK, &target);
    wait_sessions(&gateway, BACK);
    let times: Vec<f64> = (0..lab.effort.rounds.min(RESTARTS))
        .map(|round| {
            thread::sleep(STABLE);
            gateway.daemon().kill();
            let begun = Instant::now();
            gateway.start_quietly();
            wait_sessions(&gateway, BACK);
            let time = begun.elapsed().as_secs_f64();
            say(&format!(
                "restart {}: all back after {time:.1} s",
                round + 1
            ));
            time
        })
        .collect();
    let carrying = alive(&mut open_one_each(&ports)).0;
    let mut metric = Metric::new(&format!("All {BACK} sessions can be reached again"), "s");
    metric.push("Sallyport", times.clone());
    Outcome {
        metrics: vec![metric],
        goals: vec![
            Goal {
                text: format!("{BACK} relays back within 10 s of a gateway restart"),
                values: times,
                unit: "s".into(),
                wanted: Wanted::AtMost(10.0),
            },
            asked(carrying),
        ],
        notes: vec![
            ONE_PROCESS.to_owned(),
            "From the start of the new gateway, the old one having been killed.".to_owned(),
        ],
        ..Outcome::default()
    }
}

pub(super) fn many(lab: &Lab) -> Outcome {
    let site = lab.site();
    let (_echo, target) = echo(&site);
    let (mut gateway, ports) = gateway(&site, &sample(MANY));
    let process = Process::new("gateway", gateway.daemon().id());
    let before = process.memory().private;
    let begun = Instant::now();
    let _relays = many_relays(&site, &gateway, MANY, &target);
    wait_sessions(&gateway, MANY);
    let took = begun.elapsed().as_secs_f64();
    say(&format!("{MANY} relays are there after {took:.1} s"));
    let used = process.cpu();
    thread::sleep(STAY);
    let idle = (process.cpu() - used).per(STAY.as_secs_f64()).total() * 100.0;
    let stayed = sessions(&gateway).unwrap_or_default();
    let memory = (process.memory().private - before) / to_f64(MANY);
    let carrying = alive(&mut open_one_each(&ports)).0;
    Outcome {
        metrics: vec![
            single("From the first dial until all are there", "s", took),
            single(
                "Private memory of the gateway for each relay",
                "KiB",
                memory,
            ),
            single(
                "A processor's time that the gateway takes for them, idle",
                "%",
                idle,
            ),
        ],
        goals: vec![
            Goal {
                text: format!("{MANY} relays on one gateway"),
                values: vec![to_f64(stayed)],
                unit: "relays".into(),
                wanted: Wanted::AtLeast(to_f64(MANY)),
            },
            asked(carrying),
        ],
        notes: vec![ONE_PROCESS.to_owned()],
        ..Outcome::default()
    }
}

fn single(name: &str, unit: &'static str, value: f64) -> Metric {
    let mut metric = Metric::new(name, unit);
    metric.push("Sallyport", vec![value]);
    metric
}

fn asked(carrying: f64) -> Goal {
    Goal {
        text: format!("{ASKED} of them, asked one by one, carry a stream"),
        values: vec![carrying],
        unit: "streams".into(),
        wanted: Wanted::AtLeast(to_f64(ASKED)),
    }
}

/// Sessions of some of so many relays, evenly spread.
fn sample(of: usize) -> Vec<String> {
    (0..ASKED)
        .map(|number| format!("n{}", number * of / ASKED))
        .collect()
}

/// A gateway with a raw port for each of these sessions, and with room for all.
fn gateway(site: &Site, sessions: &[String]) -> (Gateway, Vec<Port>) {
    let mut gateway = site.gateway_init("gateway", "127.0.0.1", &[]);
    let ports: Vec<Port> = sessions.iter().map(|_| Port::reserve()).collect();
    let raw = ports.iter().zip(sessions).map(|(port, session)| {
        format!(
            "[[tcp]]\nlisten = \"127.0.0.1:{}\"\nsession = \"{session}\"\n",
            port.number()
        )
    });
    // All clients and all relays come from one address here.
    gateway.extend(&format!(
        "{}[limits]\nconnections = 10500\nconnections_per_source = 10500\nhandshakes = 4000\nhandshakes_per_source = 4000\n[tunnels]\nstreams_per_source = 12000\n",
        raw.collect::<String>()
    ));
    gateway.start_quietly();
    gateway.wait_ready();
    (gateway, ports)
}

fn relay(site: &Site, gateway: &Gateway, id: &str, target: &str) -> Relay {
    let session = format!(
        "[[session]]\nid = \"{id}\"\nprotocol = \"tcp\"\ntarget = \"{target}\"\naccess = \"public\"\n"
    );
    let mut relay = site.relay_stopped(id, &[gateway], &session);
    relay.start_quietly();
    relay
}

fn many_relays(site: &Site, gateway: &Gateway, count: usize, target: &str) -> Daemon {
    say(&format!("starting {count} relays in one process"));
    let file = gateway.path().join("gateway.json").display().to_string();
    let folder = site.path().join("many").display().to_string();
    let args = [&*file, &count.to_string(), target, &folder];
    start(site, "many-relays", &args)
}

/// Sends back what comes, in a process of its own.
fn echo(site: &Site) -> ((Daemon, Port), String) {
    let port = Port::reserve();
    let address = format!("127.0.0.1:{}", port.number());
    let daemon = start(site, "echo", &[&address]);
    sallyport_tests::service::wait_listening(port.number());
    ((daemon, port), address)
}

fn start(site: &Site, name: &str, args: &[&str]) -> Daemon {
    let log = site.path().join(format!("{name}.log"));
    Daemon::start(&program(name), args, &log)
}

/// Waits until so many sessions can be reached through a gateway that may just be starting.
fn wait_sessions(gateway: &Gateway, count: usize) {
    let until = Instant::now() + ALL_WITHIN;
    let mut found = None;
    while found.is_none_or(|found| found < count) {
        assert!(
            Instant::now() < until,
            "of {count} sessions {found:?} can be reached after {} s",
            ALL_WITHIN.as_secs()
        );
        thread::sleep(ASK_EVERY);
        found = sessions(gateway);
    }
}

/// How many sessions can be reached; none if the gateway does not answer. Its status would list all relays, which takes
/// time that they need themselves.
fn sessions(gateway: &Gateway) -> Option<usize> {
    let mut admin = UnixStream::connect(gateway.config().with_extension("sock")).ok()?;
    admin.set_read_timeout(Some(PATIENCE)).ok()?;
    let request = b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n";
    admin.write_all(request).ok()?;
    let mut answer = String::new();
    admin.read_to_string(&mut answer).ok()?;
    let value = |line: &str| {
        line.strip_prefix("sallyport_sessions ")?
            .trim()
            .parse()
            .ok()
    };
    answer.lines().find_map(value)
}

/// Opens all streams, one after the other and from relay to relay, and says how many seconds that took.
fn open(ports: &[Port]) -> (Vec<TcpStream>, f64) {
    let begun = Instant::now();
    let mut clients = Vec::with_capacity(RELAYS * STREAMS);
    for _ in 0..STREAMS {
        clients.extend(open_one_each(ports));
    }
    (clients, begun.elapsed().as_secs_f64())
}

fn open_one_each(ports: &[Port]) -> Vec<TcpStream> {
    let opened = ports.iter().map(|port| {
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port.number()))?;
        client.set_nodelay(true)?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.write_all(b"!")?;
        client.read_exact(&mut [0])?;
        Ok(client)
    });
    let opened: io::Result<Vec<_>> = opened.collect();
    opened.unwrap_or_else(|error| panic!("a stream cannot be opened: {error}"))
}

/// Sends a message of its own on every stream, and then awaits the echoes: how many came back right, and in how many
/// seconds.
fn alive(clients: &mut [TcpStream]) -> (f64, f64) {
    let begun = Instant::now();
    for (number, client) in clients.iter_mut().enumerate() {
        let _echo_tells = client.write_all(&number.to_le_bytes());
    }
    let echoed = |(number, client): &(usize, &mut TcpStream)| {
        let mut echo = [0; size_of::<usize>()];
        let mut client: &TcpStream = client;
        client.read_exact(&mut echo).is_ok() && echo == number.to_le_bytes()
    };
    let alive = clients.iter_mut().enumerate().filter(echoed).count();
    (to_f64(alive), begun.elapsed().as_secs_f64())
}

fn to_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}
