//! Calls beside each other: nobody waits behind a hanging one, and nobody waits without bound.

use std::fs;
use std::time::Duration;

use sallyport_ops::Tasks;
use sallyport_scripts::scripts::MOST_IN_CHAIN;
use sallyport_scripts::{Fault, Moment, Script, Scripts, Settings};
use serde_json::json;
use tokio::time::timeout;

use crate::{LONG, call, settings, until_there_are, workers};

const HANG: &str = "() => { const a = []; a.length = 2 ** 32 - 1; a.sort() }";

/// Workers whose hanging calls are not killed within a test.
fn patient(workers: usize, waiting: usize) -> Scripts {
    let mut settings = Settings {
        workers,
        waiting,
        wait: LONG,
        ..settings()
    };
    settings.limits.kill = 2 * LONG;
    Scripts::start(settings, &Tasks::new())
}

#[tokio::test]
async fn others_go_on_while_one_hangs() {
    let scripts = patient(2, 10);
    let input = json!({});
    let hangs = call(&scripts, HANG, &input);
    let others = async {
        for n in 0..50 {
            let function = format!("() => {n}");
            assert_eq!(call(&scripts, &function, &input).await, Ok(json!(n)));
        }
    };
    tokio::select! {
        biased;
        () = others => {}
        early = hangs => panic!("it came back: {early:?}"),
    }
}

#[tokio::test]
async fn one_more_than_may_wait_is_refused() {
    let scripts = patient(1, 1);
    let input = json!({});
    let mut hangs = std::pin::pin!(call(&scripts, HANG, &input));
    let mut waits = std::pin::pin!(call(&scripts, HANG, &input));
    let [hanging, waiting] = [
        timeout(Duration::from_millis(1), &mut hangs).await,
        timeout(Duration::from_millis(1), &mut waits).await,
    ];
    assert!(hanging.is_err() && waiting.is_err());
    let refused = call(&scripts, "() => 1", &input).await.expect_err("full");
    assert_eq!(refused.fault, Fault::Busy(1));
}

#[tokio::test]
async fn nobody_waits_longer_than_calls_may() {
    let mut settings = settings();
    settings.workers = 1;
    settings.wait = Duration::from_millis(50);
    settings.limits.interrupt = LONG;
    settings.limits.kill = 2 * LONG;
    let scripts = Scripts::start(settings, &Tasks::new());
    let input = json!({});
    let mut hangs = std::pin::pin!(call(&scripts, HANG, &input));
    assert!(timeout(Duration::from_millis(1), &mut hangs).await.is_err());
    let waited = call(&scripts, "() => 1", &input).await.expect_err("late");
    assert_eq!(waited.fault, Fault::Waited(Duration::from_millis(50)));
}

#[tokio::test]
async fn a_chain_that_is_too_long_is_not_begun() {
    let scripts = patient(1, 1);
    let link = |n: usize| Script::new(format!("s{n}"), "() => 0");
    let moment = Moment { now: 0, seed: 1 };
    for (length, steps) in [(MOST_IN_CHAIN, MOST_IN_CHAIN), (MOST_IN_CHAIN + 1, 1)] {
        let chain: Vec<_> = (0..length).map(link).collect();
        let taken = scripts.choose(&chain, &json!({}), &[], moment).await;
        assert_eq!(taken.len(), steps, "{taken:?}");
    }
}

#[tokio::test]
async fn who_stops_waiting_for_a_call_ends_it() {
    let scripts = patient(1, 1);
    until_there_are(2).await;
    let before = workers();
    let input = json!({});
    let left = timeout(Duration::from_millis(200), call(&scripts, HANG, &input)).await;
    assert!(left.is_err(), "it hangs");
    // only this turn is there
    assert_eq!(call(&scripts, "() => 1", &input).await, Ok(json!(1)));
    until_there_are(2).await;
    let after = workers();
    assert!(
        after.iter().any(|pid| !before.contains(pid)),
        "{before:?} {after:?}"
    );
}

#[tokio::test]
async fn a_worker_is_replaced_after_its_calls() {
    let mut settings = settings();
    settings.workers = 1;
    settings.limits.calls = 2;
    let scripts = Scripts::start(settings, &Tasks::new());
    until_there_are(2).await;
    let before = workers();
    for n in 0..10 {
        assert_eq!(
            call(&scripts, "input => input", &json!(n)).await,
            Ok(json!(n))
        );
    }
    until_there_are(2).await;
    let after = workers();
    assert!(
        after.iter().all(|pid| !before.contains(pid)),
        "{before:?} {after:?}"
    );
}

#[tokio::test]
async fn a_worker_that_died_while_idle_costs_nobody_a_call() {
    let scripts = patient(1, 1);
    until_there_are(2).await;
    for pid in workers() {
        let stat = format!("/proc/{pid}/stat");
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
        // until it is a zombie
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(call(&scripts, "() => 2", &json!({})).await, Ok(json!(2)));
}

#[tokio::test]
async fn without_workers_a_call_says_why() {
    for (program, said) in [
        ("/no/such", "No such file"),
        ("/bin/true", "ended with exit status: 0"),
    ] {
        let settings = Settings {
            program: program.into(),
            ..settings()
        };
        let scripts = Scripts::start(settings, &Tasks::new());
        let error = call(&scripts, "() => 1", &json!({}))
            .await
            .expect_err("none");
        assert!(
            matches!(&error.fault, Fault::Unavailable(why) if why.contains(said)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_workers_end_with_their_owner() {
    let (tasks, settings) = (Tasks::new(), settings());
    let count = settings.workers + 1;
    let scripts = Scripts::start(settings, &tasks);
    until_there_are(count).await;
    drop(scripts);
    tasks.stop();
    until_there_are(0).await;
}
