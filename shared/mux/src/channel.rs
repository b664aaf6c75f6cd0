//! The state of one stream, shared by its handle and the driver.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use sallyport_splice::Pieces;
use tokio::io::ReadBuf;
use tokio::time::Instant;

use crate::broken::StreamError;
use crate::header::{Flags, Header, Kind};
use crate::output::{FULL, Output};
use crate::schedule::Class;
use crate::settings::INITIAL_WINDOW;
use crate::window::{Budget, Path, Window};

/// Payloads up to this size are joined, so that a slow reader holds no more memory than bytes.
const SMALL: usize = 4 * 1024;

/// A writer that waits goes on once no more than this is queued, so that it comes back rarely and with much.
const REFILL: usize = 64 * 1024;

/// One stream.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) number: u32,
    /// Where it stands when it has something to send after a while.
    pub(crate) class: Class,
    state: Mutex<State>,
}

/// What changes.
#[derive(Debug)]
pub(crate) struct State {
    sending: Sending,
    receiving: Receiving,
    failed: Option<StreamError>,
    /// The code that is still to be told.
    resetting: Option<u32>,
    scheduled: bool,
    /// Whether the handle went before the connection forgot the stream.
    abandoned: bool,
    /// Whether the connection forgot the stream.
    forgotten: bool,
}

#[derive(Debug)]
struct Sending {
    queue: Pieces,
    /// What the other side still allows.
    credit: u32,
    /// `SYN` or `ACK`, until it has left.
    opening: Flags,
    /// Whether that leaves without waiting for data.
    announced: bool,
    end: End,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Receiving {
    unread: Pieces,
    window: Window,
    /// Credit that is due.
    due: bool,
    ended: bool,
    waker: Option<Waker>,
}

/// How far our direction's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Wanted,
    Sent,
}

