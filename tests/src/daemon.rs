//! A child process that ends with its guard, and with the test however that ends.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait::eventually_some;

/// A running program with its output in a file.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program` in a process group of its own, its output going to `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start<A: AsRef<OsStr>>(program: &Path, args: &[A], log: &Path) -> Self {
        Self::start_with(program, args, log, |_command| {})
    }

    /// Starts `program` after `prepare` has set its environment, its folder and the like.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_with<A: AsRef<OsStr>>(
        program: &Path,
        args: &[A],
        log: &Path,
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log is writable");
        // setpriv: the kernel ends the program if the test is killed before its guards run; with the
        // thread that started it, to be exact, so that thread has to live as long.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .process_group(0);
        prepare(&mut command);
        let child = command.spawn().expect("setpriv is installed (util-linux)");
        let name = program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Self {
            name,
            child,
            log: log.to_owned(),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        // A process that has ended already needs no signal.
        let _gone = kill_process(self.pid(), signal);
    }

    /// Ends it as a crash would, with all that it started.
    pub fn kill(&mut self) {
        let _gone = kill_process_group(self.pid(), Signal::KILL);
        drop(self.child.wait());
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Panics
    /// If it does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// If it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually_some("the program ends", || child.try_wait().ok().flatten())
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn is_running(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            // The runner shows what a failed test printed.
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            #[expect(clippy::print_stderr, reason = "shown only for a test that failed")]
            for line in tail.iter().rev() {
                eprintln!("[{}] {line}", self.name);
            }
        }
    }
}
