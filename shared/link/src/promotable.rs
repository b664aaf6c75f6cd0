//! A stream of a tunnel that is carried by a data connection while it moves much.
//!
//! Each direction turns on its own, at an exact byte. To the data connection: the sender says under proof, on that
//! connection, from which byte of the stream on it sends there. Back to the tunnel: the sender ends its half of the
//! connection and says on the tunnel's stream how many bytes the direction has had by then, 8 bytes long; what follows
//! on the tunnel's stream is the direction again, its end included. So an end is believed only from the tunnel, and
//! bytes that were lost beside it are missed.
//!
//! Nothing on the tunnel's stream says which of its bytes is the first of those 8, so nobody may read there who does
//! not know where the other side turned. The relay turns first; the gateway has read that before it uses the
//! connection at all. The relay then reads nothing from the tunnel until it has heard where the gateway turned, and
//! does not turn back before.

mod leg;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use sallyport_splice::{Abort, Bare, Duplex, Pieces, Socket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::data::{DataConnection, TURN};
use crate::stream::TunnelStream;

use leg::{Incoming, Leg, broken, lost};

/// Where a stream's data connections come from, and who is told.
pub trait Supply: Send + Unpin {
    /// The next data connection, asked for whenever the stream's task runs without one. `bulk` bytes went one way
    /// since the tunnel began to carry the stream, or last began again.
    fn poll_next(&mut self, cx: &mut Context<'_>, bulk: u64) -> Poll<DataConnection>;

    /// A data connection begins to carry the stream, or has ended to.
    fn carries(&mut self, data: bool);
}

/// A stream of a tunnel, and the data connection that carries it for a while.
#[derive(Debug)]
pub struct Promotable<S> {
    stream: TunnelStream,
    supply: S,
    idle: Duration,
    sent: u64,
    received: u64,
    /// What `sent` and `received` were when the tunnel began to carry both.
    since: (u64, u64),
    /// Our end is being said on the tunnel.
    finished: bool,
    /// Their end was heard there.
    ended: bool,
    /// What has to be said on the tunnel before anything else: how many bytes were sent when we turned back.
    note: Note,
    data: Option<Box<Leg>>,
    fault: Option<io::Error>,
}

/// Eight bytes that are on their way to the tunnel.
#[derive(Debug, Default)]
struct Note {
    bytes: [u8; 8],
    left: usize,
}

impl<S: Supply> Promotable<S> {
    /// A stream that has carried nothing yet. A direction returns to the tunnel once the stream was idle for `idle`.
    pub fn new(stream: TunnelStream, supply: S, idle: Duration) -> Self {
        Self {
            stream,
            supply,
            idle,
            sent: 0,
            received: 0,
            since: (0, 0),
            finished: false,
            ended: false,
            note: Note::default(),
            data: None,
            fault: None,
        }
    }

    /// Bytes that went one way since the tunnel carries both, whichever were more.
    const fn bulk(&self) -> u64 {
        let sent = self.sent.saturating_sub(self.since.0);
        let received = self.received.saturating_sub(self.since.1);
        if sent > received { sent } else { received }
    }

    /// Begins to use a data connection that has come.
    fn look_for_data(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.data.is_none()
            && let Poll::Ready(connection) = self.supply.poll_next(cx, self.bulk())
        {
            if connection.is_fresh() {
                self.attach(cx, connection)?;
            }
        }
        Ok(())
    }

    fn attach(&mut self, cx: &mut Context<'_>, connection: DataConnection) -> io::Result<()> {
        let is_relay = connection.turned().is_none();
        let places = (self.sent, self.received);
        let mut data = Leg::begin(connection, places, self.finished, self.idle)?;
        match data.poll_turn(cx) {
            // The relay turns first: while nothing of that has left, nobody has turned.
            Poll::Ready(Err(_)) if is_relay && data.turn_sent == 0 => return Ok(()),
            Poll::Ready(sent) => sent?,
            Poll::Pending => {}
        }
        self.data = Some(Box::new(data));
        self.supply.carries(true);
        Ok(())
    }

    /// Lets go of the data connection once it carries neither direction.
    fn detach(&mut self) {
        if self.data.as_ref().is_some_and(|data| data.is_over()) && self.note.left == 0 {
            self.data = None;
            self.since = (self.sent, self.received);
            self.supply.carries(false);
        }
    }

