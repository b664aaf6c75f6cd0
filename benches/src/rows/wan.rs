//! What is left of it when the gateway and the node are far apart.

use std::thread;
use std::time::Duration;

use sallyport_tests::{Link, Wan};

use crate::lab::Lab;
use crate::load::bulk;
use crate::load::{Times, iperf, opens, pings};
use crate::outcome::{Goal, Grid, Metric, Outcome, Series, Wanted};
use crate::peers;
use crate::progress::say;
use crate::rounds::rotate;
use crate::ways::{self, Running, Way};

/// The link itself, as iperf3 sees it.
const IPERF: &str = "iperf3 on the link";

/// Rounds take seconds here, so there are fewer, and fewest where nothing is left to chance.
const MOST_ROUNDS: usize = 5;
const WITHOUT_LOSS: usize = 3;

/// How long a stream runs before and while it is measured.
const TIMES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3));

/// The same in the table.
const SHORT_TIMES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));

/// How long small messages are sent alone there.
const ALONE: Duration = Duration::from_millis(1_500);

/// Time between two of them: more would be under way at once than a new TCP connection may send.
const EVERY: Duration = Duration::from_millis(10);

/// Streams of which the median of the first byte is taken.
const OPENS: u32 = 20;

pub(super) fn lossy(lab: &Lab) -> Outcome {
    let link = link(50, 200e6, 0.01);
    let ways = [Way::Tls, Way::Quic, Way::PlainQuinn];
    over(lab, link, |lab| {
        let (metric, mut outcome) = throughput(lab, &ways, rounds(lab), SHORT_TIMES);
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
    let ways = [Way::Tls, Way::Quic];
    over(lab, link(100, 500e6, 0.0), |lab| {
        let rounds = rounds(lab).min(WITHOUT_LOSS);
        let (metric, mut outcome) = throughput(lab, &ways, rounds, TIMES);
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
        let rounds = rounds(lab).min(WITHOUT_LOSS);
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
            unit: "×".into(),
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

/// One round of every delay and loss.
pub(super) fn table(lab: &Lab) -> Outcome {
    let mut outcome = Outcome {
        grids: Column::ALL.map(Column::grid).into(),
        ..Outcome::default()
    };
    for delay in [20, 50, 100] {
        for loss in [0.0, 0.001, 0.01] {
            let name = format!("{delay} ms, {} % loss", loss * 100.0);
            say(&name);
            let cell = laid(lab, link(delay, 100e6, loss), cell);
            outcome.notes.extend(cell.notes);
            for (grid, mut metric) in outcome.grids.iter_mut().zip(cell.metrics) {
                name.clone_into(&mut metric.name);
                grid.lines.push(metric);
            }
        }
    }
    outcome.notes.dedup();
    outcome.notes.push(format!(
        "There and back, and loss each way; a queue of one bandwidth-delay product. One round of each. What runs beside \
         `{IPERF}` is a plain TCP connection of its own."
    ));
    outcome
}

/// What is found at one delay and loss.
#[derive(Clone, Copy)]
enum Column {
    Throughput,
    Alone,
    Beside,
}

impl Column {
    const ALL: [Self; 3] = [Self::Throughput, Self::Alone, Self::Beside];

    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Throughput => ("One stream, session → user", "Mbit/s"),
            Self::Alone => ("64 bytes there and back, 99th percentile, alone", "ms"),
            Self::Beside => ("The same beside that stream", "ms"),
        }
    }

    fn grid(self) -> Grid {
        let (name, unit) = self.words();
        Grid::new(name, unit)
    }

    fn metric(self) -> Metric {
        let (name, unit) = self.words();
        let metric = Metric::new(name, unit);
        match self {
            Self::Throughput => metric.against(IPERF),
            Self::Alone | Self::Beside => metric,
        }
    }
}

/// One metric for each column.
fn cell(lab: &Lab) -> Outcome {
    let (running, mut notes) = ways::start(lab, &[Way::Direct, Way::Tls, Way::Quic, Way::Shipped]);
    let mut metrics = Column::ALL.map(Column::metric);
    for way in &running {
        let alone = pings::run_every(EVERY, way, ALONE).p99 / 1e3;
        let (settle, time) = SHORT_TIMES;
        let (name, rate, beside) = if way.way == Way::Direct {
            if let Err(absent) = peers::find("iperf3") {
                notes.push(absent);
                continue;
            }
            let (rate, beside) = beside_iperf(lab, way);
            (IPERF, rate, beside)
        } else {
            let (rate, beside) = bulk::counted(way, settle, || pings::run_every(EVERY, way, time));
            (way.name(), rate, beside)
        };
        let (rate, beside) = (rate / 1e6, beside.p99 / 1e3);
        say(&format!(
            "{name}: {rate:.1} Mbit/s, p99 alone {alone:.1} ms, beside {beside:.1} ms"
        ));
        for (metric, value) in metrics.iter_mut().zip([rate, alone, beside]) {
            metric.push(name, vec![value]);
        }
    }
    Outcome {
        metrics: metrics.into(),
        notes,
        ..Outcome::default()
    }
}

/// iperf3 and, while it is measured, small messages on a connection of their own.
fn beside_iperf(lab: &Lab, way: &Running) -> (f64, Times) {
    let (settle, time) = SHORT_TIMES;
    thread::scope(|scope| {
        let filling = scope.spawn(|| iperf::run(lab, SHORT_TIMES));
        thread::sleep(settle);
        let beside = pings::run_every(EVERY, way, time);
        (filling.join().expect("iperf3 is there"), beside)
    })
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

/// One stream from the session to the user on each way, and iperf3 in the same direction.
fn throughput(
    lab: &Lab,
    ways: &[Way],
    rounds: usize,
    times: (Duration, Duration),
) -> (Metric, Outcome) {
    let (running, notes) = ways::start(lab, ways);
    let mut subjects: Vec<Option<&Running>> = running.iter().map(Some).collect();
    if peers::find("iperf3").is_ok() {
        subjects.push(None);
    }
    let found = rotate(rounds, &subjects, |round, way| {
        let (name, rate) = match way {
            Some(way) => (way.name(), timed(way, times)),
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

/// Bits a second of one stream, taken over `time` after `settle`.
fn timed(way: &Running, (settle, time): (Duration, Duration)) -> f64 {
    bulk::counted(way, settle, || thread::sleep(time)).0
}

fn series(running: &[Running], found: Vec<Vec<f64>>) -> Vec<Series> {
    let named = running.iter().zip(found).map(|(way, values)| Series {
        way: way.name().to_owned(),
        values,
    });
    named.collect()
}
