//! A QUIC stream, which tells its ends itself (RFC 9000 §3).

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use quinn::{ReadError, VarInt};
use sallyport_wire::Code;
use tokio::io::ReadBuf;

use crate::life::broken;
use crate::unread::{Inbox, Unread, Unreadable};

/// A QUIC stream.
#[derive(Debug)]
pub(crate) struct OverQuic {
    send: quinn::SendStream,
    inbox: Arc<Inbox>,
    unread: Arc<Unread>,
    finished: bool,
    ended: bool,
}

impl OverQuic {
    pub(crate) fn new(
        (send, recv): (quinn::SendStream, quinn::RecvStream),
        unread: &Arc<Unread>,
    ) -> Self {
        Self {
            inbox: unread.add(VarInt::from(send.id()).into_inner(), recv),
            unread: Arc::clone(unread),
            send,
            finished: false,
            ended: false,
        }
    }

    pub(crate) fn number(&self) -> u64 {
        VarInt::from(self.send.id()).into_inner()
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.inbox.poll_read(cx, buf)).map_err(|error| read_error(&error))?;
        self.ended = buf.filled().len() == before;
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let send = Pin::new(&mut self.send);
        send.poll_write(cx, buf)
            .map_err(|error| write_error(&error))
    }

    /// Received bytes lie in pieces of one packet each, which cost more to hand over than to copy.
    pub(crate) fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        let written = pin!(self.send.write_chunks(std::slice::from_mut(piece))).poll(cx);
        let written = ready!(written).map_err(|error| write_error(&error))?;
        Poll::Ready(Ok(written.bytes))
    }

    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.finished, true) && self.send.finish().is_err() {
            return Err(broken(Code::TunnelLost));
        }
        Ok(())
    }

    pub(crate) fn abort(&mut self, code: Code) {
        let code = VarInt::from_u32(code.number());
        if !std::mem::replace(&mut self.finished, true) {
            drop(self.send.reset(code)); // fails only if the other side stopped it first
        }
        if !std::mem::replace(&mut self.ended, true) {
            self.inbox.stop(code);
        }
    }
}

impl Drop for OverQuic {
    fn drop(&mut self) {
        self.abort(if self.finished {
            Code::Closed
        } else {
            Code::Internal
        });
        self.unread.remove(self.number());
    }
}

fn read_error(unreadable: &Unreadable) -> io::Error {
    match unreadable {
        Unreadable::GivenUp => broken(Code::Limit),
        Unreadable::Failed(ReadError::Reset(code)) => broken(code_of(*code)),
        Unreadable::Failed(ReadError::ConnectionLost(_)) => broken(Code::TunnelLost),
        Unreadable::Failed(
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected,
        ) => io::ErrorKind::NotConnected.into(),
    }
}

fn write_error(error: &quinn::WriteError) -> io::Error {
    match error {
        quinn::WriteError::Stopped(code) => broken(code_of(*code)),
        quinn::WriteError::ConnectionLost(_) => broken(Code::TunnelLost),
        quinn::WriteError::ClosedStream | quinn::WriteError::ZeroRttRejected => {
            io::ErrorKind::BrokenPipe.into()
        }
    }
}

/// The code of a QUIC application error.
pub(crate) fn code_of(code: VarInt) -> Code {
    u32::try_from(code.into_inner()).map_or(Code::Internal, Code::from_number)
}
