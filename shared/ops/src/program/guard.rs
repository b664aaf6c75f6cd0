//! What stands between this process and a program that it starts: a process of our own that takes away what the program
//! must not have, and then becomes the program.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setpriority_process,
    setrlimit,
};
use rustix::thread::set_no_new_privs;

use super::may_run;
use crate::exit::Exit;

/// Programs of an administrator give way to what moves users' bytes.
const NICENESS: i32 = 5;

/// How programs are started so that none outlives this process or gains rights that it does not have.
///
/// The kernel kills a guarded program as soon as this process is gone, however that went. It cannot become another user
/// by a set-user-id file, and leaves no core. What it starts itself inherits all but the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// A program that calls [`serve`](super::serve_guard) with the arguments that come after [`arguments`](Self::arguments).
    pub program: PathBuf,
    /// The arguments with which it does.
    pub arguments: Vec<OsString>,
    /// Seconds of CPU time, which also end what the program has left behind.
    pub cpu_seconds: u64,
    /// Bytes of memory for data, for each process.
    pub memory: u64,
}

impl Guard {
    /// This program with the command `program-guard`; a minute of CPU time, 1 GiB of memory.
    #[must_use]
    pub fn ourselves() -> Self {
        Self {
            // still this program when its file has been replaced
            program: "/proc/self/exe".into(),
            arguments: vec!["program-guard".into()],
            cpu_seconds: 60,
            memory: 1 << 30,
        }
    }

    /// The guard about to become `program`, without the program's own arguments.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .arg(std::process::id().to_string())
            .arg(self.cpu_seconds.to_string())
            .arg(self.memory.to_string())
            .arg(program);
        command
    }
}

/// The guard starts whatever happens, so what keeps the program from being started is looked for before.
pub(super) fn is_there(program: &Path) -> io::Result<()> {
    may_run(program)
}

/// Becomes the guarded program: what the hidden command that [`Guard::program`] names does with its arguments.
///
/// It returns only when that failed, which standard error then tells.
#[must_use]
pub fn serve(arguments: &[OsString]) -> Exit {
    let Err(cause) = become_program(arguments);
    // who started this reads it as the program's complaint
    drop(writeln!(io::stderr().lock(), "not started: {cause}"));
    Exit::Failure
}

fn become_program(arguments: &[OsString]) -> io::Result<Infallible> {
    let [parent, cpu_seconds, memory, program, rest @ ..] = arguments else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = number(parent)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // a parent that went before the kernel was asked sends no signal
    let lives = |pid: Pid| u64::from(pid.as_raw_nonzero().get().unsigned_abs()) == parent;
    if !getppid().is_some_and(lives) {
        return Err(io::Error::other("the process that wanted it is gone"));
    }
    set_no_new_privs(true)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Cpu, number(cpu_seconds)?)?;
    limit(Resource::Data, number(memory)?)?;
    // a sandbox around this process may refuse; nothing depends on it
    let _refused = setpriority_process(None, NICENESS);
    Err(Command::new(program).args(rest).exec())
}

fn number(argument: &OsString) -> io::Result<u64> {
    let number = argument.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let both = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    Ok(setrlimit(resource, both)?)
}
