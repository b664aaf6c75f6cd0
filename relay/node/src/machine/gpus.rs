//! The graphics processors, as `nvidia-smi` tells of them. With a broken driver it hangs, so it is asked by a task of
//! its own, for a bounded time, and not again before it is gone.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use sallyport_ops::program::Done;
use sallyport_ops::{Bounds, Program, ProgramError, Programs, Tasks};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info_span, warn};

/// Most bytes of an answer.
const MOST_BYTES: u64 = 64 << 10;

/// The name comes last, because it alone may hold a comma.
const ARGUMENTS: [&str; 2] = [
    "--query-gpu=index,uuid,memory.total,memory.used,utilization.gpu,name",
    "--format=csv,noheader,nounits",
];
const COLUMNS: usize = 6;

const MIB: u64 = 1 << 20;

/// A graphics processor. A figure that the driver does not tell is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gpu {
    /// The driver's number of it, from 0.
    pub index: u32,
    /// Its own id, which stays.
    pub uuid: String,
    /// What it is.
    pub name: String,
    /// Bytes of its memory.
    pub memory_total: Option<u64>,
    /// Bytes of its memory that are taken.
    pub memory_used: Option<u64>,
    /// Percent of the last moments in which it worked, 0 to 100.
    pub utilization: Option<f64>,
}

/// How to ask for graphics processors.
#[derive(Debug, Clone)]
pub struct Query {
    /// `nvidia-smi`, or a path to it; a machine without the program has no graphics processors.
    pub program: OsString,
    /// Time between two questions, more than zero.
    pub every: Duration,
    /// How long it may take.
    pub within: Duration,
}

/// What became of a question.
enum Asked {
    Gpus(Vec<Gpu>),
    Failed(String),
    /// Killed, and perhaps not gone yet: a process in the driver cannot be killed.
    TooSlow,
    /// Not asked: the one that was too slow is still there, however long that takes. A second one would hang beside it.
    NotGone,
}