    /// Sends what must leave before anything else.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(data) = &mut self.data {
            ready!(data.poll_turn(cx))?;
        }
        while let Some(unsent) = self.note.unsent() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, unsent))?;
            self.note.left = self.note.left.saturating_sub(written);
        }
        Poll::Ready(Ok(()))
    }

    /// From here on this side sends on the tunnel again.
    fn turn_back(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(data) = self.data.as_mut().filter(|data| data.sending) else {
            return Ok(());
        };
        data.sending = false;
        // It never waits: what was written is the kernel's.
        let ended = Pin::new(&mut data.connection.io).poll_shutdown(cx);
        self.note = Note::new(self.sent);
        match ended {
            Poll::Ready(Err(error)) => Err(broken(&error)),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Reads the 8 bytes with which the other side turns back. It also is what notices that the tunnel is lost.
    fn poll_note(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let received = self.received;
        let Some(data) = &mut self.data else {
            return Ok(());
        };
        if let Incoming::Until(place) = data.incoming
            && place == received
        {
            data.incoming = Incoming::Data {
                note: [0; 8],
                read: 0,
                over: false,
            };
        }
        let Incoming::Data { note, read, over } = &mut data.incoming else {
            return Ok(());
        };
        while let Some(space) = note.get_mut(*read..).filter(|space| !space.is_empty()) {
            let mut space = ReadBuf::new(space);
            let Poll::Ready(came) = Pin::new(&mut self.stream).poll_read(cx, &mut space) else {
                break;
            };
            came?;
            match space.filled().len() {
                0 => return Err(lost("the stream ended where it had to turn back")),
                came => *read += came,
            }
        }
        if *read < note.len() {
            return Ok(());
        }
        let place = u64::from_be_bytes(*note);
        if place == received {
            data.incoming = Incoming::Tunnel;
        } else if place < received || *over {
            return Err(lost("bytes of the data connection are missing"));
        }
        Ok(())
    }

    /// Counts what the data connection brought; nothing is its end.
    fn brought(&mut self, bytes: usize) {
        self.received = self.received.saturating_add(bytes as u64);
        if bytes == 0
            && let Some(data) = &mut self.data
            && let Incoming::Data { over, .. } = &mut data.incoming
        {
            *over = true;
        }
    }

    /// Reads at most so many bytes from the tunnel.
    fn poll_read_tunnel(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        most: u64,
    ) -> Poll<io::Result<()>> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most.min(buf.remaining())));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let came = part.filled().len();
        buf.advance(came);
        self.received = self.received.saturating_add(came as u64);
        Poll::Ready(Ok(()))
    }

    fn poll_read_data(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(data) = &mut self.data else {
            return Poll::Ready(Err(lost("there is no data connection")));
        };
        let before = buf.filled().len();
        let read = Pin::new(&mut data.connection.io).poll_read(cx, buf);
        ready!(read).map_err(|error| broken(&error))?;
        self.brought(buf.filled().len().saturating_sub(before));
        Poll::Ready(Ok(()))
    }

    /// Whether the stream has been idle while the data connection carried it, and may leave it.
    fn may_turn_back(&self) -> bool {
        let moved = self.sent.wrapping_add(self.received);
        let waits = |data: &Leg| data.sending && data.idle && data.seen == moved;
        self.data
            .as_ref()
            .is_some_and(|data| waits(data) && data.knows_turn() && data.turn_sent == TURN)
    }
}

impl Note {
    const fn new(bytes: u64) -> Self {
        Self {
            bytes: bytes.to_be_bytes(),
            left: 8,
        }
    }

    fn unsent(&self) -> Option<&[u8]> {
        let sent = self.bytes.len().checked_sub(self.left)?;
        self.bytes.get(sent..).filter(|unsent| !unsent.is_empty())
    }
}

impl<S: Supply> Bare for Promotable<S> {
    fn tend(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        if self.data.is_none() && !(self.finished && self.ended) {
            self.look_for_data(cx)?;
        }
        let (received, moved) = (self.received, self.sent.wrapping_add(self.received));
        if let Some(data) = &mut self.data {
            data.poll_tick(cx, moved, self.idle);
            data.hear_turn(cx, received)?;
        }
        self.poll_note(cx)?;
        if let Poll::Ready(sent) = self.poll_first(cx) {
            sent?;
        }
        self.detach();
        Ok(())
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        if self.may_turn_back() {
            let turned = self.turn_back(cx).and_then(|()| match self.poll_first(cx) {
                Poll::Ready(sent) => sent,
                Poll::Pending => Ok(()),
            });
            if let Err(fault) = turned {
                self.fault = Some(fault);
                cx.waker().wake_by_ref();
            }
            self.detach();
        }
    }

