//! The deadlines of one stream, kept with a single timer that is set only when it must be.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::{EndedBy, Limits, Side};

/// What the clock has to know after each turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    /// Changes whenever a byte came in or went out.
    pub(crate) activity: u64,
    /// Bytes taken by the session while it is blocked, else nothing.
    pub(crate) session_blocked: Option<u64>,
    /// Bytes taken by the client while it is blocked, else nothing.
    pub(crate) client_blocked: Option<u64>,
    /// Whether neither side has anything more to say that would be heard.
    pub(crate) closing: bool,
}

/// When each of the limits began to count.
#[derive(Debug)]
pub(crate) struct Clock<'r> {
    limits: &'r Limits,
    activity: u64,
    active_at: Instant,
    session_stall: Option<Stall>,
    client_stall: Option<Stall>,
    closing_at: Option<Instant>,
}

/// A sink that has taken no byte since.
#[derive(Debug, Clone, Copy)]
struct Stall {
    taken: u64,
    since: Instant,
}

impl<'r> Clock<'r> {
    pub(crate) fn new(limits: &'r Limits) -> Self {
        Self {
            limits,
            activity: 0,
            active_at: Instant::now(),
            session_stall: None,
            client_stall: None,
            closing_at: None,
        }
    }

    /// Ready with the limit that was reached.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        timer: Pin<&mut Sleep>,
        standing: Standing,
    ) -> Poll<EndedBy> {
        self.note(standing);
        self.poll_due(cx, timer)
    }

    fn note(&mut self, standing: Standing) {
        let now = Instant::now();
        if standing.activity != self.activity {
            self.activity = standing.activity;
            self.active_at = now;
        }
        self.session_stall = stall(self.session_stall, standing.session_blocked, now);
        self.client_stall = stall(self.client_stall, standing.client_blocked, now);
        if standing.closing {
            self.closing_at.get_or_insert(now);
        }
    }

    fn poll_due(&self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<EndedBy> {
        let Some((due, by)) = self.next_due() else {
            return Poll::Pending;
        };
        // A timer that rings early is set again: cheaper than moving it with every byte.
        if due < timer.deadline() {
            timer.as_mut().reset(due);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= due {
                return Poll::Ready(by);
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }

    fn next_due(&self) -> Option<(Instant, EndedBy)> {
        let after = |since: Option<Instant>, limit: Option<Duration>| since?.checked_add(limit?);
        let stalled =
            |stall: Option<Stall>| after(stall.map(|stall| stall.since), self.limits.write_stall);
        [
            (after(Some(self.active_at), self.limits.idle), EndedBy::Idle),
            (
                stalled(self.session_stall),
                EndedBy::WriteStall(Side::Session),
            ),
            (
                stalled(self.client_stall),
                EndedBy::WriteStall(Side::Client),
            ),
            (
                after(self.closing_at, self.limits.closing),
                EndedBy::Closing,
            ),
        ]
        .into_iter()
        .filter_map(|(due, by)| Some((due?, by)))
        .min_by_key(|(due, _)| *due)
    }
}

/// A stall begins with the first refusal and begins anew when a byte was taken since.
fn stall(before: Option<Stall>, blocked: Option<u64>, now: Instant) -> Option<Stall> {
    let taken = blocked?;
    match before {
        Some(stall) if stall.taken == taken => Some(stall),
        _ => Some(Stall { taken, since: now }),
    }
}
