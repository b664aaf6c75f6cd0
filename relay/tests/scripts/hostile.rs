//! Forty ways to do harm. Each call ends in time with a message that names what happened, and the next call finds a
//! worker that knows nothing of it.

use std::time::Instant;

use sallyport_ops::Tasks;
use sallyport_scripts::{Fault, ScriptError, Scripts};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{LONG, call, scripts, settings, until_there_are};
use End::{Full, Killed, Refused, Returned, Stopped, Threw};

/// The scripts, with what each comes to.
const HOSTILE: &str = include_str!("hostile.toml");

/// The file of the scripts.
#[derive(Debug, Deserialize)]
struct File {
    script: Vec<Hostile>,
}

#[derive(Debug, Deserialize)]
struct Hostile {
    what: String,
    end: End,
    source: String,
}

/// What a hostile function may come to.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum End {
    Stopped,
    Killed,
    Full,
    Threw(String),
    Refused,
    Returned,
}

/// Workers whose limits of time no busy machine reaches with what ends by itself.
fn unhurried() -> Scripts {
    let mut settings = settings();
    settings.limits.interrupt = LONG / 2;
    settings.limits.kill = LONG;
    Scripts::start(settings, &Tasks::new())
}

#[tokio::test]
async fn each_hostile_script_is_named_and_gone_in_time() {
    let (hurried, unhurried) = (scripts(), unhurried());
    let fresh =
        "() => [1, 2].map(x => x + 1).join() + typeof {}.serverId + JSON.stringify({ a: 1 })";
    let expected = call(&unhurried, fresh, &json!({})).await.expect("works");
    let file: File = toml::from_str(HOSTILE).expect("TOML");
    assert!(file.script.len() >= 40);
    for Hostile { what, end, source } in &file.script {
        let ends_by_itself = matches!(end, Threw(_) | Refused | Returned);
        let scripts = if ends_by_itself { &unhurried } else { &hurried };
        let begun = Instant::now();
        let came = call(scripts, source, &json!({})).await;
        let took = begun.elapsed();
        // 250 ms, on a machine that does nothing else: see the benchmark's row HOSTILE
        assert!(took < LONG / 10, "{what} took {took:?}");
        assert!(is_right(end, &came), "{what}: {came:?} instead of {end:?}");
        let next = call(&unhurried, fresh, &json!({})).await;
        assert_eq!(next.as_ref(), Ok(&expected), "after {what}");
    }
    until_there_are(2 * (settings().workers + 1)).await;
}

fn is_right(end: &End, came: &Result<Value, ScriptError>) -> bool {
    let fault = came.as_ref().err().map(|error| &error.fault);
    match (end, fault) {
        (Stopped, Some(Fault::TimedOut(_) | Fault::Killed(_)))
        | (Killed, Some(Fault::Killed(_)))
        | (
            Full,
            Some(Fault::OutOfMemory(_) | Fault::TimedOut(_) | Fault::Killed(_) | Fault::Died(_)),
        )
        | (Refused, Some(Fault::Unusable(_) | Fault::TooLarge { .. }))
        | (Returned, None) => true,
        (Threw(words), Some(Fault::Threw(said))) => said.contains(words.as_str()),
        (Full, Some(Fault::Threw(said))) => said.contains("too large"),
        _ => false,
    }
}

#[tokio::test]
async fn memory_that_runs_out_is_called_so() {
    let scripts = unhurried();
    let bomb = "() => new Uint8Array(2 ** 30)";
    let error = call(&scripts, bomb, &json!({})).await.expect_err("no room");
    assert_eq!(
        error.to_string(),
        "`script` ran out of memory: it may have 48 MiB"
    );
}

#[tokio::test]
async fn a_script_that_is_stopped_three_times_is_left_alone() {
    let scripts = scripts();
    // interrupted, which costs a worker as well
    let endless = "() => { for (;;); }";
    for _ in 0..3 {
        let error = call(&scripts, endless, &json!({})).await;
        let error = error.expect_err("stopped");
        assert!(
            matches!(error.fault, Fault::TimedOut(_) | Fault::Killed(_)),
            "{error}"
        );
    }
    let error = call(&scripts, endless, &json!({})).await;
    let error = error.expect_err("suspended");
    assert!(matches!(error.fault, Fault::Suspended { .. }), "{error}");

    let sort = "() => { const a = []; a.length = 2 ** 32 - 1; a.sort() }";
    for _ in 0..3 {
        let error = call(&scripts, sort, &json!({})).await.expect_err("killed");
        assert_eq!(
            error.to_string(),
            "`script` did not stop when it was interrupted and was killed after 200 ms"
        );
    }
    let error = call(&scripts, sort, &json!({}))
        .await
        .expect_err("suspended");
    assert!(matches!(error.fault, Fault::Suspended { .. }), "{error}");
    let edited = call(&scripts, "() => 1", &json!({})).await;
    assert_eq!(edited, Ok(json!(1)));
}
