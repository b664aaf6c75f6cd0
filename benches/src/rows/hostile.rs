//! Scripts that harm, in workers of the release binary, and what others feel of them: the relay's own placement in this
//! process decides for both.

use std::fs;
use std::pin::pin;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sallyport_cluster::global::Applied;
use sallyport_ops::Tasks;
use sallyport_placement::{Action, Placement};
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::placement::{applied, placement, request};
use crate::cost::Process;
use crate::lab::Lab;
use crate::outcome::{Goal, Metric, Outcome, Wanted};
use crate::progress::say;
use crate::stats;

/// The scripts, which the relay's tests go through one by one.
const SCRIPTS: &str = include_str!("../../../relay/tests/scripts/hostile.toml");

/// Sizes of the cluster, and how often an honest decision is meant to begin there, whether or not the one before has ended.
const SIZES: [(u32, Duration); 2] = [
    (20, Duration::from_millis(5)),
    (1_000, Duration::from_millis(25)),
];

/// Honest decisions are made for so long with nothing beside them, after some that are not counted.
const ALONE: Duration = Duration::from_secs(6);
const WARM_UP: Duration = Duration::from_secs(1);

/// Longest wait for a worker to go or to come: not a figure.
const LONG: Duration = Duration::from_secs(30);

/// A script that has ended costs its worker by then, or not at all.
const LATER: Duration = Duration::from_millis(50);

/// How often one looks whether all workers are there.
const LOOK_EVERY: Duration = Duration::from_micros(500);

#[derive(Debug, Deserialize)]
struct File {
    script: Vec<Hostile>,
}

#[derive(Debug, Clone, Deserialize)]
struct Hostile {
    source: String,
}

/// What one round came to, in milliseconds.
#[derive(Debug)]
struct Round {
    alone: Honest,
    beside: Honest,
    harm: Harm,
}

/// What came of decisions of others, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Honest {
    p99: f64,
    /// Decisions that chose no server.
    failed: u32,
}

/// What came of the scripts, in milliseconds.
#[derive(Debug, Default)]
struct Harm {
    /// From each decision's begin to the end of the worker that it cost.
    gone: Vec<f64>,
    /// From there until as many workers as before are ready.
    back: Vec<f64>,
    /// Decisions that ended with an error for the user.
    told: u32,
}

pub(super) fn beside_forty(lab: &Lab) -> Outcome {
    let file: File = toml::from_str(SCRIPTS).expect("TOML");
    let mut alone = Metric::new("A decision, 99 of 100 within, alone", "ms");
    let mut beside = Metric::new("A decision, 99 of 100 within, beside a hostile one", "ms");
    let mut gone = Metric::new("Until a hostile script's worker is gone, longest", "ms");
    let mut back = Metric::new("From there until all workers are ready, longest", "ms");
    let mut goals = Vec::new();
    for (size, every) in SIZES {
        let way = format!("{size} servers");
        let round = |number| {
            let round = round(size, every, &file.script);
            round.tell(&way, number);
            round
        };
        let rounds: Vec<Round> = (1..=lab.effort.rounds).map(round).collect();
        let of = |of: fn(&Round) -> f64| rounds.iter().map(of).collect();
        alone.push(&way, of(|round| round.alone.p99));
        beside.push(&way, of(|round| round.beside.p99));
        gone.push(&way, of(|round| stats::most(&round.harm.gone)));
        back.push(&way, of(|round| stats::most(&round.harm.back)));
        goals.extend(goals_of(&way, &rounds, file.script.len()));
    }
    Outcome {
        metrics: vec![alone, beside, gone, back],
        goals,
        notes: vec![format!(
            "{} scripts, each the only one of its chain, while decisions are made by the usual chain for logins, 200 a second \
             among 20 servers and 40 among 1000; their time counts from when they were meant to begin. The next script begins \
             when all workers are ready again. Servers say something new every two seconds. The placement is the relay's own \
             code on one thread of the benchmark's process, its workers are the relay's binary.",
            file.script.len(),
        )],
        ..Outcome::default()
    }
}

fn goals_of(way: &str, rounds: &[Round], scripts: usize) -> [Goal; 5] {
    let goal = |text: &str, unit: &'static str, wanted, of: fn(&Round) -> f64| Goal {
        text: format!("{way}: {text}"),
        values: rounds.iter().map(of).collect(),
        unit: unit.into(),
        wanted,
    };
    let all = f64::from(u32::try_from(scripts).unwrap_or(u32::MAX));
    [
        goal(
            "99 of 100 decisions are delayed by 5 ms at most",
            "ms",
            Wanted::AtMost(5.0),
            |round| round.beside.p99 - round.alone.p99,
        ),
        goal(
            "none of them fails",
            "decisions",
            Wanted::AtMost(0.0),
            |round| f64::from(round.alone.failed + round.beside.failed),
        ),
        goal(
            "a hostile script's worker is gone within 250 ms",
            "ms",
            Wanted::AtMost(250.0),
            |round| stats::most(&round.harm.gone),
        ),
        goal(
            "all workers are ready 100 ms later",
            "ms",
            Wanted::AtMost(100.0),
            |round| stats::most(&round.harm.back),
        ),
        goal(
            "every script ends with an error for its user",
            "scripts",
            Wanted::AtLeast(all),
            |round| f64::from(round.harm.told),
        ),
    ]
}

