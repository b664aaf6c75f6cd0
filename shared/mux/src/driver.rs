//! The task that owns the connection: it reads what arrives, and writes what is ready.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use crate::broken::Broken;
use crate::channel::{Channel, Left};
use crate::header::{Flags, Header, Kind};
use crate::input::{Event, Input};
use crate::output::{Output, SLICES};
use crate::schedule::Class;
use crate::shared::Shared;
use crate::stream::Stream;

/// Bytes taken in before what is ready goes out.
const RECEIVE: usize = 256 * 1024;

/// Rounds of taking in and sending before other tasks get their turn.
const ROUNDS: usize = 4;

/// The round trip is measured at most this often, and only while bytes arrive.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// Bytes that must arrive before a measurement: who receives little needs no larger windows.
const MEASURE_AFTER: usize = 64 * 1024;

/// Owns the connection. Streams move only while it is run; once it is dropped the connection is gone for all of them.
#[derive(Debug)]
pub struct Driver<S> {
    io: S,
    shared: Arc<Shared>,
    inward: Inward,
    output: Output,
    unflushed: bool,
}

/// What arrives, apart from the connection that it arrives on.
#[derive(Debug)]
struct Inward {
    shared: Arc<Shared>,
    arriving: mpsc::Sender<Stream>,
    input: Input,
    /// The stream whose data is arriving.
    current: Option<Arc<Channel>>,
    /// The other side's newest stream.
    newest: u32,
    /// The number of the other side's ping that was not echoed yet.
    pong: Option<u32>,
    measuring: Measuring,
}

impl<S> Driver<S>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    pub(crate) fn new(io: S, shared: Arc<Shared>, arriving: mpsc::Sender<Stream>) -> Self {
        let inward = Inward {
            shared: Arc::clone(&shared),
            arriving,
            input: Input::default(),
            current: None,
            newest: 0,
            pong: None,
            measuring: Measuring::default(),
        };
        Self {
            io,
            shared,
            inward,
            output: Output::default(),
            unflushed: false,
        }
    }

    /// Moves streams until the connection breaks, and says why it did. It may be dropped and called again.
    pub async fn run(&mut self) -> Broken {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// Ends the connection for all streams: sends what is ready, says why, and waits until the other side has hung up
    /// too, because a socket that is closed with bytes unread is reset by TCP, and the reset could overtake the last
    /// words. Whoever calls holds the deadline. The other side's [`Driver::run`] ends with [`Broken::GoneAway`].
    ///
    /// # Errors
    /// When the connection breaks before.
    pub async fn close(mut self, reason: u32) -> io::Result<()> {
        self.shared.lose();
        std::future::poll_fn(|cx| self.poll_send(cx)).await?;
        let goodbye = connection_frame(Kind::GoAway, Flags::NONE, reason);
        self.output.begin(goodbye);
        std::future::poll_fn(|cx| self.poll_send(cx)).await?;
        std::future::poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await?;
        std::future::poll_fn(|cx| self.poll_ignore(cx)).await
    }

    /// Ready with the cause once the connection is broken.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.shared.driver().register(cx.waker());
        for _ in 0..ROUNDS {
            let received = match self.poll_receive(cx) {
                Poll::Ready(Err(broken)) => return Poll::Ready(broken),
                Poll::Ready(Ok(())) => true,
                Poll::Pending => false,
            };
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                return Poll::Ready(error.into());
            }
            if self.shared.is_flooded() {
                return Poll::Ready(Broken::Flood);
            }
            if !received {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Pending when nothing more is there, ready when enough was taken in for now.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut received = 0;
        while received < RECEIVE {
            let chunk = ready!(Pin::new(&mut self.io).poll_fill_buf(cx))?;
            if chunk.is_empty() {
                return Poll::Ready(Err(Broken::HungUp));
            }
            let bytes = chunk.len();
            self.inward.take(chunk)?;
            Pin::new(&mut self.io).consume(bytes);
            received += bytes;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when all that is ready was written and flushed. What is next is chosen only once all before it has left, so
    /// that a write is not cut and what comes to be urgent waits for no more than one.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.output.is_empty() {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let slices = self.output.slices(&mut slices);
                let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.output.advance(written);
                self.unflushed = true;
            }
            if self.unflushed {
                ready!(Pin::new(&mut self.io).poll_flush(cx))?;
                self.unflushed = false;
            }
            self.gather();
            if self.output.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Gives those whose turn it is their turn, as far as one write goes.
    fn gather(&mut self) {
        if let Some(number) = self.inward.pong.take() {
            self.output
                .begin(connection_frame(Kind::Ping, Flags::ACK, number));
        }
        if let Some(number) = self.inward.measuring.ping() {
            self.output
                .begin(connection_frame(Kind::Ping, Flags::SYN, number));
        }
        while self.output.has_room() {
            let Some((class, channel)) = self.shared.next_ready() else {
                return;
            };
            let place = (channel.number, class);
            let (left, after) = channel
                .lock()
                .turn(place, &mut self.output, self.shared.path());
            match (left, class) {
                (Left::More, Class::Urgent) => self.shared.table().ready.add(class, channel),
                (Left::More, Class::Sparse | Class::Bulk) => {
                    self.shared.table().ready.add(Class::Bulk, channel);
                }
                (Left::Nothing, _) => {}
                (Left::Over, _) => self.shared.forget(&channel),
            }
            after.wake();
        }
    }

    /// Reads until the other side hangs up.
    fn poll_ignore(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let chunk = ready!(Pin::new(&mut self.io).poll_fill_buf(cx))?;
            if chunk.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let bytes = chunk.len();
            Pin::new(&mut self.io).consume(bytes);
        }
    }
}