    fn source(&self) -> Option<Socket<'_>> {
        let data = self.data.as_ref()?;
        match data.incoming {
            Incoming::Data { over: false, .. } => Some(Socket::Tcp(&data.connection.io)),
            Incoming::Data { .. }
            | Incoming::Tunnel
            | Incoming::Unknown { .. }
            | Incoming::Until(_) => None,
        }
    }

    fn sink(&self) -> Option<Socket<'_>> {
        let data = self.data.as_ref()?;
        let carries = data.sending && data.turn_sent == TURN;
        carries.then_some(Socket::Tcp(&data.connection.io))
    }

    fn taken(&mut self, bytes: usize) {
        self.brought(bytes);
    }

    fn given(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes as u64);
    }
}

impl<S: Supply> AsyncRead for Promotable<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            this.poll_note(cx)?;
            match this.data.as_ref().map(|data| &data.incoming) {
                None | Some(Incoming::Tunnel) => {
                    let before = buf.filled().len();
                    ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
                    let came = buf.filled().len().saturating_sub(before);
                    this.received = this.received.saturating_add(came as u64);
                    this.ended |= came == 0;
                    return Poll::Ready(Ok(()));
                }
                Some(Incoming::Unknown { .. }) => return Poll::Pending,
                Some(Incoming::Until(place)) => {
                    let before = this.received;
                    ready!(this.poll_read_tunnel(cx, buf, place.saturating_sub(before)))?;
                    return Poll::Ready(if this.received > before {
                        Ok(())
                    } else {
                        Err(lost("the stream ended before it turned"))
                    });
                }
                Some(Incoming::Data { over: true, .. }) => return Poll::Pending,
                Some(Incoming::Data { .. }) => {
                    let before = this.received;
                    ready!(this.poll_read_data(cx, buf))?;
                    if this.received > before {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl<S: Supply> AsyncWrite for Promotable<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_first(cx))?;
        let written = match this.data.as_mut().filter(|data| data.sending) {
            Some(data) => {
                let written = Pin::new(&mut data.connection.io).poll_write(cx, bytes);
                ready!(written).map_err(|error| broken(&error))?
            }
            None => ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?,
        };
        this.sent = this.sent.saturating_add(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_first(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_first(cx))?;
        if let Some(data) = this.data.as_ref().filter(|data| data.sending) {
            if !data.knows_turn() {
                return Poll::Pending;
            }
            this.turn_back(cx)?;
            ready!(this.poll_first(cx))?;
        }
        this.finished = true;
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        this.detach();
        Poll::Ready(Ok(()))
    }
}

impl<S: Supply> Abort for Promotable<S> {
    fn abort(&mut self, code: u32) {
        Abort::abort(&mut self.stream, code);
        if let Some(data) = &mut self.data {
            data.connection.io.abort(code);
        }
    }
}

impl<S: Supply> Duplex for Promotable<S> {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        to: &mut Pieces,
    ) -> Option<Poll<io::Result<usize>>> {
        let on_tunnel = match self.data.as_ref().map(|data| &data.incoming) {
            None | Some(Incoming::Tunnel) => true,
            Some(Incoming::Unknown { .. } | Incoming::Until(_) | Incoming::Data { .. }) => false,
        };
        if !on_tunnel {
            return None;
        }
        let taken = self.stream.poll_take(cx, most, to)?;
        if let Poll::Ready(Ok(came)) = taken {
            self.received = self.received.saturating_add(came as u64);
            self.ended |= came == 0;
        }
        Some(taken)
    }

    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Bytes,
    ) -> Option<Poll<io::Result<usize>>> {
        if self.data.as_ref().is_some_and(|data| data.sending) || self.note.left > 0 {
            return None;
        }
        let given = self.stream.poll_give(cx, piece)?;
        if let Poll::Ready(Ok(gone)) = given {
            self.sent = self.sent.saturating_add(gone as u64);
        }
        Some(given)
    }
}
