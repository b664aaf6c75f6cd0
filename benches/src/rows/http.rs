//! Requests over HTTPS.

use crate::cost;
use crate::lab::Lab;
use crate::load::{Times, http, requests};
use crate::outcome::{Cost, Metric, Outcome, Wanted};
use crate::peers;
use crate::progress::say;
use crate::rounds::rotate;
use crate::ways::{self, Running, Way};

/// What one way did in one round.
struct Found {
    h1: f64,
    /// CPU-µs of each process for a request over HTTP/1.1.
    costs: Vec<cost::Cpu>,
    /// Nothing for a way without TLS, which no browser would speak HTTP/2 with.
    tls: Option<(f64, Times)>,
}

pub(super) fn requests(lab: &Lab) -> Outcome {
    for tool in ["wrk", "h2load"] {
        peers::find(tool).unwrap_or_else(|absent| panic!("{absent}"));
    }
    let (running, absent) = ways::start(lab, &[Way::Nginx, Way::NginxRathole, Way::Https]);
    let steady = running
        .iter()
        .filter(|way| way.way != Way::Nginx)
        .map(|way| http::wrk(way, lab.effort.requests) / 2.0)
        .fold(f64::MAX, f64::min);
    let rounds = lab.effort.rounds;
    let found = rotate(rounds, &running, |round, way| {
        let found = measure(lab, way, steady);
        say(&format!(
            "round {} of {rounds}: {} {:.0} requests/s",
            round + 1,
            way.name(),
            found.h1
        ));
        found
    });
    let mut outcome = tell(&running, &found, steady);
    outcome.notes.extend(absent);
    outcome
}

fn measure(lab: &Lab, way: &Running, steady: f64) -> Found {
    let time = lab.effort.requests;
    let (used, h1) = cost::during(&way.processes, || http::wrk(way, time));
    let millions = h1 * time.as_secs_f64() / 1e6;
    Found {
        h1,
        costs: used.into_iter().map(|cpu| cpu.per(millions)).collect(),
        tls: (way.way != Way::Nginx)
            .then(|| (http::h2load(way, time), requests::run(way, steady, time))),
    }
}

fn tell(running: &[Running], found: &[Vec<Found>], steady: f64) -> Outcome {
    let peer = Way::NginxRathole.name();
    let mut h1 = Metric::new("HTTP/1.1, 32 connections", "requests/s").against(peer);
    let mut h2 = Metric::new("HTTP/2, 8 connections × 16 streams", "requests/s").against(peer);
    let name = format!("99th percentile, HTTP/1.1 at a steady {steady:.0}/s");
    let mut p99 = Metric::new(&name, "µs").against(peer);
    let mut cpu = Metric::new("CPU of the proxies, HTTP/1.1", "µs/request").against(peer);
    let mut outcome = Outcome {
        cost_of: "HTTP/1.1, µs/request".to_owned(),
        ..Outcome::default()
    };
    for (way, found) in running.iter().zip(found) {
        h1.push(way.name(), found.iter().map(|found| found.h1).collect());
        if way.way == Way::Nginx {
            continue;
        }
        let tls = || found.iter().filter_map(|found| found.tls);
        h2.push(way.name(), tls().map(|(rate, _)| rate).collect());
        p99.push(way.name(), tls().map(|(_, times)| times.p99).collect());
        let sum = |found: &Found| found.costs.iter().map(|cpu| cpu.total()).sum();
        cpu.push(way.name(), found.iter().map(sum).collect());
        let by_round: Vec<_> = found.iter().map(|found| found.costs.clone()).collect();
        outcome
            .costs
            .extend(Cost::means(way.name(), &way.processes, &by_round));
    }
    let ways = (Way::Https.name(), peer);
    outcome.goals = vec![
        h1.ratio(
            "HTTP/1.1: ≥ 1.0× nginx TLS + rathole",
            ways,
            Wanted::AtLeast(1.0),
        ),
        h2.ratio(
            "HTTP/2: ≥ 1.0× nginx TLS + rathole",
            ways,
            Wanted::AtLeast(1.0),
        ),
        p99.ratio(
            "p99 at half the slower's rate no worse",
            ways,
            Wanted::AtMost(1.0),
        ),
    ];
    outcome.metrics = vec![h1, h2, p99, cpu];
    outcome
}
