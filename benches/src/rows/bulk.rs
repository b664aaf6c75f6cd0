//! Throughput, and what it costs.

use crate::cost::{self, Cpu};
use crate::lab::Lab;
use crate::load::bulk::{Bulk, Direction};
use crate::load::traced;
use crate::outcome::{Cost, Goal, Metric, Outcome, Wanted};
use crate::progress::say;
use crate::rounds::rotate;
use crate::ways::{self, Running, Way};

/// Bytes before the first round, so that windows and buffers have grown.
const WARM_UP: u64 = 32 * 1024 * 1024;

/// What the goals are stated for; the other direction is measured beside it.
const STATED: Direction = Direction::Up;

/// Rounds of the other direction, which no goal is stated for.
const OTHER_ROUNDS: usize = 3;

/// More bytes where a goal is a few hundredths of a second, of which the kernel counts whole ones.
const BLIND_BYTES: u64 = 2;

/// MiB that are passed on while the gateway's reads are counted.
const TRACED_MIB: u64 = 256;

/// MiB that may be under way through memory when a stream is promoted.
const UNPROMOTED_MIB: f64 = 4.0;

pub(super) fn one_stream(lab: &Lab) -> Outcome {
    let ways = [
        Way::Direct,
        Way::Rathole,
        Way::RatholeNoise,
        Way::Haproxy,
        Way::Ssh,
        Way::Socat,
        Way::Frp,
        Way::Chisel,
        Way::Piko,
        Way::Tls,
    ];
    let quick = [Way::Direct, Way::Rathole, Way::RatholeNoise, Way::Tls];
    let ways = if lab.effort.every_peer {
        &ways[..]
    } else {
        &quick
    };
    let mut measured = measure(lab, ways, (1, lab.effort.bytes));
    let ours = Way::Tls.name();
    let [plain, noise] = [Way::Rathole.name(), Way::RatholeNoise.name()];
    let goals = [
        measured.throughput().ratio(
            "throughput ≥ 1.0× rathole plaintext",
            (ours, plain),
            Wanted::AtLeast(1.0),
        ),
        measured.throughput().ratio(
            "throughput ≥ 2.5× rathole noise",
            (ours, noise),
            Wanted::AtLeast(2.5),
        ),
        measured.cpu().ratio(
            "CPU-s/GB of gateway and relay ≤ 0.8× rathole plaintext",
            (ours, plain),
            Wanted::AtMost(0.8),
        ),
    ];
    measured.outcome.goals.extend(goals);
    measured.outcome
}

pub(super) fn eight_streams(lab: &Lab) -> Outcome {
    let ways = [
        Way::Direct,
        Way::Rathole,
        Way::Haproxy,
        Way::Ssh,
        Way::Tls,
        Way::Quic,
    ];
    let quick = [Way::Rathole, Way::Tls];
    let ways = if lab.effort.every_peer {
        &ways[..]
    } else {
        &quick
    };
    let mut measured = measure(lab, ways, (8, lab.effort.bytes));
    let goal = measured.throughput().ratio(
        "throughput ≥ 1.0× rathole plaintext",
        (Way::Tls.name(), Way::Rathole.name()),
        Wanted::AtLeast(1.0),
    );
    measured.outcome.goals.push(goal);
    measured.outcome
}

pub(super) fn quic(lab: &Lab) -> Outcome {
    let mut measured = measure(
        lab,
        &[Way::Tls, Way::Quic, Way::PlainQuinn],
        (1, lab.effort.bytes),
    );
    let quic = Way::Quic.name();
    let goals = [
        measured.throughput().ratio(
            "throughput ≥ 0.5× our TLS tunnel",
            (quic, Way::Tls.name()),
            Wanted::AtLeast(0.5),
        ),
        measured.throughput().ratio(
            "throughput ≥ 1.3× plain quinn",
            (quic, Way::PlainQuinn.name()),
            Wanted::AtLeast(1.3),
        ),
    ];
    measured.outcome.goals.extend(goals);
    measured.outcome
}

pub(super) fn blind(lab: &Lab) -> Outcome {
    let mut measured = measure(
        lab,
        &[Way::HaproxyBlind, Way::Blind],
        (1, lab.effort.bytes * BLIND_BYTES),
    );
    let gateway = measured.process(Way::Blind, "gateway");
    let outer = measured.process(Way::HaproxyBlind, "outer");
    let mut metric = Metric::new("CPU of the process that clients meet", "s/GB");
    for (way, costs) in [(Way::Blind, &gateway), (Way::HaproxyBlind, &outer)] {
        metric.push(way.name(), costs.iter().map(|cpu| cpu.total()).collect());
    }
    let outcome = &mut measured.outcome;
    outcome.goals.push(metric.ratio(
        "the gateway's CPU-s/GB ≤ 1.0× HAProxy's with splice-auto",
        (Way::Blind.name(), Way::HaproxyBlind.name()),
        Wanted::AtMost(1.0),
    ));
    outcome.goals.push(Goal {
        text: "the gateway's user-space part ≤ 0.05 s/GB".to_owned(),
        values: gateway.iter().map(|cpu| cpu.user).collect(),
        unit: "s/GB".into(),
        wanted: Wanted::AtMost(0.05),
    });
    outcome.metrics.push(metric);
    match through_memory(lab) {
        Ok(mebibytes) => outcome.goals.push(Goal {
            text: format!(
                "of {TRACED_MIB} MiB the gateway reads into its memory what comes before promotion, ≤ {UNPROMOTED_MIB} MiB"
            ),
            values: vec![mebibytes],
            unit: "MiB".into(),
            wanted: Wanted::AtMost(UNPROMOTED_MIB),
        }),
        Err(why) => outcome.notes.push(format!("Bytes through user memory were not counted: {why}.")),
    }
    outcome.notes.push(
        "After a real ClientHello the bytes are opaque: the ends do not encrypt, the proxies cannot know.".to_owned(),
    );
    measured.outcome
}

