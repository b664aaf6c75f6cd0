//! A program run to its end under bounds: no shell, an environment of its own, killed with its whole process group.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Most bytes that are kept of what a program complains.
const COMPLAINT: u64 = 16 << 10;

/// The whole environment of a program.
const ENVIRONMENT: [(&str, &str); 2] = [("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8")];

/// What a program may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// From start to end; default 5 s.
    pub time: Duration,
    /// Bytes of standard output; default 1 MiB.
    pub output: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(5),
            output: 1 << 20,
        }
    }
}

/// A program that ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    /// Its beginning.
    pub(crate) stderr: Vec<u8>,
}

/// Why a program did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
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

/// The processes that a program started, itself included. Dropped, all of them are killed.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // none is left, most of the time
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs `program` with `arguments` and `input` on its standard input.
pub(crate) async fn run(
    program: &Path,
    arguments: &[String],
    input: Option<&[u8]>,
    bounds: &Bounds,
) -> Result<Done, ProgramError> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(ENVIRONMENT)
        .current_dir("/")
        .process_group(0)
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|cause| ProgramError::Start {
            program: program.to_owned(),
            cause,
        })?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let done = timeout(bounds.time, attend(&mut child, input, bounds.output)).await;
    drop(group);
    let program = program.to_owned();
    match done {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(cause)) if cause.kind() == io::ErrorKind::FileTooLarge => {
            Err(ProgramError::TooMuch {
                program,
                most: bounds.output,
            })
        }
        Ok(Err(cause)) => Err(ProgramError::Talk { program, cause }),
        Err(_late) => Err(ProgramError::TimedOut {
            program,
            after: bounds.time,
        }),
    }
}

async fn attend(child: &mut Child, input: Option<&[u8]>, most: u64) -> io::Result<Done> {
    let (to, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let (Some(mut to), Some(input)) = (to, input) {
            // a program need not read what it is given
            let _unread = to.write_all(input).await;
        }
        Ok(())
    };
    let ((), stdout, stderr) = tokio::try_join!(feed, all_of(out, most), beginning_of(err))?;
    Ok(Done {
        status: child.wait().await?,
        stdout,
        stderr,
    })
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

#[cfg(test)]
mod tests;
