//! HTTP/1.1 on its way to hyper: whole heads, bodies followed to their end, one request at a time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::chunked::Chunks;
use super::handle::Shared;
use super::head::{Framing, HeadScan, HeadShape, validate_scanned};
use super::inbox::Inbox;
use super::{Bad, Due, Ended};
use crate::limits::Limits;

/// The client's half of a connection of HTTP/1.1.
#[derive(Debug)]
pub(super) struct Http1 {
    shared: Arc<Shared>,
    limits: Arc<Limits>,
    phase: Phase,
    inbox: Inbox,
    /// When this phase began.
    since: Instant,
    /// Heads given to hyper.
    heads: u64,
    /// When the client finished sending.
    finished: Option<Instant>,
    last_read: Instant,
}

#[derive(Debug)]
enum Phase {
    /// Waiting for a whole head.
    Head {
        scan: HeadScan,
        begun: Option<Instant>,
        skipped_line: bool,
    },
    /// Giving a valid head to hyper.
    Passing {
        left: usize,
        framing: Framing,
    },
    Length {
        left: u64,
    },
    Chunked(Box<Chunks>),
    /// The request is whole; its answer is under way and nothing else gets through.
    Answer,
    /// After an upgrade: everything gets through.
    Raw,
}

/// What a read brought.
pub(super) enum Brought {
    /// Bytes in the caller's buffer; none at the end of the stream.
    Bytes,
    /// Something that must not get through.
    Refusal(Bad),
}

impl Http1 {
    pub(super) fn new(shared: &Arc<Shared>, limits: &Arc<Limits>, now: Instant) -> Self {
        Self {
            shared: Arc::clone(shared),
            limits: Arc::clone(limits),
            phase: Phase::head(None),
            inbox: Inbox::default(),
            since: now,
            heads: 0,
            finished: None,
            last_read: now,
        }
    }

    pub(super) fn into_inbox(self) -> Inbox {
        self.inbox
    }

    /// Whether the client is still in the middle of a request.
    pub(super) fn is_mid_request(&self) -> bool {
        matches!(self.phase, Phase::Length { .. } | Phase::Chunked(_)) || !self.inbox.is_empty()
    }

    /// Whether the client asks for nothing: no byte of a head has come.
    pub(super) fn is_between_requests(&self) -> bool {
        let waits = matches!(self.phase, Phase::Head { begun: None, .. });
        waits && self.inbox.is_empty() && self.finished.is_none()
    }

