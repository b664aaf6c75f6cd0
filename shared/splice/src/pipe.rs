//! Pipes that are lent while the kernel has bytes of a stream in them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::bare::Socket;

/// Bytes that a pipe holds. Without privileges a user has 64 MiB in pipes, of all processes together.
const CAPACITY: usize = 256 * 1_024;

/// Unused pipes kept for later. Streams that move bytes use two at most each.
const KEPT: usize = 64;

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

static UNUSED: Mutex<Vec<Ends>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe and how much it holds. Dropped empty, it waits for the next borrower.
#[derive(Debug)]
pub(crate) struct Pipe {
    ends: Option<Ends>,
    held: usize,
}

/// An empty pipe; none where descriptors or the user's room in pipes are used up.
pub(crate) fn take() -> Option<Pipe> {
    let unused = unused().pop();
    let ends = unused.or_else(|| Ends::make().ok())?;
    Some(Pipe {
        ends: Some(ends),
        held: 0,
    })
}

impl Ends {
    fn make() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // Beyond the user's room this fails, and the pipe has one or two pages only: copying is better then.
        fcntl_setpipe_size(&write, CAPACITY)?;
        Ok(Self { read, write })
    }
}

impl Pipe {
    pub(crate) const fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes what the socket has; nothing is its end. Only for an empty pipe: whether a socket has no more or the pipe
    /// no place cannot be told apart, since short segments use up places long before bytes.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: Socket<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(Ends { write, .. }) = &self.ends else {
            return Poll::Ready(Ok(0));
        };
        let came = from.poll_in(cx, |socket| {
            Ok(splice(socket, None, write, None, CAPACITY, FLAGS)?)
        });
        if let Poll::Ready(Ok(came)) = came {
            self.held += came;
        }
        came
    }

    /// Gives the socket as much as it takes now, of what is there.
    pub(crate) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: Socket<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(Ends { read, .. }) = &self.ends else {
            return Poll::Ready(Ok(0));
        };
        let held = self.held;
        let gone = std::task::ready!(to.poll_out(cx, |socket| {
            Ok(splice(read, None, socket, None, held, FLAGS)?)
        }))?;
        if gone == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.held = held.saturating_sub(gone);
        Poll::Ready(Ok(gone))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.is_empty()
            && let Some(ends) = self.ends.take()
        {
            let mut unused = unused();
            if unused.len() < KEPT {
                unused.push(ends);
            }
        }
    }
}

fn unused() -> MutexGuard<'static, Vec<Ends>> {
    UNUSED.lock().unwrap_or_else(PoisonError::into_inner)
}
