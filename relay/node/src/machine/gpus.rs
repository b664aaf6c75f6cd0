//! The graphics processors, as `nvidia-smi` tells of them. With a broken driver it hangs, so it is asked by a task of
//! its own, for a bounded time, and not again before it is gone.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use sallyport_ops::Tasks;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
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
    TooSlow(Child),
}

/// Asks again and again.
pub(super) fn follow(query: Query, tasks: &Tasks) -> watch::Receiver<Vec<Gpu>> {
    let (gpus, seen) = watch::channel(Vec::new());
    tasks.spawn(info_span!("gpus"), async move {
        let mut ticks = interval(query.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said = None;
        loop {
            ticks.tick().await;
            let (found, fault) = match query.ask().await {
                Asked::Gpus(found) => (found, None),
                Asked::Failed(cause) => (Vec::new(), Some(cause)),
                Asked::TooSlow(mut child) => {
                    gpus.send_replace(Vec::new());
                    warn!(within = ?query.within, "nvidia-smi gives no answer: this node offers no GPUs until it does");
                    // however long that takes: a second one would hang beside it
                    let _gone = child.wait().await;
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
    async fn ask(&self) -> Asked {
        let mut child = match self.start() {
            Ok(child) => child,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Asked::Gpus(Vec::new()),
            Err(cause) => return Asked::Failed(cause.to_string()),
        };
        let answered = timeout(self.within, answer(&mut child)).await;
        match answered {
            Ok(Ok((status, text))) if status.success() => Asked::Gpus(parse(&text)),
            Ok(Ok((status, _))) => Asked::Failed(status.to_string()),
            Ok(Err(cause)) => Asked::Failed(cause.to_string()),
            Err(_elapsed) => {
                kill(&child);
                Asked::TooSlow(child)
            }
        }
    }

    /// In a process group of its own, since it may be a script, and without our environment.
    fn start(&self) -> io::Result<Child> {
        let path = std::env::var_os("PATH").map(|path| ("PATH", path));
        Command::new(&self.program)
            .args(ARGUMENTS)
            .env_clear()
            .envs(path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

async fn answer(child: &mut Child) -> io::Result<(ExitStatus, String)> {
    let mut bytes = Vec::new();
    if let Some(out) = child.stdout.take() {
        out.take(MOST_BYTES).read_to_end(&mut bytes).await?;
    }
    let status = child.wait().await?;
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

fn kill(child: &Child) {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(group) = id.and_then(Pid::from_raw) {
        // one that is gone needs no signal
        let _gone = kill_process_group(group, Signal::KILL);
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

    use super::*;

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
        .ask()
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
        assert!(matches!(absent.ask().await, Asked::Gpus(gpus) if gpus.is_empty()));
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
    async fn one_that_hangs_is_killed_with_its_children() {
        let asked = asked("sleep 1000; true", Duration::from_millis(100)).await;

        let Asked::TooSlow(mut child) = asked else {
            panic!("it does not answer");
        };
        let ended = timeout(Duration::from_secs(30), child.wait()).await;
        assert!(!ended.expect("it is gone").expect("waited for").success());
    }

    proptest! {
        #[test]
        fn no_answer_panics(text in "[0-9,. \\n\\[\\]/NA-]{0,100}|.*") {
            let _gpus = parse(&text);
        }
    }
}
