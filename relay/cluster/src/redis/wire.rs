//! One connection to a server, on which commands are sent and replies come.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::io::{ReadHalf, WriteHalf, split};
use tokio::time::Instant;

use super::End;
use super::resp::{self, Reply};
use crate::progress::Step;

/// Bytes that may wait to be sent before further commands wait with their senders.
const ROOM: usize = 1 << 20;

/// Least that is read at once.
const READ: usize = 16 << 10;

/// A TCP connection, with or without TLS.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub(super) struct Wire {
    read: ReadHalf<Box<dyn Duplex>>,
    write: WriteHalf<Box<dyn Duplex>>,
    inbox: BytesMut,
    outbox: BytesMut,
    /// Whether something was written and not flushed since.
    unflushed: bool,
    /// Longest reply, in bytes.
    most: usize,
    heard: Instant,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire(..)")
    }
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Duplex>, most: usize) -> Self {
        let (read, write) = split(stream);
        Self {
            read,
            write,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            unflushed: false,
            most,
            heard: Instant::now(),
        }
    }

    /// Sends a command as soon as [`reply`](Self::reply) is waited for.
    pub(super) fn push(&mut self, command: &[u8]) {
        self.outbox.extend_from_slice(command);
    }

    /// Whether another command is to be pushed now.
    pub(super) fn has_room(&self) -> bool {
        self.outbox.len() < ROOM
    }

    /// How long ago the server said anything.
    pub(super) fn silent_for(&self) -> Duration {
        self.heard.elapsed()
    }

    /// The next reply; meanwhile sends what was pushed. Safe to cancel.
    pub(super) async fn reply(&mut self) -> Result<Reply, End> {
        loop {
            let whole = resp::take(&mut self.inbox, self.most);
            if let Some(reply) = whole.map_err(|error| (Step::Tcp, error.to_string()))? {
                return Ok(reply);
            }
            self.inbox.reserve(READ);
            let unsent = self.unflushed || !self.outbox.is_empty();
            tokio::select! {
                read = self.read.read_buf(&mut self.inbox) => match read.map_err(|error| lost(&error))? {
                    0 => return Err((Step::Tcp, "the server closed the connection".to_owned())),
                    _some => self.heard = Instant::now(),
                },
                sent = send(&mut self.write, &mut self.outbox, &mut self.unflushed), if unsent => {
                    sent.map_err(|error| lost(&error))?;
                }
            }
        }
    }

    /// Sends one command and waits for its reply; for a connection on which nothing else is asked yet.
    pub(super) async fn ask(&mut self, command: &[u8]) -> Result<Reply, End> {
        let sending = async {
            self.write.write_all(command).await?;
            self.write.flush().await
        };
        sending.await.map_err(|error| lost(&error))?;
        self.reply().await
    }
}

/// Sends some of it, or flushes once all is written. What is left is told by `outbox` and `unflushed`, so this can be
/// cancelled.
async fn send(
    write: &mut WriteHalf<Box<dyn Duplex>>,
    outbox: &mut BytesMut,
    unflushed: &mut bool,
) -> io::Result<()> {
    if outbox.is_empty() {
        write.flush().await?;
        *unflushed = false;
    } else {
        *unflushed = true;
        write.write_buf(outbox).await?;
    }
    Ok(())
}

fn lost(error: &io::Error) -> End {
    (Step::Tcp, error.to_string())
}
