//! What the machine says about itself, looked at every two seconds by a task of its own.

mod cpu;
mod gpus;
mod users;

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use procfs::{FromRead as _, LoadAverage, Meminfo, Uptime};
use sallyport_ops::Tasks;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info_span, warn};

pub use gpus::{Gpu, Query};

/// Time between two looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Facts of a machine. A figure that cannot be found out is zero or empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Machine {
    /// The kernel's name of the host.
    pub hostname: String,
    /// Processors that are on line.
    pub ncpu: u32,
    /// As uname(2) has it, like `x86_64`.
    pub arch: String,
    /// Name and version of the system (os-release(5)).
    pub os: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Percent of all processors together that was busy between the last two looks, 0 to 100.
    pub cpu: f64,
    /// Load averages of the last minute, five and fifteen minutes.
    pub loadavg: [f64; 3],
    /// Bytes of memory that nothing uses.
    pub freemem: u64,
    /// Bytes of memory.
    pub totalmem: u64,
    /// Bytes of memory that programs may still get without swapping.
    pub mem_available: u64,
    /// Seconds since the machine was started.
    pub uptime: u64,
    /// Users who are logged in at the machine by console, terminal or ssh; each once, by name.
    pub logged_in_users: Vec<String>,
    /// Graphics processors that `nvidia-smi` knows.
    pub gpus: Vec<Gpu>,
}

/// Looks at a machine.
#[derive(Debug)]
pub struct Probe {
    root: PathBuf,
    fixed: Machine,
    ticks: Option<cpu::Ticks>,
    faults: Vec<String>,
}

impl Default for Probe {
    fn default() -> Self {
        Self::below(Path::new("/"))
    }
}

impl Probe {
    /// A probe of the machine whose file systems are mounted below `root`.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let fixed = Machine {
            hostname: text(uname.nodename()),
            arch: text(uname.machine()),
            kernel: text(uname.release()),
            os: system_name(root),
            ..Machine::default()
        };
        Self {
            root: root.to_owned(),
            fixed,
            ticks: None,
            faults: Vec::new(),
        }
    }

    /// Looks once. It reads small files of /proc and the list of logins, and waits for them.
    pub fn look(&mut self) -> Machine {
        let proc = self.root.join("proc");
        let mut faults = Vec::new();
        let load = known(LoadAverage::from_file(proc.join("loadavg")), &mut faults);
        let memory = known(Meminfo::from_file(proc.join("meminfo")), &mut faults);
        let uptime = known(Uptime::from_file(proc.join("uptime")), &mut faults);
        let ticks = known(cpu::Ticks::read(&proc.join("stat")), &mut faults);
        let mut machine = self.fixed.clone();
        if let Some(load) = load {
            machine.loadavg = [load.one, load.five, load.fifteen]
                .map(f64::from)
                .map(cents);
        }
        if let Some(memory) = memory {
            machine.freemem = memory.mem_free;
            machine.totalmem = memory.mem_total;
            machine.mem_available = memory.mem_available.unwrap_or(memory.mem_free);
        }
        machine.uptime = uptime.map_or(0, |uptime| uptime.uptime_duration().as_secs());
        if let Some(ticks) = ticks {
            machine.ncpu = ticks.processors;
            machine.cpu = ticks.busy_since(self.ticks);
            self.ticks = Some(ticks);
        }
        machine.logged_in_users = users::logged_in(&self.root);
        self.complain(faults);
        machine
    }

    /// Says once what cannot be read.
    fn complain(&mut self, faults: Vec<String>) {
        if faults != self.faults {
            for cause in &faults {
                warn!(%cause, "a figure of the machine cannot be read");
            }
            self.faults = faults;
        }
    }
}

fn known<T, E: Display>(read: Result<T, E>, faults: &mut Vec<String>) -> Option<T> {
    read.map_err(|cause| faults.push(cause.to_string())).ok()
}

