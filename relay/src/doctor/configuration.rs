//! The cluster's configuration: which epoch this node works with, and whether the store has another one that it does not.

use sallyport_cluster::Cluster;
use sallyport_cluster::global::{Applied, EpochError, Epochs};
use sallyport_link::ClusterKeys;
use sallyport_ops::{admin, places};

use super::{Finding, Verdict, finding_of};
use crate::config::Config;
use crate::global::{kept, seal};

const BEHIND: &str = "see whether the relay's log says why; it takes a new epoch within seconds where it reaches the store";
const REFUSED: &str =
    "do what it says; `sallyport-relay config history` shows the epochs of the store";

/// What this node works with, as far as that can be told.
pub(super) struct Works {
    /// 0 for none.
    epoch: u64,
    /// Why it does not take what the store has.
    fault: Option<String>,
    runs: bool,
}

/// What the running relay works with; where none runs, what it took last.
pub(super) async fn works(config: &Config) -> Result<Works, Finding> {
    let socket = places::admin_socket("relay", &config.path);
    if let Ok(status) = admin::ask(&socket, "GET", "/status", None).await {
        let now = &status["config"];
        return Ok(Works {
            epoch: now["epoch"].as_u64().unwrap_or(0),
            fault: now["fault"].as_str().map(str::to_owned),
            runs: true,
        });
    }
    let last = accepted(config).map_err(|error| {
        said(
            Verdict::Fail,
            &error,
            "mend the file, or run doctor as the relay's user",
        )
    })?;
    Ok(Works {
        epoch: last.map_or(0, |last| last.epoch),
        fault: None,
        runs: false,
    })
}

fn accepted(config: &Config) -> Result<Option<Applied>, String> {
    kept(&places::state_dir(&config.path)).map_err(|error| error.to_string())
}

/// What is found where the store is this node's own, which only its relay opens.
pub(super) async fn alone(config: &Config) -> Finding {
    match works(config).await {
        Ok(works) if works.runs => finding(&works, None),
        Ok(_) => said(
            Verdict::Skip,
            "the relay does not run, and its store is its own: `sallyport-relay config history` reads it",
            "",
        ),
        Err(finding) => finding,
    }
}

/// What is found where `cluster` can be reached.
pub(super) async fn shared(config: &Config, cluster: &Cluster, keys: &ClusterKeys) -> Finding {
    let works = match works(config).await {
        Ok(works) => works,
        Err(finding) => return finding,
    };
    // what was accepted is asked for as the relay does, so that a store that was set back is told
    let floor = accepted(config).unwrap_or_default();
    let newest = match Epochs::new(
        cluster.store(),
        seal(true, keys),
        floor,
        config.node.as_str(),
    ) {
        Ok(epochs) => epochs.newest().await,
        Err(error) => Err(error.into()),
    };
    finding(
        &works,
        Some(newest.map(|newest| newest.map_or(0, |newest| newest.epoch))),
    )
}

/// Beside the newest epoch of the store, or why this node would not take it.
fn finding(works: &Works, newest: Option<Result<u64, EpochError>>) -> Finding {
    let (epoch, with) = (
        works.epoch,
        if works.runs {
            "works with"
        } else {
            "took last"
        },
    );
    if let Some(fault) = &works.fault {
        return said(Verdict::Fail, fault, REFUSED);
    }
    match newest {
        Some(Err(error)) => {
            let seen = format!("{error}; this node {with} epoch {epoch}");
            said(Verdict::Fail, &seen, REFUSED)
        }
        Some(Ok(newest)) if newest > epoch => {
            let seen = format!("this node {with} epoch {epoch}, and the store has epoch {newest}");
            let (verdict, cure) = if works.runs {
                (Verdict::Warn, BEHIND)
            } else {
                (Verdict::Ok, "")
            };
            said(verdict, &seen, cure)
        }
        _ if epoch == 0 => said(Verdict::Ok, "there is none yet", ""),
        Some(Ok(_)) => said(
            Verdict::Ok,
            &format!("this node {with} epoch {epoch}, the newest"),
            "",
        ),
        None => said(Verdict::Ok, &format!("this node {with} epoch {epoch}"), ""),
    }
}

fn said(verdict: Verdict, seen: &str, cure: &str) -> Finding {
    finding_of("", "config", verdict, (&seen, cure))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn works(epoch: u64, fault: Option<&str>, runs: bool) -> Works {
        Works {
            epoch,
            fault: fault.map(str::to_owned),
            runs,
        }
    }

    #[test]
    fn a_node_that_is_behind_or_refuses_is_told_from_one_that_is_well() {
        let older = || EpochError::Older { epoch: 2, floor: 7 };
        for (works, newest, verdict, part) in [
            (works(0, None, true), Some(Ok(0)), Verdict::Ok, "none yet"),
            (
                works(7, None, true),
                None,
                Verdict::Ok,
                "works with epoch 7",
            ),
            (works(7, None, true), Some(Ok(7)), Verdict::Ok, "the newest"),
            (
                works(7, None, true),
                Some(Ok(9)),
                Verdict::Warn,
                "has epoch 9",
            ),
            (
                works(7, None, false),
                Some(Ok(9)),
                Verdict::Ok,
                "took last epoch 7",
            ),
            (
                works(7, None, false),
                Some(Err(older())),
                Verdict::Fail,
                "set back",
            ),
            (
                works(7, Some("damaged"), true),
                Some(Ok(9)),
                Verdict::Fail,
                "damaged",
            ),
        ] {
            let found = finding(&works, newest);
            assert_eq!(found.verdict, verdict, "{found:?}");
            assert!(found.seen.contains(part), "{found:?}");
            let mends = matches!(verdict, Verdict::Warn | Verdict::Fail);
            assert_eq!(!found.cure.is_empty(), mends, "{found:?}");
        }
    }
}
