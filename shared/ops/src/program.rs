//! Other people's programs: started without a shell, under bounds, and killed with all that they
//! started in their process group; what leaves that group has only the limits of its [`Guard`].
//!
//! Starting waits until the kernel has read the program, which may lie on a file server that hangs, so a thread for
//! blocking work does it. The thread stays until the program has ended: the kernel sends the death signal that a
//! [`Guard`] asks for when that thread ends, not the process.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

mod guard;

pub use guard::{Guard, serve as serve_guard};

/// Most bytes that are kept of what a program complains.
pub const COMPLAINT: u64 = 16 << 10;

/// What a program finds in its environment where nothing else is asked for.
const ENVIRONMENT: [(&str, &str); 2] = [("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8")];

/// A program and what it is given. Nothing of our own environment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its path, or a name that is looked for in its `PATH`.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
}

/// What a program may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// From start to end; default 5 s.
    pub time: Duration,
    /// Bytes of standard output; default 1 MiB.
    pub output: u64,
}

/// A program that ended.
#[derive(Debug)]
pub struct Done {
    /// How it ended.
    pub status: ExitStatus,
    /// All that it wrote.
    pub stdout: Vec<u8>,
    /// The beginning of what it complained, at most [`COMPLAINT`] bytes.
    pub stderr: Vec<u8>,
}

