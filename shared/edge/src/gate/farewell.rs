//! Ending a connection so that the client can read the last words.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{io, mem};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::inbox::PIECE;
use crate::limits::Limits;

/// The end of a connection under way: last words, end of stream, and a short while in which the
/// client's bytes are dropped. Closing at once would answer them with a reset, which throws away
/// the words before the client has read them.
#[derive(Debug)]
pub(super) struct Farewell {
    words: Bytes,
    stage: Stage,
    /// When it is over, whatever the client does.
    pub(super) until: Instant,
    drop_left: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// hyper may hold bytes that come before ours.
    Waiting,
    Saying,
    Ending,
    Dropping,
    Over,
}

impl Farewell {
    pub(super) fn new(words: Bytes, limits: &Limits, now: Instant) -> Self {
        Self {
            words,
            stage: Stage::Waiting,
            until: now + limits.linger,
            drop_left: limits.linger_bytes,
        }
    }

    /// The end of a connection that was aborted.
    pub(super) const fn aborted(now: Instant) -> Self {
        Self {
            words: Bytes::new(),
            stage: Stage::Over,
            until: now,
            drop_left: 0,
        }
    }

    /// hyper has nothing left to write.
    pub(super) fn begin(&mut self) {
        if self.stage == Stage::Waiting {
            self.stage = Stage::Saying;
        }
    }

    /// Whether hyper's bytes still go out.
    pub(super) fn is_waiting(&self) -> bool {
        self.stage == Stage::Waiting
    }

    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// The time is up. Tells whether the end was in order.
    pub(super) fn cut(&mut self) -> bool {
        let ended = mem::replace(&mut self.stage, Stage::Over);
        matches!(ended, Stage::Dropping | Stage::Over)
    }

    /// Goes on with it; ready when it is over.
    pub(super) fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        match ready!(self.poll_stages(io, cx)) {
            Ok(()) | Err(_) => self.stage = Stage::Over, // a client that is gone needs no words
        }
        Poll::Ready(())
    }

    fn poll_stages<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stage == Stage::Waiting {
            return Poll::Pending;
        }
        while self.stage == Stage::Saying {
            if self.words.is_empty() {
                self.stage = Stage::Ending;
                break;
            }
            let said = ready!(Pin::new(&mut *io).poll_write(cx, &self.words))?;
            self.words.advance(said.max(1).min(self.words.len()));
        }
        if self.stage == Stage::Ending {
            ready!(Pin::new(&mut *io).poll_shutdown(cx))?;
            self.stage = Stage::Dropping;
        }
        self.poll_drop(io, cx)
    }

    /// Reads on until the client closes, or the budget is used up; then only the time ends it.
    fn poll_drop<S: AsyncRead + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.drop_left > 0 && self.stage == Stage::Dropping {
            let mut space = PIECE;
            let mut piece = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut piece))?;
            let read = piece.filled().len();
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
            self.drop_left = self.drop_left.saturating_sub(read);
        }
        if self.is_over() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }
}
