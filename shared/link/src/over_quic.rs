//! A QUIC stream, which tells its ends itself (RFC 9000 §3).

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use sallyport_wire::Code;
use tokio::io::ReadBuf;

use crate::life::broken;

/// A QUIC stream.
#[derive(Debug)]
pub(crate) struct OverQuic {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    finished: bool,
    ended: bool,
}

impl OverQuic {
    pub(crate) fn new((send, recv): (quinn::SendStream, quinn::RecvStream)) -> Self {
        Self {
            send,
            recv,
            finished: false,
            ended: false,
        }
    }

    pub(crate) fn number(&self) -> u64 {
        quinn::VarInt::from(self.send.id()).into_inner()
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.recv.poll_read_buf(cx, buf)).map_err(|error| read_error(&error))?;
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
        let code = quinn::VarInt::from_u32(code.number());
        if !std::mem::replace(&mut self.finished, true) {
            drop(self.send.reset(code)); // fails only if the other side stopped it first
        }
        if !std::mem::replace(&mut self.ended, true) {
            drop(self.recv.stop(code)); // fails only if it ended by itself
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
    }
}

fn read_error(error: &quinn::ReadError) -> io::Error {
    match error {
        quinn::ReadError::Reset(code) => broken(code_of(*code)),
        quinn::ReadError::ConnectionLost(_) => broken(Code::TunnelLost),
        quinn::ReadError::ClosedStream
        | quinn::ReadError::IllegalOrderedRead
        | quinn::ReadError::ZeroRttRejected => io::ErrorKind::NotConnected.into(),
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
pub(crate) fn code_of(code: quinn::VarInt) -> Code {
    u32::try_from(code.into_inner()).map_or(Code::Internal, Code::from_number)
}