/// Why a program did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// As many run as may, and some of them perhaps cannot be killed.
    #[error("{} was not started: {most} may run at once, and none of them has ended", .program.display())]
    Busy {
        /// Its path.
        program: PathBuf,
        /// How many may run.
        most: usize,
    },
    /// It could not be started.
    #[error("cannot start {}: {cause}", .program.display())]
    Start {
        /// Its path.
        program: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It was killed because it ran too long.
    #[error("{} was killed after {} ms", .program.display(), .after.as_millis())]
    TimedOut {
        /// Its path.
        program: PathBuf,
        /// The bound.
        after: Duration,
    },
    /// It was killed because it wrote too much.
    #[error("{} was killed, it wrote more than {most} bytes", .program.display())]
    TooMuch {
        /// Its path.
        program: PathBuf,
        /// The bound.
        most: u64,
    },
    /// Talking to it failed.
    #[error("{}: {cause}", .program.display())]
    Talk {
        /// Its path.
        program: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

impl Program {
    /// The program at `path` with `arguments`, a minimal `PATH` and a locale that knows UTF-8.
    pub fn new<A: Into<OsString>>(
        path: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            path: path.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: ENVIRONMENT
                .map(|(name, value)| (name.into(), value.into()))
                .to_vec(),
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(5),
            output: 1 << 20,
        }
    }
}

/// Runs programs, so many at once. A clone is the same places.
///
/// A program that cannot be killed, because it hangs within the kernel, keeps its place: whoever must not be held up by
/// another's programs has places of his own.
#[derive(Debug, Clone)]
pub struct Programs {
    places: Arc<Semaphore>,
    most: usize,
    guard: Option<Guard>,
}

impl Programs {
    /// Runs `most` at once, as what they are.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(most)),
            most,
            guard: None,
        }
    }

    /// Runs `most` at once, each behind `guard`.
    #[must_use]
    pub fn guarded(most: usize, guard: Guard) -> Self {
        Self {
            guard: Some(guard),
            ..Self::new(most)
        }
    }

    /// Runs a program to its end, with `input` on its standard input or none. It ends when its first process does: what
    /// that left behind is killed.
    ///
    /// # Errors
    /// [`ProgramError`]; the program and what it started are then killed. So they are when this is dropped.
    pub async fn run(
        &self,
        program: &Program,
        input: Option<&[u8]>,
        bounds: &Bounds,
    ) -> Result<Done, ProgramError> {
        let path = || program.path.clone();
        let run = async {
            let running = self.start(program).await?;
            let done = running.attend(input, bounds.output).await;
            done.map_err(|cause| {
                let program = path();
                if cause.kind() == io::ErrorKind::FileTooLarge {
                    let most = bounds.output;
                    return ProgramError::TooMuch { program, most };
                }
                ProgramError::Talk { program, cause }
            })
        };
        timeout(bounds.time, run).await.unwrap_or_else(|_late| {
            Err(ProgramError::TimedOut {
                program: path(),
                after: bounds.time,
            })
        })
    }

    /// Starts a program that is talked to by its standard input and output. It has all the time that its owner has.
    ///
    /// # Errors
    /// [`ProgramError::Busy`] and [`ProgramError::Start`]. A program that is still being started when this is dropped is
    /// killed as soon as it runs.
    pub async fn start(&self, program: &Program) -> Result<Running, ProgramError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_full| ProgramError::Busy {
            program: program.path.clone(),
            most: self.most,
        })?;
        let failed = |cause| ProgramError::Start {
            program: program.path.clone(),
            cause,
        };
        let command = self.command(program);
        let (path, guarded) = (program.path.clone(), self.guard.is_some());
        let (tell, told) = oneshot::channel();
        spawn_blocking(move || {
            let there = if guarded {
                guard::is_there(&path)
            } else {
                Ok(())
            };
            live(there.map(|()| command), tell, place);
        });
        let started = told.await;
        started
            .unwrap_or_else(|_stopping| Err(io::Error::other("this process is ending")))
            .map_err(failed)
    }

    fn command(&self, program: &Program) -> Command {
        let mut command = match &self.guard {
            Some(guard) => guard.command(&program.path),
            None => Command::new(&program.path),
        };
        command
            .args(&program.arguments)
            .env_clear()
            .envs(
                program
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// Starts it, tells of it, and stays until it has ended.
fn live(
    command: io::Result<Command>,
    tell: oneshot::Sender<io::Result<Running>>,
    place: OwnedSemaphorePermit,
) {
    let mut child = match command.and_then(|mut command| command.spawn()) {
        Ok(child) => child,
        Err(cause) => {
            drop(place);
            drop(tell.send(Err(cause)));
            return;
        }
    };
    let group = Group(Arc::new(Mutex::new(Some(Pid::from_child(&child)))));
    let (end, ended) = watch::channel(None);
    let running = Running::new(&mut child, group.clone(), ended);
    // where nobody waits, this drops it, which kills it
    drop(tell.send(running));
    let leader = Pid::from_child(&child);
    // not reaped yet, so that the group's number cannot become another's
    let unreaped = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let _how = retry_on_intr(|| waitid(WaitId::Pid(leader), unreaped));
    group.end();
    let status = child.wait().map_err(|cause| cause.kind());
    drop(place);
    end.send_replace(Some(status));
}

/// The processes that a program started, itself included, until its first one has ended.
#[derive(Clone)]
struct Group(Arc<Mutex<Option<Pid>>>);

impl Group {
    fn kill(&self) {
        kill(&self.lock());
    }

    fn end(&self) {
        let mut group = self.lock();
        kill(&group);
        *group = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kill(group: &Option<Pid>) {
    if let Some(group) = *group {
        // none is left, most of the time
        let _gone = kill_process_group(group, Signal::KILL);
    }
}

/// A program that was started. Dropped, it is killed with all that it started.
pub struct Running {
    /// Its standard input, until that is taken.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, until that is taken.
    pub stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    group: Group,
    ended: watch::Receiver<Option<Result<ExitStatus, io::ErrorKind>>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Running").field(&*self.group.lock()).finish()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.group.kill();
    }
}

impl Running {
    fn new(
        child: &mut std::process::Child,
        group: Group,
        ended: watch::Receiver<Option<Result<ExitStatus, io::ErrorKind>>>,
    ) -> io::Result<Self> {
        let mut running = Self {
            stdin: None,
            stdout: None,
            stderr: None,
            group,
            ended,
        };
        running.stdin = child.stdin.take().map(ChildStdin::from_std).transpose()?;
        running.stdout = child.stdout.take().map(ChildStdout::from_std).transpose()?;
        running.stderr = child.stderr.take().map(ChildStderr::from_std).transpose()?;
        Ok(running)
    }

    /// Kills it with all that it started; [`ended`](Self::ended) says when that has happened.
    pub fn kill(&self) {
        self.group.kill();
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        // held, so that the number stays its own
        let group = self.group.lock();
        let now = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        group.is_some_and(|leader| matches!(waitid(WaitId::Pid(leader), now), Ok(None)))
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When the system does not say how.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        let ended = self.ended.wait_for(Option::is_some).await;
        match ended.as_deref() {
            Ok(Some(Ok(status))) => Ok(*status),
            Ok(Some(Err(kind))) => Err((*kind).into()),
            Ok(None) | Err(_) => Err(io::Error::other("nobody saw it end")),
        }
    }

    async fn attend(mut self, input: Option<&[u8]>, most: u64) -> io::Result<Done> {
        let (to, out, err) = (self.stdin.take(), self.stdout.take(), self.stderr.take());
        let feed = async {
            if let (Some(mut to), Some(input)) = (to, input) {
                // a program need not read what it is given
                let _unread = to.write_all(input).await;
            }
            Ok(())
        };
        let ((), stdout, stderr) = tokio::try_join!(feed, all_of(out, most), beginning_of(err))?;
        Ok(Done {
            status: self.ended().await?,
            stdout,
            stderr,
        })
    }
}

async fn all_of(from: Option<impl AsyncRead + Unpin>, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        let read = from
            .take(most.saturating_add(1))
            .read_to_end(&mut bytes)
            .await?;
        if u64::try_from(read).is_ok_and(|read| read > most) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
    Ok(bytes)
}

async fn beginning_of(from: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        (&mut from).take(COMPLAINT).read_to_end(&mut bytes).await?;
        // the rest is read too, or it would not end
        tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

/// A file that may be run, as far as this process can tell.
fn may_run(path: &Path) -> io::Result<()> {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK)?;
    if std::fs::metadata(path)?.is_file() {
        return Ok(());
    }
    Err(io::ErrorKind::PermissionDenied.into())
}

#[cfg(test)]
mod tests;