/// What a change makes necessary, once the state is unlocked.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct After {
    /// Whether the channel must be scheduled.
    pub(crate) schedule: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl After {
    pub(crate) fn wake(self) {
        for waker in [self.reader, self.writer].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// What a turn left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// There is more to send.
    More,
    /// There is nothing to send now.
    Nothing,
    /// The stream is over on the connection.
    Over,
}

impl Channel {
    /// A stream that begins with these flags: `SYN` if it is ours, `ACK` if it is theirs.
    pub(crate) fn new(number: u32, class: Class, opening: Flags, now: Instant) -> Self {
        let sending = Sending {
            queue: Pieces::new(),
            credit: INITIAL_WINDOW,
            opening,
            announced: false,
            end: End::Open,
            waker: None,
        };
        let receiving = Receiving {
            unread: Pieces::new(),
            window: Window::new(now),
            due: false,
            ended: false,
            waker: None,
        };
        let state = Mutex::new(State {
            sending,
            receiving,
            failed: None,
            resetting: None,
            scheduled: false,
            abandoned: false,
            forgotten: false,
        });
        Self {
            number,
            class,
            state,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    // What the handle does.

    /// Reads what is there, and says how many bytes they were; none means that the other side finished in order.
    pub(crate) fn poll_read(
        &mut self,
        cx: &Context<'_>,
        buf: &mut ReadBuf<'_>,
        lost: bool,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_readable(cx, lost))?;
        Poll::Ready(Ok(self.receiving.unread.read(buf)))
    }

    /// The same in pieces and without a copy, at most `most` bytes of it.
    pub(crate) fn poll_take(
        &mut self,
        cx: &Context<'_>,
        most: usize,
        to: &mut impl Extend<Bytes>,
        lost: bool,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_readable(cx, lost))?;
        Poll::Ready(Ok(self.receiving.unread.move_to(most, to)))
    }

    /// Ready when there is something to be read, or the other side has finished in order.
    fn poll_readable(&mut self, cx: &Context<'_>, lost: bool) -> Poll<io::Result<()>> {
        if !self.receiving.unread.is_empty() || self.receiving.ended {
            return Poll::Ready(Ok(()));
        }
        match self.failure(lost) {
            Some(error) => Poll::Ready(Err(error.into())),
            None => {
                self.receiving.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// So many bytes were read: true if the channel must be scheduled, because credit is due or the stream is over.
    pub(crate) fn was_read(&mut self, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.receiving.window.read(bytes) && !self.receiving.ended {
            self.receiving.due = true;
        }
        (self.receiving.due || self.is_over()) && self.schedule()
    }

    /// Lets the other side hear of the stream at once. True if the channel must be scheduled.
    pub(crate) fn announce(&mut self) -> bool {
        self.sending.announced = true;
        self.schedule()
    }

    /// Room for bytes to be written, up to `most` in the queue.
    pub(crate) fn poll_room(
        &mut self,
        cx: &Context<'_>,
        most: usize,
        lost: bool,
    ) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failure(lost) {
            return Poll::Ready(Err(error.into()));
        }
        if self.sending.end != End::Open {
            return Poll::Ready(Err(StreamError::Closed.into()));
        }
        // In full frames: what is left over would be one of its own, as small as it is.
        let most = if most > FULL {
            most - most % FULL
        } else {
            most
        };
        let room = most.saturating_sub(self.sending.queue.len());
        if room == 0 {
            self.sending.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(room))
    }

    /// Queues bytes, true if the channel must be scheduled.
    pub(crate) fn write(&mut self, bytes: Bytes) -> bool {
        self.sending.queue.join(bytes, SMALL);
        self.has_turn() && self.schedule()
    }

    /// Says that there is no more; ready once that, and all before it, was given to the connection.
    pub(crate) fn poll_finish(
        &mut self,
        cx: &Context<'_>,
        lost: bool,
    ) -> (Poll<io::Result<()>>, bool) {
        if self.sending.end == End::Sent {
            return (Poll::Ready(Ok(())), false);
        }
        if let Some(error) = self.failure(lost) {
            return (Poll::Ready(Err(error.into())), false);
        }
        self.sending.end = End::Wanted;
        self.sending.waker = Some(cx.waker().clone());
        (Poll::Pending, self.schedule())
    }

    /// Gives up whatever has not ended; what waits to be sent is dropped. Says what else is to be done.
    pub(crate) fn abort(&mut self, code: u32) -> After {
        if self.has_ended() || self.failed.is_some() {
            return After::default();
        }
        self.fail(StreamError::Closed);
        if !self.sending.opening.has(Flags::SYN) {
            self.resetting = Some(code);
        }
        After {
            schedule: self.schedule(),
            reader: self.receiving.waker.take(),
            writer: self.sending.waker.take(),
        }
    }

    /// The handle is gone: says how many bytes nobody will read, and whether the connection still has the stream.
    pub(crate) fn release(&mut self) -> (usize, bool) {
        self.abandoned = !self.forgotten;
        (self.discard(), self.abandoned)
    }

    /// Lets the connection forget a stream that is over, in its turn: until then its number is taken and it counts as
    /// one that waits. True if the channel must be scheduled.
    pub(crate) fn leave(&mut self) -> bool {
        self.is_over() && !self.forgotten && self.schedule()
    }

    /// The connection forgets the stream: true if its handle had gone before.
    pub(crate) fn forget(&mut self, budget: &Budget) -> bool {
        self.forgotten = true;
        self.receiving.window.close(budget);
        std::mem::take(&mut self.abandoned)
    }

    // What the driver does.

    /// Payload arrived; `Err` if it is more than was allowed. False in the answer means that nobody wants it.
    pub(crate) fn receive(&mut self, payload: &[u8]) -> Result<(bool, After), &'static str> {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        if !self.receiving.window.receive(length) {
            return Err("more data than the window allows");
        }
        if self.receiving.ended {
            return Err("data after the end of a stream");
        }
        if self.failed.is_some() {
            return Ok((false, After::default()));
        }
        let unread = &mut self.receiving.unread;
        unread.join(Bytes::copy_from_slice(payload), SMALL);
        let after = After {
            reader: self.receiving.waker.take(),
            ..After::default()
        };
        Ok((true, after))
    }

    /// The other side finished.
    pub(crate) fn finished(&mut self) -> After {
        // A stream that has failed lost bytes: its end is no orderly one any more.
        self.receiving.ended |= self.failed.is_none();
        After {
            reader: self.receiving.waker.take(),
            ..After::default()
        }
    }

    /// The other side gave up. What it had finished before can still be read.
    pub(crate) fn reset(&mut self, code: u32) -> (After, usize) {
        self.resetting = None;
        self.fail(StreamError::Reset(code));
        let unread = if self.receiving.ended {
            0
        } else {
            self.discard()
        };
        (self.stop(), unread)
    }

    /// This side gives the stream up because nobody reads it: returns the bytes that were freed.
    pub(crate) fn give_up(&mut self, code: u32) -> (After, usize) {
        self.fail(StreamError::Unread);
        self.receiving.ended = false;
        self.resetting = Some(code);
        let unread = self.discard();
        let schedule = self.schedule();
        let after = After {
            schedule,
            ..self.stop()
        };
        (after, unread)
    }

    /// The connection is gone, or the stream failed: whoever waits looks again.
    pub(crate) fn stop(&mut self) -> After {
        After {
            schedule: false,
            reader: self.receiving.waker.take(),
            writer: self.sending.waker.take(),
        }
    }

    /// The other side allows more.
    pub(crate) fn credit(&mut self, bytes: u32) -> After {
        self.sending.credit = self.sending.credit.saturating_add(bytes);
        After {
            schedule: self.has_turn() && self.schedule(),
            ..After::default()
        }
    }

    /// Gives the frames of one turn to `output`.
    pub(crate) fn turn(
        &mut self,
        (number, class): (u32, Class),
        output: &mut Output,
        path: Path<'_>,
    ) -> (Left, After) {
        if let Some(code) = self.resetting.take() {
            output.begin(frame(Kind::Window, Flags::RST, number, code));
        }
        if self.failed.is_some() {
            self.scheduled = false;
            return (Left::Over, self.stop());
        }
        self.send_announcement(number, output);
        self.send_credit(number, output, path);
        let writer = self.send_data(number, output);
        let after = After {
            writer,
            ..After::default()
        };
        if self.is_over() {
            self.scheduled = false;
            return (Left::Over, after);
        }
        // A stream that is sparse keeps its place among the others for one round (RFC 8290 §4.2): whoever empties its
        // queue all the time would else be first all the time.
        let more = self.has_turn() || class == Class::Sparse;
        self.scheduled = more;
        (if more { Left::More } else { Left::Nothing }, after)
    }

    pub(crate) fn unread(&self) -> usize {
        self.receiving.unread.len()
    }

    /// Both directions have ended in order.
    fn has_ended(&self) -> bool {
        self.receiving.ended && self.sending.end == End::Sent
    }

    /// Both directions have ended in order and all was read, or the stream has failed and that was told.
    fn is_over(&self) -> bool {
        let done = self.has_ended() && self.receiving.unread.is_empty();
        (done || self.failed.is_some()) && self.resetting.is_none()
    }

    fn send_announcement(&mut self, number: u32, output: &mut Output) {
        let wanted = std::mem::take(&mut self.sending.announced);
        if wanted && self.sending.opening != Flags::NONE {
            let flags = std::mem::take(&mut self.sending.opening);
            output.begin(frame(Kind::Window, flags, number, 0));
        }
    }

    fn send_credit(&mut self, number: u32, output: &mut Output, path: Path<'_>) {
        if !std::mem::take(&mut self.receiving.due) {
            return;
        }
        if let Some(bytes) = self.receiving.window.grant(self.unread(), path) {
            let flags = std::mem::take(&mut self.sending.opening);
            output.begin(frame(Kind::Window, flags, number, bytes));
        }
    }

    /// One frame of data, or the end. Gives the writer's waker once it should go on.
    fn send_data(&mut self, number: u32, output: &mut Output) -> Option<Waker> {
        let sending = &mut self.sending;
        let bytes = FULL.min(sending.credit as usize).min(sending.queue.len());
        let length = u32::try_from(bytes).unwrap_or_default();
        let last = sending.end == End::Wanted && sending.queue.len() == bytes;
        if bytes == 0 && !last {
            return None;
        }
        let mut flags = std::mem::take(&mut sending.opening);
        if last {
            flags = flags | Flags::FIN;
            sending.end = End::Sent;
        }
        output.begin(frame(Kind::Data, flags, number, length));
        sending.credit -= length;
        sending.queue.move_to(bytes, output);
        let refill = sending.end == End::Open && sending.queue.len() <= REFILL;
        sending.waker.take_if(|_| last || refill)
    }

    fn has_turn(&self) -> bool {
        let sending = &self.sending;
        let data = !sending.queue.is_empty() && sending.credit > 0;
        let end = sending.end == End::Wanted && sending.queue.is_empty();
        data || end || self.receiving.due || self.resetting.is_some()
    }

    const fn schedule(&mut self) -> bool {
        !std::mem::replace(&mut self.scheduled, true)
    }

    fn fail(&mut self, error: StreamError) {
        self.failed.get_or_insert(error);
        self.sending.queue = Pieces::new();
    }

    fn discard(&mut self) -> usize {
        std::mem::take(&mut self.receiving.unread).len()
    }

    fn failure(&self, lost: bool) -> Option<StreamError> {
        self.failed.or_else(|| lost.then_some(StreamError::Lost))
    }
}

const fn frame(kind: Kind, flags: Flags, stream: u32, length: u32) -> Header {
    Header {
        kind,
        flags,
        stream,
        length,
    }
}