    /// Waits for the first byte of a head, or for the end.
    pub(super) fn poll_begun<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
    ) -> Poll<io::Result<()>> {
        if self.is_between_requests() {
            self.poll_more_of_head(cx, io)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// What must have happened by when.
    pub(super) fn due(&self, last_write: Instant) -> Option<Due> {
        let limits = &self.limits;
        let last_byte = self.last_read.max(last_write);
        match &self.phase {
            Phase::Head {
                begun: Some(begun), ..
            } => Some(Due {
                at: *begun + limits.head,
                why: Ended::Refused(Bad::TooSlow),
            }),
            Phase::Head { .. } if self.heads == 0 => Some(Due {
                at: self.since + limits.first_byte,
                why: Ended::NoFirstByte,
            }),
            Phase::Head { .. } => {
                let since = self.since.max(last_write);
                Some(Due {
                    at: since + limits.keep_alive,
                    why: Ended::KeepAlive,
                })
            }
            Phase::Answer if self.shared.is_upgraded() => None,
            Phase::Passing { .. } | Phase::Length { .. } | Phase::Chunked(_) | Phase::Answer => {
                let idle = Due {
                    at: last_byte + limits.idle,
                    why: Ended::Idle,
                };
                let half = self.finished.map(|finished| Due {
                    at: finished.max(last_write) + limits.half_closed,
                    why: Ended::HalfClosed,
                });
                Some(half.into_iter().fold(idle, Due::earlier))
            }
            Phase::Raw => None,
        }
    }

    /// Reads on, as far as hyper may see it.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Brought>> {
        while buf.remaining() > 0 {
            let step = match &mut self.phase {
                Phase::Head { .. } => ready!(self.poll_head(cx, io))?,
                Phase::Passing { left, framing } => {
                    let (left, framing) = (*left, *framing);
                    self.pass(buf, left, framing)
                }
                Phase::Length { .. } | Phase::Chunked(_) => ready!(self.poll_body(cx, io, buf))?,
                Phase::Answer => ready!(self.poll_answer(cx, io))?,
                Phase::Raw => ready!(self.poll_raw(cx, io, buf))?,
            };
            match step {
                Step::Again => {}
                Step::Done => break,
                Step::Refuse(bad) => return Poll::Ready(Ok(Brought::Refusal(bad))),
            }
        }
        Poll::Ready(Ok(Brought::Bytes))
    }

    fn poll_head<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
    ) -> Poll<io::Result<Step>> {
        match self.look_for_head() {
            Ok(Some(shape)) => {
                self.heads += 1;
                self.phase = Phase::Passing {
                    left: shape.length,
                    framing: shape.framing,
                };
                return Poll::Ready(Ok(Step::Again));
            }
            Ok(None) => {}
            Err(bad) => return Poll::Ready(Ok(Step::Refuse(bad))),
        }
        if self.finished.is_some() {
            return Poll::Ready(Ok(Step::Done));
        }
        ready!(self.poll_more_of_head(cx, io))?;
        Poll::Ready(Ok(Step::Again))
    }

    fn poll_more_of_head<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_fill(cx, io))?;
        if let Phase::Head { begun, .. } = &mut self.phase
            && self.finished.is_none()
        {
            begun.get_or_insert(self.last_read);
        }
        Poll::Ready(Ok(()))
    }

    fn look_for_head(&mut self) -> Result<Option<HeadShape>, Bad> {
        let Phase::Head {
            scan, skipped_line, ..
        } = &mut self.phase
        else {
            return Ok(None);
        };
        // One empty line in front of a request is let go (RFC 9112 §2.2).
        if !*skipped_line {
            match self.inbox.bytes() {
                [] | [b'\r'] => return Ok(None),
                [b'\r', b'\n', ..] => self.inbox.skip(2),
                _ => {}
            }
            *skipped_line = true;
        }
        match scan.scan(self.inbox.bytes(), &self.limits)? {
            Some(length) => validate_scanned(self.inbox.bytes(), length, &self.limits).map(Some),
            None => Ok(None),
        }
    }

    fn pass(&mut self, buf: &mut ReadBuf<'_>, left: usize, framing: Framing) -> Step {
        let left = left - self.inbox.give(buf, left);
        self.phase = match framing {
            _ if left > 0 => Phase::Passing { left, framing },
            Framing::None => Phase::Answer,
            Framing::Length(left) => Phase::Length { left },
            Framing::Chunked => Phase::Chunked(Box::new(Chunks::new(&self.limits))),
        };
        Step::Done
    }

    fn poll_body<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Step>> {
        let before = buf.filled().len();
        ready!(self.poll_raw(cx, io, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        let (kept, done) = match &mut self.phase {
            Phase::Length { left } => {
                let kept = usize::try_from(*left).map_or(new.len(), |left| left.min(new.len()));
                *left -= kept as u64;
                (kept, *left == 0)
            }
            Phase::Chunked(chunks) => match chunks.follow(new) {
                Ok(followed) => (followed.bytes, followed.done),
                Err(bad) => {
                    buf.set_filled(before);
                    return Poll::Ready(Ok(Step::Refuse(bad)));
                }
            },
            Phase::Head { .. } | Phase::Passing { .. } | Phase::Answer | Phase::Raw => {
                (new.len(), false)
            }
        };
        self.inbox.take_back(buf, before + kept);
        if done {
            self.phase = Phase::Answer;
        }
        Poll::Ready(Ok(Step::Done))
    }

    /// What is held back first, then what comes.
    fn poll_raw<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Step>> {
        if !self.inbox.is_empty() {
            self.inbox.give(buf, usize::MAX);
            return Poll::Ready(Ok(Step::Done));
        }
        ready!(Pin::new(io).poll_read(cx, buf))?;
        self.last_read = Instant::now();
        Poll::Ready(Ok(Step::Done))
    }

    /// Waits for the end of the answer. Meanwhile a broken connection is reported, so that the
    /// answer can be given up; an orderly end is not, for such a client still waits.
    fn poll_answer<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
    ) -> Poll<io::Result<Step>> {
        if self.shared.is_upgraded() {
            self.phase = Phase::Raw;
            return Poll::Ready(Ok(Step::Again));
        }
        if self.shared.is_answered(self.heads) && self.shared.is_last(self.heads) {
            return Poll::Ready(Ok(Step::Done)); // to hyper it looks as if the client were done
        }
        if self.shared.is_answered(self.heads) {
            self.since = Instant::now();
            self.phase = Phase::head((!self.inbox.is_empty()).then_some(self.since));
            return Poll::Ready(Ok(Step::Again));
        }
        if self.finished.is_some() || !self.inbox.is_empty() {
            return Poll::Pending;
        }
        ready!(self.poll_fill(cx, io))?;
        Poll::Ready(Ok(Step::Again))
    }

    fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
    ) -> Poll<io::Result<()>> {
        let read = ready!(self.inbox.poll_fill(io, cx))?;
        self.last_read = Instant::now();
        if read == 0 {
            self.finished = Some(self.last_read);
        }
        Poll::Ready(Ok(()))
    }
}

impl Phase {
    const fn head(begun: Option<Instant>) -> Self {
        Self::Head {
            scan: HeadScan::new(),
            begun,
            skipped_line: false,
        }
    }
}

enum Step {
    Again,
    Done,
    Refuse(Bad),
}
