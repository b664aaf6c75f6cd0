//! What a client that does nothing costs in memory: the slope between few clients and many.

use std::thread;
use std::time::Duration;

use crate::cost::Process;
use crate::lab::Lab;
use crate::load::idle::Client;
use crate::outcome::{Goal, Metric, Outcome, Wanted};
use crate::progress::say;
use crate::ways::{self, Running, Way};

const FEW: u32 = 200;
const MANY: u32 = 1_200;

/// For what is freed late, by timers or by an allocator.
const SETTLE: Duration = Duration::from_secs(3);

/// When memory has to be back after a burst.
const AFTER_BURST: Duration = Duration::from_secs(30);

/// Each kind of client of ours with the most KiB that it may cost the gateway.
const PROMISED: [(Way, f64); 4] = [
    (Way::Https, 16.0),
    (Way::Upgraded, 12.0),
    (Way::Tls, 12.0),
    (Way::Blind, 2.0),
];

/// One in so many clients is asked at the end whether it is still served.
const ASKED: usize = 10;

/// Private memory of each process of a way at each stage.
struct Stages {
    few: Vec<f64>,
    many: Vec<f64>,
    after: Vec<f64>,
    /// Clients that were no longer served at the end, of those that were asked.
    lost: usize,
}

pub(super) fn of_idle_clients(lab: &Lab) -> Outcome {
    let peers = [Way::Rathole, Way::Haproxy];
    let ways: Vec<Way> = PROMISED.iter().map(|(way, _)| *way).chain(peers).collect();
    let (running, notes) = ways::start_for(lab, &ways, MANY);
    let found = stages(&running);
    let mut outcome = Outcome {
        notes,
        ..Outcome::default()
    };
    let mut idle = Metric::new("Private memory of each further idle client", "KiB");
    let mut after = Metric::new("The same 30 s after a burst of 1 MiB on each", "KiB");
    let clients = f64::from(MANY - FEW);
    for (way, stages) in running.iter().zip(&found) {
        if stages.lost > 0 {
            let lost = format!(
                "{} of one in {ASKED} clients were no longer served",
                stages.lost
            );
            outcome.notes.push(format!("{}: {lost}", way.name()));
        }
        for (at, process) in way.processes.iter().enumerate() {
            let name = format!("{}: {}", way.name(), process.name);
            let slope = |stage: &[f64]| {
                let grown = stage
                    .get(at)
                    .zip(stages.few.get(at))
                    .map(|(many, few)| many - few);
                grown.unwrap_or(f64::NAN) / clients
            };
            idle.push(&name, vec![slope(&stages.many)]);
            after.push(&name, vec![slope(&stages.after)]);
        }
    }
    for (way, most) in PROMISED {
        let name = format!("{}: gateway", way.name());
        outcome
            .goals
            .extend(
                [(&idle, "idle"), (&after, "30 s after a burst")].map(|(metric, when)| Goal {
                    text: format!("{}, {when}: gateway ≤ {most} KiB", way.name()),
                    values: metric.of(&name).to_vec(),
                    unit: "KiB".into(),
                    wanted: Wanted::AtMost(most),
                }),
            );
    }
    outcome.notes.push(format!(
        "Slopes between {FEW} and {MANY} clients; measured once."
    ));
    outcome.metrics = vec![idle, after];
    outcome
}

fn stages(running: &[Running]) -> Vec<Stages> {
    let mut clients: Vec<Vec<Client>> = running.iter().map(|_| Vec::new()).collect();
    connect(running, &mut clients, FEW);
    let few = private(running);
    connect(running, &mut clients, MANY);
    let many = private(running);
    for (way, clients) in running.iter().zip(&mut clients) {
        say(&format!(
            "{}: a burst on each of {MANY} clients",
            way.name()
        ));
        for client in clients {
            client
                .burst(way)
                .unwrap_or_else(|error| panic!("{}: {error}", way.name()));
        }
    }
    say("waiting until memory has to be given back");
    thread::sleep(AFTER_BURST - SETTLE);
    let after = private(running);
    let asked = running.iter().zip(&mut clients).map(|(way, clients)| {
        let asked = clients.iter_mut().step_by(ASKED);
        let lost = asked.filter_map(|client| client.burst(way).err());
        lost.inspect(|error| say(&format!("{}: {error}", way.name())))
            .count()
    });
    let stages = few.into_iter().zip(many).zip(after).zip(asked);
    stages
        .map(|(((few, many), after), lost)| Stages {
            few,
            many,
            after,
            lost,
        })
        .collect()
}

fn connect(running: &[Running], clients: &mut [Vec<Client>], until: u32) {
    for (way, clients) in running.iter().zip(clients) {
        say(&format!("{}: {until} clients", way.name()));
        let connected = u32::try_from(clients.len()).unwrap_or(u32::MAX);
        for _ in connected..until {
            let client = Client::connect(way);
            clients.push(client.unwrap_or_else(|error| panic!("{}: {error}", way.name())));
        }
    }
}

fn private(running: &[Running]) -> Vec<Vec<f64>> {
    thread::sleep(SETTLE);
    let of = |process: &Process| process.memory().private;
    running
        .iter()
        .map(|way| way.processes.iter().map(of).collect())
        .collect()
}