/// As the kernel prints load averages: what a wider float adds is noise.
fn cents(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// `PRETTY_NAME` of os-release(5).
fn system_name(root: &Path) -> String {
    let text = ["etc/os-release", "usr/lib/os-release"]
        .into_iter()
        .find_map(|file| fs::read_to_string(root.join(file)).ok())
        .unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let name = name.unwrap_or("Linux").trim();
    name.trim_matches(['"', '\'']).to_owned()
}

/// Looks at the machine again and again, its graphics processors included. What it is now is the start.
pub fn follow(mut probe: Probe, query: Query, tasks: &Tasks) -> watch::Receiver<Arc<Machine>> {
    let gpus = gpus::follow(query, tasks);
    let (machine, seen) = watch::channel(Arc::new(probe.look()));
    tasks.spawn(info_span!("machine"), async move {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // a list of logins may lie on a disk that hangs
            let looked = spawn_blocking(move || {
                let found = probe.look();
                (probe, found)
            });
            let Ok((back, mut found)) = looked.await else {
                return; // only where the runtime ends
            };
            probe = back;
            found.gpus.clone_from(&gpus.borrow());
            machine.send_replace(Arc::new(found));
        }
    });
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of files: two processors, half busy since it was started.
    fn written() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for directory in ["proc", "etc"] {
            fs::create_dir(root.path().join(directory)).expect("made");
        }
        for (file, text) in [
            ("proc/loadavg", "0.53 1.25 7.00 2/345 6789\n"),
            ("proc/uptime", "86461.23 1000.00\n"),
            ("proc/stat", STAT),
            ("proc/meminfo", MEMINFO),
            (
                "etc/os-release",
                "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
            ),
        ] {
            fs::write(root.path().join(file), text).expect("written");
        }
        root
    }

    const STAT: &str = "cpu  40 0 10 50 0 0 0 0 0 0\ncpu0 20 0 5 25 0 0 0 0 0 0\n\
                        cpu1 20 0 5 25 0 0 0 0 0 0\nintr 1 2 3\nctxt 1\nbtime 1700000000\n";
    const MEMINFO: &str = "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  400 kB\nBuffers: 1 kB\nCached: 1 kB\n\
                           SwapCached: 0 kB\nActive: 1 kB\nInactive: 1 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\nDirty: 0 kB\n\
                           Writeback: 0 kB\nMapped: 1 kB\nSlab: 1 kB\nCommitted_AS: 1 kB\nVmallocTotal: 1 kB\n\
                           VmallocUsed: 1 kB\nVmallocChunk: 0 kB\n";

    #[test]
    fn the_files_are_read_as_they_mean() {
        let root = written();

        let machine = Probe::below(root.path()).look();

        assert_eq!((machine.ncpu, machine.cpu), (2, 50.0));
        assert_eq!(machine.loadavg, [0.53, 1.25, 7.0]);
        assert_eq!((machine.totalmem, machine.freemem), (1_024_000, 102_400));
        assert_eq!((machine.mem_available, machine.uptime), (409_600, 86_461));
        assert_eq!(machine.os, "Debian GNU/Linux 12 (bookworm)");
    }

    #[test]
    fn what_cannot_be_read_leaves_the_rest() {
        let root = written();
        fs::remove_file(root.path().join("proc/meminfo")).expect("there");
        fs::write(root.path().join("proc/stat"), "cpu nonsense").expect("written");
        let mut probe = Probe::below(root.path());

        let machine = probe.look();

        assert_eq!((machine.totalmem, machine.ncpu), (0, 0));
        assert_eq!(machine.uptime, 86_461);
        assert_eq!(probe.faults.len(), 2, "{:?}", probe.faults);
    }

    #[test]
    fn this_machine_has_processors_memory_and_a_name() {
        let machine = Probe::default().look();

        assert!(machine.ncpu > 0 && machine.totalmem > machine.freemem);
        assert!(machine.mem_available > 0 && machine.uptime > 0);
        assert!((0.0..=100.0).contains(&machine.cpu));
        for text in [machine.hostname, machine.arch, machine.kernel, machine.os] {
            assert!(!text.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_looked_at_every_two_seconds() {
        let root = written();
        let tasks = Tasks::new();
        let mut seen = follow(
            Probe::below(root.path()),
            Query {
                program: "/nowhere/nvidia-smi".into(),
                every: LOOK_EVERY,
                within: LOOK_EVERY,
            },
            &tasks,
        );
        seen.changed().await.expect("open"); // the first look of the task
        fs::write(
            root.path().join("proc/loadavg"),
            "9.00 1.25 7.00 2/345 6789\n",
        )
        .expect("written");
        let start = tokio::time::Instant::now();

        let loaded = seen.wait_for(|machine| machine.loadavg == [9.0, 1.25, 7.0]);

        drop(loaded.await.expect("open"));
        assert!(start.elapsed() <= LOOK_EVERY, "{:?}", start.elapsed());
        tasks.stop();
    }
}
