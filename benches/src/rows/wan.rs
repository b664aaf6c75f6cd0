//! What is left of it when the gateway and the node are far apart.

use std::time::Duration;

use sallyport_tests::{Link, Wan};

use crate::lab::Lab;
use crate::load::bulk::{self, Direction};
use crate::load::{iperf, opens, pings};
use crate::outcome::{Goal, Metric, Outcome, Series, Wanted};
use crate::peers;
use crate::progress::say;
use crate::rounds::rotate;
use crate::ways::{self, Running, Way};

/// The link itself, as iperf3 sees it.
const IPERF: &str = "iperf3 on the link";

/// Rounds take seconds here, so there are fewer.
const MOST_ROUNDS: usize = 3;

/// How long a stream runs before and while it is measured.
const TIMES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(4));

/// The same in the table.
const SHORT_TIMES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));

/// Streams of which the median of the first byte is taken.
const OPENS: u32 = 20;

pub(super) fn lossy(lab: &Lab) -> Outcome {
    let link = link(50, 200e6, 0.01);
    let ways = [Way::Tls, Way::Quic, Way::PlainQuinn];
    over(lab, link, |lab| {
        let (metric, mut outcome) = throughput(lab, &ways);
        let quic = Way::Quic.name();
        outcome.goals = vec![
            metric.ratio(
                "50 ms, 1 % loss: throughput > 1× our TLS tunnel",
                (quic, Way::Tls.name()),
                Wanted::AtLeast(1.0),
            ),
            metric.ratio(
                "50 ms, 1 % loss: throughput ≥ 1.3× plain quinn",
                (quic, Way::PlainQuinn.name()),
                Wanted::AtLeast(1.3),
            ),
        ];
        outcome.metrics.push(metric);
        outcome
    })
}

pub(super) fn long_and_fast(lab: &Lab) -> Outcome {
    let ways = [Way::Rathole, Way::Tls, Way::Quic];
    over(lab, link(100, 500e6, 0.0), |lab| {
        let (metric, mut outcome) = throughput(lab, &ways);
        let text = "one stream over TLS ≥ 0.9× iperf3 on the link";
        let goal = metric.ratio(text, (Way::Tls.name(), IPERF), Wanted::AtLeast(0.9));
        outcome.goals.push(goal);
        outcome.metrics.push(metric);
        outcome
    })
}

pub(super) fn first_byte(lab: &Lab) -> Outcome {
    let ways = [Way::Direct, Way::Rathole, Way::Tls, Way::Quic];
    let rtt = 50;
    over(lab, link(rtt, 100e6, 0.0), |lab| {
        let (running, notes) = ways::start(lab, &ways);
        let rounds = rounds(lab);
        let found = rotate(rounds, &running, |round, way| {
            let millis = opens::first_byte(way, OPENS) / 1e3;
            say(&format!(
                "round {} of {rounds}: {} {millis:.1} ms",
                round + 1,
                way.name()
            ));
            millis
        });
        let mut metric = Metric::new("First byte back on a new stream", "ms");
        metric.series = series(&running, found);
        let rtt = f64::from(rtt);
        let goal = |way: Way| Goal {
            text: format!(
                "{}: first byte within 1.05 × the tunnel's 50 ms",
                way.name()
            ),
            values: metric
                .of(way.name())
                .iter()
                .map(|millis| millis / rtt)
                .collect(),
            unit: "×",
            wanted: Wanted::AtMost(1.05),
        };
        Outcome {
            goals: [Way::Tls, Way::Quic].map(goal).into(),
            metrics: vec![metric],
            notes,
            ..Outcome::default()
        }
    })
}

pub(super) fn pings_beside_bulk(lab: &Lab) -> Outcome {
    let ways = [Way::Rathole, Way::Tls, Way::Quic];
    let time = lab.effort.pings;
    over(lab, link(20, 100e6, 0.0), |lab| {
        let (running, notes) = ways::start(lab, &ways);
        let found = rotate(rounds(lab), &running, |_round, way| {
            let alone = pings::run(way, time).p99 / 1e3;
            let beside = bulk::beside(way, Direction::Down, |_| pings::run(way, time)).p99 / 1e3;
            say(&format!(
                "{}: p99 alone {alone:.1} ms, beside bulk {beside:.1} ms",
                way.name()
            ));
            (alone, beside)
        });
        let column = |name: &str, of: fn(&(f64, f64)) -> f64| {
            let mut metric = Metric::new(name, "ms").against(Way::Rathole.name());
            for (way, found) in running.iter().zip(&found) {
                metric.push(way.name(), found.iter().map(of).collect());
            }
            metric
        };
        Outcome {
            metrics: vec![
                column("99th percentile, alone", |(alone, _)| *alone),
                column("99th percentile, beside bulk", |(_, beside)| *beside),
            ],
            notes,
            ..Outcome::default()
        }
    })
}