impl Drop for Inward {
    fn drop(&mut self) {
        self.shared.lose();
    }
}

impl Inward {
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        self.measuring.received(bytes.len());
        while let Some(event) = self.input.next(&mut bytes).map_err(Broken::Protocol)? {
            match event {
                Event::Data(header) => {
                    self.open(header)?;
                    self.current = self.find(header.stream)?;
                }
                Event::Payload(payload) => self.payload(payload)?,
                Event::Complete(header) => {
                    if let Some(channel) = self.current.take() {
                        self.end(&channel, header);
                    }
                }
                Event::Bare(header) => self.bare(header)?,
            }
        }
        Ok(())
    }

    fn bare(&mut self, header: Header) -> Result<(), Broken> {
        match header.kind {
            Kind::Ping if header.flags.has(Flags::ACK) => {
                if let Some(rtt) = self.measuring.echoed(header.length) {
                    self.shared.measured(rtt);
                }
            }
            Kind::Ping => self.pong = Some(header.length),
            Kind::GoAway => return Err(Broken::GoneAway(header.length)),
            Kind::Window | Kind::Data => {
                self.open(header)?;
                if let Some(channel) = self.find(header.stream)? {
                    if !header.flags.has(Flags::RST) {
                        let after = channel.lock().credit(header.length);
                        self.shared.settle(&channel, after);
                    }
                    self.end(&channel, header);
                }
            }
        }
        Ok(())
    }

    /// Takes in a new stream, if this frame opens one.
    fn open(&mut self, header: Header) -> Result<(), Broken> {
        if !header.flags.has(Flags::SYN) {
            return Ok(());
        }
        let number = header.stream;
        if number == 0 || self.is_ours(number) || self.shared.find(number).is_some() {
            return Err(Broken::Protocol("a stream with a used number"));
        }
        // Streams may be used in another order than they were opened in.
        self.newest = self.newest.max(number);
        let channel = self.shared.adopt(number);
        let stream = Stream::new(channel, Arc::clone(&self.shared));
        let refused = match self.arriving.try_send(stream) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(stream) | TrySendError::Closed(stream)) => stream,
        };
        refused.abort(self.shared.settings.backlog_code);
        Ok(())
    }

    /// The stream of this number, `None` if it is over here.
    fn find(&self, number: u32) -> Result<Option<Arc<Channel>>, Broken> {
        if let Some(channel) = self.shared.find(number) {
            return Ok(Some(channel));
        }
        let known = if self.is_ours(number) {
            self.shared.next_number().is_none_or(|next| number < next)
        } else {
            number <= self.newest
        };
        if known && number != 0 {
            return Ok(None);
        }
        Err(Broken::Protocol("a stream that nobody opened"))
    }

    fn is_ours(&self, number: u32) -> bool {
        number % 2 == self.shared.role.parity()
    }

    fn payload(&self, payload: &[u8]) -> Result<(), Broken> {
        let Some(channel) = &self.current else {
            return Ok(());
        };
        let mut state = channel.lock();
        let (wanted, after) = state.receive(payload).map_err(Broken::Protocol)?;
        // Counted before the reader can take it off again.
        let too_much = wanted && self.shared.add_unread(payload.len());
        drop(state);
        if too_much {
            self.make_room();
        }
        self.shared.settle(channel, after);
        Ok(())
    }

    /// Too much is unread: gives up the stream that is read least.
    fn make_room(&self) {
        if let Some(worst) = self.shared.least_read() {
            let code = self.shared.settings.unread_code;
            let (after, freed) = worst.lock().give_up(code);
            self.shared.sub_unread(freed);
            self.shared.settle(&worst, after);
        }
    }

    /// Deals with the flags that end a stream.
    fn end(&self, channel: &Arc<Channel>, header: Header) {
        let mut state = channel.lock();
        let mut after = if header.flags.has(Flags::RST) {
            let code = match header.kind {
                Kind::Window => header.length,
                Kind::Data | Kind::Ping | Kind::GoAway => 0,
            };
            let (after, unread) = state.reset(code);
            self.shared.sub_unread(unread);
            after
        } else if header.flags.has(Flags::FIN) {
            state.finished()
        } else {
            return;
        };
        after.schedule |= state.leave();
        drop(state);
        self.shared.settle(channel, after);
    }
}

/// When the round trip is measured.
#[derive(Debug, Default)]
struct Measuring {
    received: usize,
    /// The ping that is under way, or the last.
    pinged: Option<Instant>,
    number: u32,
    under_way: bool,
}

impl Measuring {
    const fn received(&mut self, bytes: usize) {
        self.received = self.received.saturating_add(bytes);
    }

    /// The number of a ping, if it is time for one.
    fn ping(&mut self) -> Option<u32> {
        if self.under_way || self.received < MEASURE_AFTER {
            return None;
        }
        let now = Instant::now();
        if self.pinged.is_some_and(|last| now < last + MEASURE_EVERY) {
            return None;
        }
        self.received = 0;
        self.pinged = Some(now);
        self.under_way = true;
        self.number = self.number.wrapping_add(1);
        Some(self.number)
    }

    fn echoed(&mut self, number: u32) -> Option<Duration> {
        if !self.under_way || number != self.number {
            return None;
        }
        self.under_way = false;
        self.pinged.map(|at| at.elapsed())
    }
}

/// A frame that concerns the connection.
const fn connection_frame(kind: Kind, flags: Flags, length: u32) -> Header {
    Header {
        kind,
        flags,
        stream: 0,
        length,
    }
}
