//! Round-trip times of small messages.

use std::time::Duration;

use crate::lab::Lab;
use crate::load::bulk::{self, Direction};
use crate::load::{Times, pings};
use crate::outcome::{Goal, Metric, Outcome, Wanted};
use crate::progress::say;
use crate::rounds::rotate;
use crate::stats;
use crate::ways::{self, Running, Way};

pub(super) fn idle(lab: &Lab) -> Outcome {
    let ways = [
        Way::Direct,
        Way::Rathole,
        Way::RatholeNoise,
        Way::Haproxy,
        Way::Ssh,
        Way::Tls,
        Way::Quic,
    ];
    let quick = [Way::Direct, Way::Rathole, Way::Tls, Way::Quic];
    let ways = if lab.effort.every_peer {
        &ways[..]
    } else {
        &quick
    };
    let (running, notes) = ways::start(lab, ways);
    let rounds = lab.effort.rounds;
    let found = rotate(rounds, &running, |round, way| {
        let times = pings::run(way, lab.effort.pings);
        say(&format!(
            "round {} of {rounds}: {} p50 {:.0} µs, p99 {:.0} µs",
            round + 1,
            way.name(),
            times.p50,
            times.p99
        ));
        times
    });
    let mut p50 = Metric::new("Median", "µs").against(Way::Direct.name());
    let mut p99 = Metric::new("99th percentile", "µs").against(Way::Direct.name());
    for (way, times) in running.iter().zip(&found) {
        p50.push(way.name(), times.iter().map(|times| times.p50).collect());
        p99.push(way.name(), times.iter().map(|times| times.p99).collect());
    }
    let goals = vec![
        added(
            &p50,
            "added p50 over direct ≤ rathole plaintext's: ours less theirs",
        ),
        added(
            &p99,
            "added p99 over direct ≤ rathole plaintext's: ours less theirs",
        ),
    ];
    Outcome {
        metrics: vec![p50, p99],
        goals,
        notes,
        ..Outcome::default()
    }
}

/// What ours adds to the direct path, less what rathole adds: the direct path cancels out.
fn added(metric: &Metric, text: &str) -> Goal {
    let [ours, theirs] = [Way::Tls, Way::Rathole].map(|way| metric.of(way.name()));
    Goal {
        text: text.to_owned(),
        values: stats::by_round(ours, theirs, |ours, theirs| ours - theirs),
        unit: "µs".into(),
        wanted: Wanted::AtMost(0.0),
    }
}

/// One way, alone and beside a bulk stream in each direction.
#[derive(Clone, Copy)]
struct Beside {
    alone: Times,
    up: Times,
    down: Times,
}

/// One of the three, in words.
type Column = (&'static str, fn(&Beside) -> Times);

const ALONE: Column = ("alone", |found| found.alone);
const UP: Column = ("beside bulk, user → session", |found| found.up);
const DOWN: Column = ("beside bulk, session → user", |found| found.down);

pub(super) fn loaded(lab: &Lab) -> Outcome {
    let ways = [Way::Rathole, Way::Ssh, Way::Tls, Way::Quic];
    let quick = [Way::Rathole, Way::Tls, Way::Quic];
    let ways = if lab.effort.every_peer {
        &ways[..]
    } else {
        &quick
    };
    let (running, notes) = ways::start(lab, ways);
    let rounds = lab.effort.rounds;
    let found = rotate(rounds, &running, |round, way| {
        let found = beside(way, lab.effort.pings);
        say(&format!(
            "round {} of {rounds}: {} p99 alone {:.0} µs, beside bulk up {:.0} µs, down {:.0} µs",
            round + 1,
            way.name(),
            found.alone.p99,
            found.up.p99,
            found.down.p99,
        ));
        found
    });
    let mut outcome = Outcome {
        notes,
        ..Outcome::default()
    };
    for column in [ALONE, UP, DOWN] {
        outcome.metrics.extend(metrics(&running, &found, column));
    }
    for (way, found) in running.iter().zip(&found) {
        if matches!(way.way, Way::Tls | Way::Quic) {
            outcome
                .goals
                .extend([UP, DOWN].map(|column| undisturbed(way, found, column)));
        }
    }
    outcome.notes.push(
        "Each stream of rathole has a connection of its own; ours share one tunnel.".to_owned(),
    );
    outcome
}

fn beside(way: &Running, time: Duration) -> Beside {
    Beside {
        alone: pings::run(way, time),
        up: bulk::beside(way, Direction::Up, |_| pings::run(way, time)),
        down: bulk::beside(way, Direction::Down, |_| pings::run(way, time)),
    }
}

fn metrics(running: &[Running], found: &[Vec<Beside>], (words, of): Column) -> [Metric; 2] {
    let metric = |name: &str, quantile: fn(Times) -> f64| {
        let mut metric =
            Metric::new(&format!("{name}, {words}"), "µs").against(Way::Rathole.name());
        for (way, found) in running.iter().zip(found) {
            let values = found.iter().map(|found| quantile(of(found)));
            metric.push(way.name(), values.collect());
        }
        metric
    };
    [
        metric("Median", |times| times.p50),
        metric("99th percentile", |times| times.p99),
    ]
}

fn undisturbed(way: &Running, found: &[Beside], (words, of): Column) -> Goal {
    let added = found
        .iter()
        .map(|found| (of(found).p99 - found.alone.p99) / 1e3);
    Goal {
        text: format!("{}: p99 {words} ≤ p99 alone + 3 ms", way.name()),
        values: added.collect(),
        unit: "ms".into(),
        wanted: Wanted::AtMost(3.0),
    }
}