impl Round {
    fn tell(&self, way: &str, number: usize) {
        say(&format!(
            "{way}, round {number}: p99 {:.2} ms alone, {:.2} ms beside; {} failed; gone {:.0} ms, ready {:.0} ms",
            self.alone.p99,
            self.beside.p99,
            self.alone.failed + self.beside.failed,
            stats::most(&self.harm.gone),
            stats::most(&self.harm.back),
        ));
    }
}

fn round(servers: u32, every: Duration, scripts: &[Hostile]) -> Round {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    runtime.expect("threads").block_on(async {
        let tasks = Tasks::new();
        let (config, changes) = watch::channel(Some(applied(1, &json!({}))));
        let placement = placement((servers, true), changes, &tasks);
        decisions(&placement, every, sleep(WARM_UP)).await;
        let alone = decisions(&placement, every, sleep(ALONE)).await;
        let over = CancellationToken::new();
        let harm = harm(&placement, &config, scripts, over.clone().drop_guard());
        let (beside, harm) = tokio::join!(
            decisions(&placement, every, over.cancelled()),
            Box::pin(harm)
        );
        tasks.drain(Duration::ZERO).await;
        Round {
            alone,
            beside,
            harm,
        }
    })
}

/// Makes honest decisions until it is over.
async fn decisions(
    placement: &Placement,
    every: Duration,
    over: impl Future<Output = ()>,
) -> Honest {
    let mut due = tokio::time::Instant::now();
    let (mut made, mut times) = (JoinSet::new(), Vec::new());
    let mut over = pin!(over);
    loop {
        tokio::select! {
            () = &mut over => break,
            () = sleep_until(due) => {}
        }
        let (placement, meant) = (placement.clone(), due);
        made.spawn(async move {
            let placed = Box::pin(placement.place(request(Action::Login))).await;
            (meant.elapsed().as_secs_f64() * 1e3, placed.is_err())
        });
        due += every;
    }
    let mut failed = 0;
    while let Some(done) = made.join_next().await {
        let (time, has_failed) = done.expect("no panic");
        times.push(time);
        failed += u32::from(has_failed);
    }
    times.sort_by(f64::total_cmp);
    Honest {
        p99: times[times.len() * 99 / 100],
        failed,
    }
}

/// Lets the scripts do their harm one after the other.
async fn harm(
    placement: &Placement,
    config: &watch::Sender<Option<Applied>>,
    scripts: &[Hostile],
    _over: DropGuard,
) -> Harm {
    let mut harm = Harm::default();
    for (epoch, script) in (2..).zip(scripts) {
        config.send_replace(Some(applied(
            epoch,
            &json!({
                "scripts": { "hostile": { "kind": "javascript", "source": script.source } },
                "chains": { "start": { "scripts": ["hostile"] } },
            }),
        )));
        let (ended, watched) = (CancellationToken::new(), ready());
        let begun = Instant::now();
        let watch = spawn_blocking({
            let ended = ended.clone();
            move || until_replaced(&watched, begun, &ended)
        });
        let placed = Box::pin(placement.place(request(Action::Start))).await;
        ended.cancel();
        harm.told += u32::from(placed.is_err());
        if let Some((gone, back)) = watch.await.expect("no panic") {
            harm.gone.push(gone);
            harm.back.push(back);
        }
    }
    harm
}

/// Milliseconds from `begun` until one of the workers is gone, and from there until there are as many again; none if the
/// script that ended cost none.
fn until_replaced(
    workers: &[u32],
    begun: Instant,
    ended: &CancellationToken,
) -> Option<(f64, f64)> {
    let open = |id: &u32| {
        let id = Pid::from_raw(i32::try_from(*id).ok()?)?;
        pidfd_open(id, PidfdFlags::empty()).ok()
    };
    let open: Vec<_> = workers.iter().filter_map(open).collect();
    let mut polled: Vec<_> = open
        .iter()
        .map(|worker| PollFd::new(worker, PollFlags::IN))
        .collect();
    let later = Timespec::try_from(LATER).expect("short");
    loop {
        let over = ended.is_cancelled();
        if poll(&mut polled, Some(&later)).expect("our own children") > 0 {
            break;
        }
        if over {
            return None;
        }
    }
    let gone = Instant::now();
    while ready().len() < workers.len() {
        assert!(gone.elapsed() < LONG, "a worker does not come up");
        thread::sleep(LOOK_EVERY);
    }
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Some((milliseconds(gone - begun), milliseconds(gone.elapsed())))
}

/// The workers that have closed themselves in, which is the last thing that they do before they are ready.
fn ready() -> Vec<u32> {
    let mut workers = Process::new("bench", std::process::id()).children();
    workers.retain(|id| {
        let status = fs::read_to_string(format!("/proc/{id}/status"));
        status.is_ok_and(|status| {
            status.contains("\nSeccomp:\t2\n") && !status.contains("\nState:\tZ")
        })
    });
    workers
}
