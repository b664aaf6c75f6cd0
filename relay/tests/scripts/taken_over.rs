//! A worker whose script has taken it over: it says what it likes, and the relay believes only what is its turn to be said.

use std::time::{Duration, Instant};

use sallyport_ops::Tasks;
use sallyport_scripts::{Fault, Moment, Script, Scripts, Settings};
use serde_json::json;

use crate::{LONG, call, settings};

// messages of a worker, each with its length in front
const READY: &str = r"\2\0\0\0\12\0";
const BEGUN: &str = r"\2\0\0\0\22\0";
const PASS: &str = r"\4\0\0\0\32\2\42\0";
const NOTHING: &str = r"\2\0\0\0\32\0";
const VALUE: &str = r"\7\0\0\0\32\5\12\3\12\0011";
const ASK: &str = r"\4\0\0\0\42\2\22\0";
const FINISHED: &str = r"\2\0\0\0\52\0";

/// Workers that are ready, take in a call each, and then say `words`.
fn saying(words: &str) -> Scripts {
    let take = "n=$(head -c 4 | od -An -tu4); head -c $n >/dev/null";
    let script = format!("{take}; printf '{READY}'; {take}; printf '{words}'; exec sleep 600");
    let settings = Settings {
        program: "/bin/sh".into(),
        arguments: vec!["-c".to_owned(), script],
        workers: 1,
        ..settings()
    };
    Scripts::start(settings, &Tasks::new())
}

#[tokio::test]
async fn whatever_is_out_of_turn_ends_the_worker_at_once() {
    let turn = "a report out of turn, for which it was killed";
    for (words, said) in [
        (VALUE.to_owned(), turn),
        (FINISHED.to_owned(), turn),
        (READY.to_owned(), turn),
        (ASK.to_owned(), turn),
        ([BEGUN, BEGUN].concat(), turn),
        ([BEGUN, FINISHED].concat(), turn),
        ([BEGUN, NOTHING].concat(), turn),
        ([BEGUN, ASK].concat(), turn),
        ([BEGUN, PASS].concat(), turn),
        ([BEGUN, VALUE, VALUE].concat(), turn),
        ([BEGUN, VALUE, BEGUN].concat(), turn),
        ([BEGUN, r"\2\0\0\0\377\377"].concat(), "a malformed message"),
        (
            [BEGUN, r"\377\377\377\377"].concat(),
            "a message of 4294967295 bytes",
        ),
    ] {
        let came = call(&saying(&words), "() => 1", &json!({})).await;
        // what came before counts as it is: a call has one value
        let fault = match came {
            Ok(value) => {
                assert!(
                    words.contains(VALUE) && value == json!(1),
                    "{words}: {value}"
                );
                continue;
            }
            Err(error) => error.fault,
        };
        assert!(
            matches!(&fault, Fault::Died(how) if how.contains(said)),
            "{words}: {fault:?}"
        );
    }
}

#[tokio::test]
async fn a_chain_has_as_many_functions_as_it_has() {
    let scripts = saying(&[BEGUN, PASS].concat().repeat(100));
    let chain = [Script::new("one", "() => 0"), Script::new("two", "() => 0")];
    let moment = Moment { now: 0, seed: 1 };
    let begun = Instant::now();
    let steps = scripts.choose(&chain, &json!({}), &[], moment).await;
    assert!(begun.elapsed() < LONG);
    assert_eq!(steps.len(), 2, "{steps:?}");
}

#[tokio::test]
async fn one_that_stays_silent_is_killed_on_time() {
    let error = call(&saying(BEGUN), "() => 1", &json!({})).await;
    let fault = error.expect_err("killed").fault;
    assert_eq!(fault, Fault::Killed(Duration::from_millis(200)));
}

#[tokio::test]
async fn what_is_said_between_two_calls_is_not_taken_for_the_next_ones() {
    let scripts = saying(&[BEGUN, VALUE, FINISHED, BEGUN].concat());
    for n in 0..4 {
        let came = call(&scripts, &format!("() => {n}"), &json!({})).await;
        assert_eq!(came, Ok(json!(1)), "call {n}");
    }
}