/// MiB of a stream that the gateway passes on blind and yet reads into its memory.
fn through_memory(lab: &Lab) -> Result<f64, String> {
    let (running, _absent) = ways::start(lab, &[Way::Blind]);
    let way = running.first().ok_or("it does not start")?;
    let mut processes = way.processes.iter();
    let gateway = processes.find(|process| process.name == "gateway");
    let bulk = Bulk {
        direction: STATED,
        streams: 1,
        bytes: TRACED_MIB * 1024 * 1024,
    };
    let read = traced::read_by(gateway.ok_or("it has no gateway")?, &lab.site(), || {
        let _untimed = bulk.run(way);
    })?;
    Ok(gigabytes(read) / gigabytes(1024 * 1024))
}

/// An outcome in the making, with every round's costs by process.
struct Measured {
    outcome: Outcome,
    by_process: Vec<ByRound>,
}

/// What one process used for each GB, by round.
struct ByRound {
    way: Way,
    process: String,
    cpu: Vec<Cpu>,
}

impl Measured {
    /// Of the direction that the goals are stated for.
    fn throughput(&self) -> &Metric {
        self.outcome.metrics.first().expect("it was measured")
    }

    fn cpu(&self) -> &Metric {
        self.outcome.metrics.get(1).expect("it was measured")
    }

    /// What a process used for each GB, by round; nothing if its way is absent.
    fn process(&self, way: Way, name: &str) -> Vec<Cpu> {
        let mut all = self.by_process.iter();
        let found = all.find(|found| found.way == way && found.process == name);
        found.map(|found| found.cpu.clone()).unwrap_or_default()
    }
}

fn measure(lab: &Lab, ways: &[Way], (streams, bytes): (u32, u64)) -> Measured {
    let (running, absent) = ways::start(lab, ways);
    let mut measured = Measured {
        outcome: Outcome {
            notes: absent,
            cost_of: format!("{}, s/GB", STATED.words()),
            ..Outcome::default()
        },
        by_process: Vec::new(),
    };
    for way in &running {
        let warm_up = Bulk {
            direction: STATED,
            streams,
            bytes: WARM_UP,
        };
        let _untimed = warm_up.run(way);
    }
    let rounds = lab.effort.rounds;
    for (direction, rounds) in [
        (STATED, rounds),
        (Direction::Down, rounds.min(OTHER_ROUNDS)),
    ] {
        let bulk = Bulk {
            direction,
            streams,
            bytes,
        };
        add(&mut measured, rounds, &running, &bulk);
    }
    measured
}

/// What one run found.
struct Run {
    gbit_per_second: f64,
    /// CPU-s/GB of each process.
    costs: Vec<Cpu>,
}

fn run(bulk: &Bulk, way: &Running) -> Run {
    let gigabytes = gigabytes(bulk.bytes);
    let (used, time) = cost::during(&way.processes, || bulk.run(way));
    Run {
        gbit_per_second: gigabytes * 8.0 / time.as_secs_f64(),
        costs: used.into_iter().map(|cpu| cpu.per(gigabytes)).collect(),
    }
}

fn add(measured: &mut Measured, rounds: usize, running: &[Running], bulk: &Bulk) {
    let words = bulk.direction.words();
    let runs = rotate(rounds, running, |round, way| {
        let found = run(bulk, way);
        let speed = found.gbit_per_second;
        say(&format!(
            "{words}, round {} of {rounds}: {} {speed:.2} Gbit/s",
            round + 1,
            way.name()
        ));
        found
    });
    let reference = Way::Rathole.name();
    let mut throughput = Metric::new(&format!("Throughput, {words}"), "Gbit/s").against(reference);
    let mut cpu = Metric::new(&format!("CPU of the proxies, {words}"), "s/GB").against(reference);
    for (way, runs) in running.iter().zip(&runs) {
        throughput.push(
            way.name(),
            runs.iter().map(|run| run.gbit_per_second).collect(),
        );
        if way.processes.is_empty() {
            continue;
        }
        let sum = |run: &Run| run.costs.iter().map(|cpu| cpu.total()).sum();
        cpu.push(way.name(), runs.iter().map(sum).collect());
        if bulk.direction == STATED {
            add_costs(measured, way, runs);
        }
    }
    measured.outcome.metrics.extend([throughput, cpu]);
}

fn add_costs(measured: &mut Measured, way: &Running, runs: &[Run]) {
    let rounds: Vec<_> = runs.iter().map(|run| run.costs.clone()).collect();
    let means = Cost::means(way.name(), &way.processes, &rounds);
    measured.outcome.costs.extend(means);
    for (at, process) in way.processes.iter().enumerate() {
        measured.by_process.push(ByRound {
            way: way.way,
            process: process.name.clone(),
            cpu: rounds
                .iter()
                .filter_map(|round| round.get(at).copied())
                .collect(),
        });
    }
}

fn gigabytes(bytes: u64) -> f64 {
    const MIB: u64 = 1024 * 1024;
    let mebibytes = u32::try_from(bytes / MIB).unwrap_or(u32::MAX);
    f64::from(mebibytes) * 1.048_576e-3
}