/// One round of every delay and loss.
pub(super) fn table(lab: &Lab) -> Outcome {
    let mut whole = Outcome::default();
    for delay in [20, 50, 100] {
        for loss in [0.0, 0.001, 0.01] {
            let name = format!("{delay} ms, {} % loss", loss * 100.0);
            say(&name);
            let cell = laid(lab, link(delay, 100e6, loss), |lab| {
                let ways = [Way::Tls, Way::Quic];
                let (mut metric, mut outcome) = throughput_in(lab, &ways, (1, SHORT_TIMES));
                name.clone_into(&mut metric.name);
                outcome.metrics.push(metric);
                outcome
            });
            whole.metrics.extend(cell.metrics);
            whole.notes.extend(cell.notes);
        }
    }
    whole.notes.dedup();
    whole
}

/// A link with a queue of one bandwidth-delay product.
fn link(round_trip: u32, rate: f64, loss: f64) -> Link {
    let round_trip = Duration::from_millis(round_trip.into());
    Link {
        delay: round_trip / 2,
        rate,
        queue: rate / 8.0 * round_trip.as_secs_f64(),
        loss,
    }
}

/// Measures over a link, and says over which.
fn over(lab: &Lab, link: Link, measure: impl FnOnce(&Lab) -> Outcome) -> Outcome {
    let mut outcome = laid(lab, link, measure);
    outcome.notes.push(format!(
        "Link: {:.0} ms there and back, {:.0} Mbit/s, a queue of one bandwidth-delay product, {} % loss.",
        link.delay.as_secs_f64() * 2e3,
        link.rate / 1e6,
        link.loss * 100.0,
    ));
    outcome
}

/// Measures over a link; where none can be laid, the outcome says so.
fn laid(lab: &Lab, link: Link, measure: impl FnOnce(&Lab) -> Outcome) -> Outcome {
    let Some(wan) = Wan::lay(link) else {
        let skipped = "Skipped: this user may not make network namespaces and TUN devices.";
        say(skipped);
        return Outcome {
            notes: vec![skipped.to_owned()],
            ..Outcome::default()
        };
    };
    measure(&lab.over(&wan))
}

fn rounds(lab: &Lab) -> usize {
    lab.effort.rounds.min(MOST_ROUNDS)
}

fn throughput(lab: &Lab, ways: &[Way]) -> (Metric, Outcome) {
    throughput_in(lab, ways, (rounds(lab), TIMES))
}

/// One stream from the session to the user on each way, and iperf3 in the same direction.
fn throughput_in(
    lab: &Lab,
    ways: &[Way],
    (rounds, times): (usize, (Duration, Duration)),
) -> (Metric, Outcome) {
    let (running, notes) = ways::start(lab, ways);
    let mut subjects: Vec<Option<&Running>> = running.iter().map(Some).collect();
    if peers::find("iperf3").is_ok() {
        subjects.push(None);
    }
    let found = rotate(rounds, &subjects, |round, way| {
        let (name, rate) = match way {
            Some(way) => (way.name(), bulk::timed(lab, way, Direction::Down, times)),
            None => (IPERF, iperf::run(lab, times)),
        };
        let mbit = rate / 1e6;
        say(&format!(
            "round {} of {rounds}: {name} {mbit:.1} Mbit/s",
            round + 1
        ));
        mbit
    });
    let mut metric = Metric::new("One stream, session → user", "Mbit/s").against(IPERF);
    for (way, values) in subjects.iter().zip(found) {
        metric.push(way.map_or(IPERF, Running::name), values);
    }
    let outcome = Outcome {
        notes,
        ..Outcome::default()
    };
    (metric, outcome)
}

fn series(running: &[Running], found: Vec<Vec<f64>>) -> Vec<Series> {
    let named = running.iter().zip(found).map(|(way, values)| Series {
        way: way.name().to_owned(),
        values,
    });
    named.collect()
}
