//! What a reader that is stuck costs those beside it on its tunnel.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::lab::Lab;
use crate::load::bulk::{Bulk, Direction, unread};
use crate::outcome::{Goal, Metric, Outcome, Wanted};
use crate::progress::say;
use crate::rounds::rotate;
use crate::stats;
use crate::ways::{self, Running, Way};

/// Streams beside the one that is stuck.
const OTHERS: u32 = 100;

/// Until every buffer on the way of the one that nobody reads is full.
const FILL: Duration = Duration::from_millis(500);

/// Milliseconds until the slowest of the others has all its bytes.
#[derive(Clone, Copy)]
struct Found {
    alone: f64,
    beside: f64,
}

pub(super) fn of_a_stuck_reader(lab: &Lab) -> Outcome {
    let (running, notes) = ways::start(lab, &[Way::Rathole, Way::Tls, Way::Quic]);
    let bulk = Bulk {
        direction: Direction::Down,
        streams: OTHERS,
        bytes: lab.effort.bytes,
    };
    let found = rotate(lab.effort.rounds, &running, |round, way| {
        let found = measure(&bulk, way, round);
        let Found { alone, beside } = found;
        say(&format!(
            "{}: {alone:.0} ms alone, {beside:.0} ms beside",
            way.name()
        ));
        found
    });
    let mut alone = Metric::new("Until the slowest of a hundred has its bytes", "ms");
    let mut beside = Metric::new("The same beside one that nobody reads", "ms");
    for (way, found) in running.iter().zip(&found) {
        alone.push(way.name(), found.iter().map(|found| found.alone).collect());
        let values = found.iter().map(|found| found.beside);
        beside.push(way.name(), values.collect());
    }
    let goals = [Way::Tls, Way::Quic].map(|way| Goal {
        text: format!("{}: the slowest slows by at most 10 %", way.name()),
        values: stats::ratios(beside.of(way.name()), alone.of(way.name())),
        unit: "×".into(),
        wanted: Wanted::AtMost(1.1),
    });
    Outcome {
        metrics: vec![alone, beside],
        goals: goals.into(),
        notes,
        ..Outcome::default()
    }
}

/// Both, and each goes first in every other round.
fn measure(bulk: &Bulk, way: &Running, round: usize) -> Found {
    let alone = || bulk.run(way).as_secs_f64() * 1e3;
    let beside = || {
        let _stuck: TcpStream = unread(way);
        thread::sleep(FILL);
        bulk.run(way).as_secs_f64() * 1e3
    };
    if round.is_multiple_of(2) {
        let alone = alone();
        let beside = beside();
        Found { alone, beside }
    } else {
        let beside = beside();
        let alone = alone();
        Found { alone, beside }
    }
}
