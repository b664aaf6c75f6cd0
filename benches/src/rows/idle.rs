//! Programs that have nothing to do: their size, their memory, and how fast they are there.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use sallyport_tests::{Gateway, program};

use crate::lab::Lab;
use crate::outcome::{Goal, Metric, Outcome, Wanted};
use crate::peers;
use crate::ways::{self, Way};

/// Until a process has done what it does at its start.
const SETTLE: Duration = Duration::from_secs(3);

/// How often a starting process is asked whether it is there.
const ASK_EVERY: Duration = Duration::from_micros(200);

pub(super) fn processes(lab: &Lab) -> Outcome {
    let mut resident = Metric::new("Resident memory", "MiB");
    let mut private = Metric::new("Private memory", "MiB");
    let (running, notes) = ways::start(lab, &[Way::Tls, Way::Rathole]);
    thread::sleep(SETTLE);
    for way in &running {
        for process in &way.processes {
            let name = format!("{}: {}", way.name(), process.name);
            let memory = process.memory();
            resident.push(&name, vec![memory.resident / 1024.0]);
            private.push(&name, vec![memory.private / 1024.0]);
        }
    }
    let mut size = Metric::new("Stripped program", "MiB");
    for ours in ["sallyport-gateway", "sallyport-relay"] {
        size.push(ours, vec![mebibytes(&program(ours))]);
    }
    if let Ok(rathole) = peers::find("rathole") {
        size.push("rathole", vec![mebibytes(&rathole)]);
    }
    let mut start = Metric::new("From start to taking connections", "ms");
    start.push("Sallyport gateway", starts(lab));
    let goals = vec![
        at_most(
            "gateway: resident ≤ 10 MiB",
            &resident,
            "Sallyport TLS: gateway",
            10.0,
        ),
        at_most("gateway: stripped ≤ 8 MiB", &size, "sallyport-gateway", 8.0),
        at_most("gateway: start ≤ 50 ms", &start, "Sallyport gateway", 50.0),
        at_most(
            "relay: resident ≤ 25 MiB",
            &resident,
            "Sallyport TLS: relay",
            25.0,
        ),
    ];
    Outcome {
        metrics: vec![resident, private, size, start],
        goals,
        notes,
        ..Outcome::default()
    }
}

fn at_most(text: &str, metric: &Metric, of: &str, most: f64) -> Goal {
    Goal {
        text: text.to_owned(),
        values: metric.of(of).to_vec(),
        unit: metric.unit.clone(),
        wanted: Wanted::AtMost(most),
    }
}

/// Size of a program without its symbols.
fn mebibytes(path: &Path) -> f64 {
    let bytes = fs::metadata(path).map_or(0, |found| found.len());
    let kibibytes = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
    f64::from(kibibytes) / 1024.0
}

/// Milliseconds that the gateway takes to start, one a round.
fn starts(lab: &Lab) -> Vec<f64> {
    let site = lab.site();
    let mut gateway = site.gateway_init("gateway", "127.0.0.1", &[]);
    // Once more than measured: the first start makes keys that last.
    let mut times: Vec<f64> = (0..=lab.effort.rounds)
        .map(|_| start(&mut gateway))
        .collect();
    times.remove(0);
    times
}

fn start(gateway: &mut Gateway) -> f64 {
    let begun = Instant::now();
    gateway.start_quietly();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, gateway.port())).is_err() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "the gateway starts"
        );
        thread::sleep(ASK_EVERY);
    }
    let time = begun.elapsed().as_secs_f64() * 1e3;
    gateway.daemon().kill();
    time
}
