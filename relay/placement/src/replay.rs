//! A placement once more, on what it was made upon: the same scripts with the same input, time and chance.

use sallyport_scripts::Moment;
use serde::{Deserialize, Serialize};

use crate::engine::{Engine, Work};
use crate::trace::{Attempt, Outcome, Step, Trace, Verdict};
use crate::verdict::Decided;

/// How a placement and its repetition compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replay {
    /// The trace.
    pub id: String,
    /// Whether all is as it was.
    pub same: bool,
    /// Each decision.
    pub attempts: Vec<Repeated>,
}

/// How a decision and its repetition compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Repeated {
    /// Each script that was reached then or now.
    pub steps: Vec<Compared>,
    /// What came of it then.
    pub was: Verdict,
    /// What comes of it now.
    pub is: Verdict,
    /// Whether all is as it was.
    pub same: bool,
}

/// What a script did then and does now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    /// Its name.
    pub script: String,
    /// What it did; none if it was not reached.
    pub was: Option<Outcome>,
    /// What it does now; none if it is not reached.
    pub is: Option<Outcome>,
    /// Whether that and what it wrote are as they were.
    pub same: bool,
}

/// Repeats a placement. Programs are not run again: what they said then is taken for what they say now.
pub async fn replay(engine: &Engine, trace: &Trace) -> Replay {
    let mut attempts = Vec::new();
    for attempt in &trace.attempts {
        attempts.push(repeat(engine, trace, attempt).await);
    }
    Replay {
        id: trace.id.clone(),
        same: attempts.iter().all(|attempt| attempt.same),
        attempts,
    }
}

async fn repeat(engine: &Engine, trace: &Trace, attempt: &Attempt) -> Repeated {
    let Moment { now, seed } = attempt.moment;
    let input = trace.request.input(&trace.node);
    let work = Work {
        chain: &trace.chain,
        input: &input,
        servers: &attempt.servers,
        moment: Moment { now, seed },
        recorded: Some(&attempt.steps),
        aside: true,
    };
    let steps = engine.run(work).await;
    let came = Decided {
        action: trace.request.action,
        servers: &attempt.servers,
        dropped: &attempt.dropped,
        steps: &steps,
        on_script_failure: trace.on_script_failure,
        seed,
    }
    .verdict();
    let (was, is) = (attempt.verdict.clone(), Verdict::from(&came));
    let steps = compared(&attempt.steps, &steps);
    let same = was == is && steps.iter().all(|step| step.same);
    Repeated {
        steps,
        was,
        is,
        same,
    }
}

fn compared(was: &[Step], is: &[Step]) -> Vec<Compared> {
    let places = 0..was.len().max(is.len());
    let pair = |place: usize| {
        let (was, is) = (was.get(place), is.get(place));
        let script = was.or(is).map(|step| step.script.clone());
        let all = |step: &Step| (step.version.clone(), step.outcome.clone(), step.log.clone());
        Compared {
            script: script.unwrap_or_default(),
            same: was.map(all) == is.map(all),
            was: was.map(|step| step.outcome.clone()),
            is: is.map(|step| step.outcome.clone()),
        }
    };
    places.map(pair).collect()
}
