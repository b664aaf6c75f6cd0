//! The figures, one function for those that one fault shows.

use std::fs::File;
use std::io::{Read as _, copy, sink};
use std::process::Stdio;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use sallyport_tests::{Apart, BOUND, Program};

use crate::card::Card;

/// Measures what it shows in every round.
type Measure = fn(&mut Card);

/// Everything, by the name that `--only` takes.
pub(crate) const ALL: [(&str, Measure); 4] = [
    ("killed relay", killed_relay),
    ("killed gateway", killed_gateway),
    ("UDP dropped", udp_dropped),
    ("black hole", black_hole),
];

/// A dead peer is found within 6 s, and clients are told.
const DEAD: f64 = 6.0;

/// A request that cannot be served is refused at once.
const AT_ONCE: f64 = 0.05;

/// A session is served 2 s after its relay was started.
const SERVED: f64 = 2.0;

/// Relays are back 3 s after their gateway was started.
const BACK: f64 = 3.0;

/// A tunnel over TLS is up within 1 s where UDP is dropped.
const ON_TLS: f64 = 1.0;

/// Relays are back 5 s after a black hole has closed.
const HEALED: f64 = 5.0;

/// Longest absence of a gateway.
const LONGEST_AWAY: Duration = Duration::from_secs(10);

/// Between two pings: faults begin at other moments in between, round by round.
const PING: Duration = Duration::from_secs(2);

/// A tunnel that lives as long is no sign of a gateway that keeps falling.
const STEADY: Duration = Duration::from_secs(3);

/// A state is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

const UDP: &str = "meta l4proto udp";

fn killed_relay(card: &mut Card) {
    for transport in ["quic", "tls"] {
        let Some(mut apart) = apart(None, transport) else {
            return;
        };
        let endless = File::create(apart.files().join("endless")).expect("writable");
        endless.set_len(1 << 40).expect("it has nothing in it");
        for round in 0..card.rounds {
            sleep(STEADY + PING * round / card.rounds);
            let downloads = ["--http1.1", "--http2"].map(|version| download(&apart, version));
            let killed = Instant::now();
            apart.relay.daemon().kill();
            for download in downloads {
                let (ended, complete) = download.join().expect("it ends");
                let name = format!("clients told that their relay was killed, {transport}");
                card.note(&name, DEAD, ended.duration_since(killed).as_secs_f64());
                if complete {
                    card.fault("a cut answer looked complete".to_owned());
                }
            }
            let (status, seconds) = apart.ask("/hello");
            let name = format!("new request refused after that, {transport}");
            card.note(&name, AT_ONCE, seconds);
            if status != 503 {
                card.fault(format!("{status} instead of 503"));
            }
            let started = Instant::now();
            apart.relay.start();
            served(&apart);
            let name = format!("session served after its relay was started, {transport}");
            card.note(&name, SERVED, started.elapsed().as_secs_f64());
        }
    }
}

fn killed_gateway(card: &mut Card) {
    let ways = [
        ("quic", None),
        ("tls", None),
        ("auto", None),
        ("auto", Some(UDP)),
    ];
    for (transport, fault) in ways {
        let Some(mut apart) = apart(fault, transport) else {
            return;
        };
        let without = fault.map_or("", |_udp| ", UDP dropped");
        let name = format!("relay back after its gateway was started, {transport}{without}");
        for round in 0..card.rounds {
            sleep(STEADY);
            apart.gateway.daemon().kill();
            sleep(LONGEST_AWAY * (round + 1) / card.rounds);
            let started = Instant::now();
            apart.gateway.start();
            served(&apart);
            card.note(&name, BACK, started.elapsed().as_secs_f64());
        }
    }
}

fn udp_dropped(card: &mut Card) {
    let Some(mut apart) = apart(Some(UDP), "auto") else {
        return;
    };
    for _round in 0..card.rounds {
        apart.relay.daemon().kill();
        let before = count(&apart.relay, &["tunnel up"]);
        let started = Instant::now();
        apart.relay.start();
        until("a tunnel", || {
            (count(&apart.relay, &["tunnel up"]) > before).then_some(())
        });
        card.note(
            "relay on TLS where UDP is dropped, from its start",
            ON_TLS,
            started.elapsed().as_secs_f64(),
        );
        served(&apart);
    }
}

fn black_hole(card: &mut Card) {
    for transport in ["quic", "tls"] {
        let Some(apart) = apart(None, transport) else {
            return;
        };
        for round in 0..card.rounds {
            sleep(STEADY + PING * round / card.rounds);
            let tunnels = apart.transports().len();
            let ends: [(&str, &Program, &str); 2] = [
                ("gateway", &apart.gateway, "tunnel ended"),
                ("relay", &apart.relay, "tunnel lost"),
            ];
            let mut waiting = ends
                .map(|(who, program, line)| (who, program, line, count(program, &[line]) + tunnels))
                .to_vec();
            let cut = Instant::now();
            apart.cable.cut();
            until("both ends notice", || {
                waiting.retain(|(who, program, line, lines)| {
                    let noticed = count(program, &[line]) >= *lines;
                    if noticed {
                        let name = format!("{who} notices a black hole, {transport}");
                        card.note(&name, DEAD, cut.elapsed().as_secs_f64());
                    }
                    !noticed
                });
                waiting.is_empty().then_some(())
            });
            let healed = Instant::now();
            apart.cable.heal();
            served(&apart);
            let name = format!("relay back after the black hole closed, {transport}");
            card.note(&name, HEALED, healed.elapsed().as_secs_f64());
        }
    }
}

fn apart(fault: Option<&str>, transport: &str) -> Option<Apart> {
    Apart::start(fault, &format!("transport = \"{transport}\""))
}

/// A download at full speed that is under way. It yields when it ended, and whether curl takes it for complete.
fn download(apart: &Apart, version: &str) -> JoinHandle<(Instant, bool)> {
    let mut curl = apart.curl();
    curl.args([version, "--max-time", "60"])
        .arg(apart.gateway.session_url("web", "/endless"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = curl.spawn().expect("curl is installed");
    let mut body = child.stdout.take().expect("it is piped");
    let mut first = vec![0; 1 << 20];
    body.read_exact(&mut first).expect("it begins");
    spawn(move || {
        let _all = copy(&mut body, &mut sink());
        let ended = child.wait().expect("ours");
        (Instant::now(), ended.success())
    })
}

/// Waits until the session answers.
fn served(apart: &Apart) {
    until("the session is served", || {
        (apart.ask("/hello").0 == 200).then_some(())
    });
}

/// How many lines of a program's log have all of `parts`.
fn count(program: &Program, parts: &[&str]) -> usize {
    let log = program.log();
    let told = log.lines();
    told.filter(|line| parts.iter().all(|part| line.contains(part)))
        .count()
}

/// As `eventually_some`, looking more often than a test needs.
fn until<T>(what: &str, mut state: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = state() {
            return found;
        }
        assert!(since.elapsed() < BOUND, "still not after {BOUND:?}: {what}");
        sleep(LOOK_AGAIN);
    }
}
