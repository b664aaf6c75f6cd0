//! Joining two streams until both are done.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::time::{Sleep, sleep};

use crate::bare::{Bare, Copied};
use crate::buffers::{Pool, SHARED};
use crate::clock::{Clock, Standing};
use crate::direction::{Direction, Fault};
use crate::{Abort, Codes, Duplex, Ended, EndedBy, Limits, Meter, Side};

/// Carries bytes both ways between `client` and `session` until both are done or one is lost.
///
/// - The end of one direction is passed on as that and leaves the other one open.
/// - Anything but an orderly end aborts both streams, with the code that `limits` names for it;
///   so does dropping the future before its end. Some transports tell their peer only when the
///   stream is dropped, which the caller does next.
/// - A session that takes no more, while what it sends is still in order (a server that answers
///   before it has read the whole request), may finish its answer; what the client goes on to
///   send is thrown away.
/// - A stream that carries nothing holds no buffer.
pub async fn run<A: Duplex, B: Duplex>(
    client: &mut A,
    session: &mut B,
    limits: &Limits,
    meter: &Meter,
) -> Ended {
    run_with(&SHARED, client, session, limits, meter).await
}

/// As [`run()`], and the kernel moves the bytes of a direction while both of its ends are sockets.
pub async fn run_bare<A: Duplex + Bare, B: Duplex + Bare>(
    client: &mut A,
    session: &mut B,
    limits: &Limits,
    meter: &Meter,
) -> Ended {
    join(&SHARED, client, session, limits, meter).await
}

async fn run_with<A: Duplex, B: Duplex>(
    pool: &'static Pool,
    client: &mut A,
    session: &mut B,
    limits: &Limits,
    meter: &Meter,
) -> Ended {
    let (mut client, mut session) = (Copied(client), Copied(session));
    join(pool, &mut client, &mut session, limits, meter).await
}

async fn join<A: Duplex + Bare, B: Duplex + Bare>(
    pool: &'static Pool,
    client: &mut A,
    session: &mut B,
    limits: &Limits,
    meter: &Meter,
) -> Ended {
    let mut splice = Splice {
        ends: Ends {
            client,
            session,
            abort: Some(limits.codes.stopped),
        },
        up: Direction::new(pool, meter.up_count()),
        down: Direction::new(pool, meter.down_count()),
        clock: Clock::new(limits),
        down_first: false,
    };
    let mut timer = pin!(sleep(limits.idle.unwrap_or_default()));
    let by = poll_fn(|cx| splice.poll(cx, timer.as_mut())).await;
    splice.end(by, &limits.codes)
}

/// Two streams that are being joined.
struct Splice<'r, A: Abort, B: Abort> {
    ends: Ends<'r, A, B>,
    up: Direction<'r>,
    down: Direction<'r>,
    clock: Clock<'r>,
    down_first: bool,
}

impl<A: Duplex + Bare, B: Duplex + Bare> Splice<'_, A, B> {
    /// Ready with the end of the stream. The directions take turns at going first, so that
    /// neither lives off what the other one leaves.
    fn poll(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Sleep>) -> Poll<EndedBy> {
        if let Err(why) = self.ends.client.tend(cx) {
            return Poll::Ready(EndedBy::Client(why));
        }
        if let Err(why) = self.ends.session.tend(cx) {
            return Poll::Ready(EndedBy::Session(why));
        }
        self.down_first = !self.down_first;
        let turns = if self.down_first {
            [Side::Session, Side::Client]
        } else {
            [Side::Client, Side::Session]
        };
        for source in turns {
            if let Some(by) = self.turn(cx, source) {
                return Poll::Ready(by);
            }
        }
        if self.up.is_done() && self.down.is_done() {
            return Poll::Ready(EndedBy::Both);
        }
        self.clock.poll(cx, timer, self.standing())
    }

    fn turn(&mut self, cx: &mut Context<'_>, source: Side) -> Option<EndedBy> {
        let ends = &mut self.ends;
        let turned = match source {
            Side::Client => self.up.poll(cx, ends.client, ends.session),
            Side::Session => self.down.poll(cx, ends.session, ends.client),
        };
        match turned {
            Poll::Ready(Err(fault)) => self.judge(cx, source, fault),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        }
    }

    /// Whether a fault on the way from `source` ends the stream, and by whom.
    fn judge(&mut self, cx: &Context<'_>, source: Side, fault: Fault) -> Option<EndedBy> {
        match fault {
            Fault::Read(why) => Some(lost(source, why)),
            Fault::Write(why) if source == Side::Client && answers_on(&why, &self.down) => {
                self.up.refuse(why);
                cx.waker().wake_by_ref();
                None
            }
            Fault::Write(why) => Some(lost(source.other(), why)),
        }
    }

    fn standing(&self) -> Standing {
        let up_is_over = self.up.has_ended() || self.up.is_refused();
        Standing {
            activity: self.up.activity().wrapping_add(self.down.activity()),
            session_blocked: self.up.is_blocked().then(|| self.up.written()),
            client_blocked: self.down.is_blocked().then(|| self.down.written()),
            closing: up_is_over && self.down.has_ended(),
        }
    }

    fn end(mut self, by: EndedBy, codes: &Codes) -> Ended {
        let (up, down) = (self.up.written(), self.down.written());
        let in_order = matches!(by, EndedBy::Both);
        let by = match (by, self.up.into_refusal()) {
            (EndedBy::Both | EndedBy::Closing, Some(why)) => EndedBy::Session(why),
            (by, _) => by,
        };
        self.ends.abort = (!in_order).then(|| by.code(codes));
        Ended { up, down, by }
    }
}

/// The two streams. Unless they ended in order, dropping this aborts both.
struct Ends<'r, A: Abort, B: Abort> {
    client: &'r mut A,
    session: &'r mut B,
    abort: Option<u32>,
}

impl<A: Abort, B: Abort> Drop for Ends<'_, A, B> {
    fn drop(&mut self) {
        if let Some(code) = self.abort {
            self.client.abort(code);
            self.session.abort(code);
        }
    }
}

const fn lost(side: Side, why: io::Error) -> EndedBy {
    match side {
        Side::Client => EndedBy::Client(why),
        Side::Session => EndedBy::Session(why),
    }
}

/// Whether a session that took no more bytes may be trusted with the end of its answer.
///
/// It may if that end is known already, or if it merely stopped reading (`EPIPE`; TCP says so
/// only after its FIN). After a reset the kernel reports the error once and a false end of file
/// from then on.
fn answers_on(why: &io::Error, answer: &Direction<'_>) -> bool {
    answer.has_ended() || why.kind() == io::ErrorKind::BrokenPipe
}

#[cfg(test)]
mod tests;