/// Asks again and again.
pub(super) fn follow(query: Query, tasks: &Tasks) -> watch::Receiver<Vec<Gpu>> {
    let (gpus, seen) = watch::channel(Vec::new());
    tasks.spawn(info_span!("gpus"), async move {
        let mut ticks = interval(query.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let programs = Programs::new(1);
        let mut said = None;
        loop {
            ticks.tick().await;
            let (found, fault) = match query.ask(&programs).await {
                Asked::Gpus(found) => (found, None),
                Asked::Failed(cause) => (Vec::new(), Some(cause)),
                Asked::NotGone => continue,
                Asked::TooSlow => {
                    gpus.send_replace(Vec::new());
                    warn!(within = ?query.within, "nvidia-smi gives no answer: this node offers no GPUs until it does");
                    continue;
                }
            };
            gpus.send_replace(found);
            if fault != said
                && let Some(cause) = &fault
            {
                warn!(%cause, "nvidia-smi fails: this node offers no GPUs until it answers");
            }
            said = fault;
        }
    });
    seen
}

impl Query {
    async fn ask(&self, programs: &Programs) -> Asked {
        let bounds = Bounds {
            time: self.within,
            output: MOST_BYTES,
        };
        match programs.run(&self.program(), None, &bounds).await {
            Ok(Done { status, stdout, .. }) if status.success() => {
                Asked::Gpus(parse(&String::from_utf8_lossy(&stdout)))
            }
            Ok(Done { status, .. }) => Asked::Failed(status.to_string()),
            Err(ProgramError::TimedOut { .. }) => Asked::TooSlow,
            Err(ProgramError::Busy { .. }) => Asked::NotGone,
            Err(ProgramError::Start { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                Asked::Gpus(Vec::new())
            }
            Err(
                error @ (ProgramError::Start { .. }
                | ProgramError::TooMuch { .. }
                | ProgramError::Talk { .. }),
            ) => Asked::Failed(error.to_string()),
        }
    }

    /// With nothing of our environment but what says where it is.
    fn program(&self) -> Program {
        let path = std::env::var_os("PATH").map(|path| ("PATH".into(), path));
        Program {
            environment: path.into_iter().collect(),
            ..Program::new(&self.program, ARGUMENTS)
        }
    }
}

fn parse(text: &str) -> Vec<Gpu> {
    text.lines().filter_map(gpu).collect()
}

fn gpu(line: &str) -> Option<Gpu> {
    let cells: Vec<&str> = line.splitn(COLUMNS, ',').map(str::trim).collect();
    let [index, uuid, total, used, utilization, name] = *cells.as_slice() else {
        return None;
    };
    let bytes = |mib: &str| mib.parse::<u64>().ok()?.checked_mul(MIB);
    let percent = |cell: &str| {
        cell.parse()
            .ok()
            .filter(|share| (0.0..=100.0).contains(share))
    };
    Some(Gpu {
        index: index.parse().ok()?,
        uuid: uuid.to_owned(),
        name: name.to_owned(),
        memory_total: bytes(total),
        memory_used: bytes(used),
        utilization: percent(utilization),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use proptest::prelude::*;
    use tokio::time::timeout;

    use super::*;

    /// Far above anything that is waited for here.
    const LONG: Duration = Duration::from_secs(30);

    const ANSWER: &str = "0, GPU-ab, 81559, 1024, 37, NVIDIA H100, 80GB\n\
                          1, GPU-cd, [N/A], [N/A], [Not Supported], GRID\nNo devices\n";

    /// A program that does what `script` says.
    fn program(dir: &Path, script: &str) -> OsString {
        let path = dir.join("nvidia-smi");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its owner");
        path.into()
    }

    async fn asked(script: &str, within: Duration) -> Asked {
        let dir = tempfile::tempdir().expect("a directory");
        let program = program(dir.path(), script);
        Query {
            program,
            every: within,
            within,
        }
        .ask(&Programs::new(1))
        .await
    }

    #[test]
    fn what_the_driver_does_not_tell_is_none() {
        let gpus = parse(ANSWER);

        assert_eq!(gpus.len(), 2);
        assert_eq!(
            (gpus[0].index, &*gpus[0].uuid, &*gpus[0].name),
            (0, "GPU-ab", "NVIDIA H100, 80GB")
        );
        assert_eq!(gpus[0].memory_total, Some(81_559 * MIB));
        assert_eq!(
            (gpus[0].memory_used, gpus[0].utilization),
            (Some(1024 * MIB), Some(37.0))
        );
        assert_eq!((gpus[1].memory_total, gpus[1].utilization), (None, None));
    }

    #[tokio::test]
    async fn an_answer_a_failure_and_an_absence_are_told_apart() {
        let within = Duration::from_secs(30);
        let script = format!("[ \"$1\" = '{}' ] && printf '{ANSWER}'", ARGUMENTS[0]);
        assert!(matches!(asked(&script, within).await, Asked::Gpus(gpus) if gpus == parse(ANSWER)));
        assert!(
            matches!(asked("exit 9", within).await, Asked::Failed(cause) if cause.contains('9'))
        );
        let absent = Query {
            program: "/nowhere/nvidia-smi".into(),
            every: within,
            within,
        };
        assert!(
            matches!(absent.ask(&Programs::new(1)).await, Asked::Gpus(gpus) if gpus.is_empty())
        );
    }

    #[tokio::test]
    async fn the_driver_is_asked_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let query = Query {
            program: program(dir.path(), &format!("printf '{ANSWER}'")),
            every: Duration::from_millis(10),
            within: Duration::from_secs(30),
        };
        let tasks = Tasks::new();
        let mut gpus = follow(query, &tasks);
        for _ in 0..3 {
            let changed = timeout(Duration::from_secs(30), gpus.changed()).await;
            changed.expect("in time").expect("it goes on");
            assert_eq!(*gpus.borrow(), parse(ANSWER));
        }
        tasks.stop();
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_and_the_driver_asked_again_when_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let query = |script: &str, within: Duration| Query {
            program: program(dir.path(), script),
            every: within,
            within,
        };
        let programs = Programs::new(1);
        let hangs = query("sleep 1000; true", Duration::from_millis(100));
        assert!(matches!(hangs.ask(&programs).await, Asked::TooSlow));

        let answers = query(&format!("printf '{ANSWER}'"), LONG);
        let asked_again = async {
            loop {
                match answers.ask(&programs).await {
                    Asked::NotGone => tokio::task::yield_now().await,
                    Asked::Gpus(gpus) => return gpus,
                    Asked::Failed(cause) => panic!("{cause}"),
                    Asked::TooSlow => panic!("it does answer"),
                }
            }
        };
        let gpus = timeout(LONG, asked_again).await.expect("it is gone");
        assert_eq!(gpus, parse(ANSWER));
    }

    proptest! {
        #[test]
        fn no_answer_panics(text in "[0-9,. \\n\\[\\]/NA-]{0,100}|.*") {
            let _gpus = parse(&text);
        }
    }
}
