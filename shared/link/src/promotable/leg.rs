//! The data connection of a stream, and where each of its directions stands.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::data::{DataConnection, STAYS, Says, TURN};

/// A gateway must say where it turns within this time, or the stream is lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The data connection and where each direction stands.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) connection: DataConnection,
    turn: [u8; TURN],
    pub(super) turn_sent: usize,
    pub(super) sending: bool,
    pub(super) incoming: Incoming,
    tick: Pin<Box<Sleep>>,
    begun: Instant,
    /// Bytes both ways at the last tick.
    pub(super) seen: u64,
    pub(super) idle: bool,
}

/// How the bytes come that this side reads.
#[derive(Debug)]
pub(super) enum Incoming {
    /// On the tunnel.
    Tunnel,
    /// Not before the gateway has said where it turned.
    Unknown { turn: [u8; TURN], read: usize },
    /// On the tunnel up to this one, then on the data connection.
    Until(u64),
    /// On the data connection, up to the one that the tunnel's note names once it is here.
    Data {
        note: [u8; 8],
        read: usize,
        over: bool,
    },
}

impl Leg {
    /// Begins to use a connection: this side turns at once, at the byte that it has `sent`, unless it has finished.
    pub(super) fn begin(
        mut connection: DataConnection,
        (sent, received): (u64, u64),
        finished: bool,
        idle: Duration,
    ) -> io::Result<Self> {
        let incoming = match connection.turned() {
            None => Incoming::Unknown {
                turn: [0; TURN],
                read: 0,
            },
            Some(STAYS) => Incoming::Tunnel,
            Some(place) if place >= received => Incoming::Until(place),
            Some(_) => return Err(lost("the relay turned too early")),
        };
        let turn = connection.turn(if finished { STAYS } else { sent });
        Ok(Self {
            connection,
            turn,
            turn_sent: 0,
            sending: !finished,
            incoming,
            tick: Box::pin(sleep(idle.min(ANSWER_WITHIN))),
            begun: Instant::now(),
            seen: sent.wrapping_add(received),
            idle: false,
        })
    }

    pub(super) const fn knows_turn(&self) -> bool {
        !matches!(self.incoming, Incoming::Unknown { .. })
    }

    pub(super) const fn is_over(&self) -> bool {
        !self.sending && self.turn_sent == TURN && matches!(self.incoming, Incoming::Tunnel)
    }

    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(unsent) = self
            .turn
            .get(self.turn_sent..)
            .filter(|turn| !turn.is_empty())
        {
            let written = ready!(Pin::new(&mut self.connection.io).poll_write(cx, unsent));
            self.turn_sent += written.map_err(|error| broken(&error))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Hears where the gateway turned.
    pub(super) fn hear_turn(&mut self, cx: &mut Context<'_>, received: u64) -> io::Result<()> {
        let Incoming::Unknown { turn, read } = &mut self.incoming else {
            return Ok(());
        };
        while let Some(space) = turn.get_mut(*read..).filter(|space| !space.is_empty()) {
            let mut space = ReadBuf::new(space);
            let Poll::Ready(came) = Pin::new(&mut self.connection.io).poll_read(cx, &mut space)
            else {
                let late = self.begun.elapsed() > ANSWER_WITHIN;
                return if late { Err(lost("no answer")) } else { Ok(()) };
            };
            came.map_err(|error| broken(&error))?;
            match space.filled().len() {
                0 => return Err(lost("no answer")),
                came => *read += came,
            }
        }
        let place = self.connection.keys.turned(Says::GatewayTurns, turn)?;
        self.incoming = match place {
            STAYS => Incoming::Tunnel,
            place if place >= received => Incoming::Until(place),
            _ => return Err(lost("the gateway turned too early")),
        };
        Ok(())
    }

    /// Notices at each tick whether anything was moved since the one before.
    pub(super) fn poll_tick(&mut self, cx: &mut Context<'_>, moved: u64, every: Duration) {
        while self.tick.as_mut().poll(cx).is_ready() {
            self.idle = self.seen == moved && self.begun.elapsed() >= every;
            self.seen = moved;
            self.tick.as_mut().reset(Instant::now() + every);
        }
    }
}

pub(super) fn lost(cause: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, cause)
}

/// What became of the data connection is never taken for a word of the other side.
pub(super) fn broken(error: &io::Error) -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        format!("data connection: {error}"),
    )
}
