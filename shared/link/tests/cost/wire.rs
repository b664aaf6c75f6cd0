//! A connection in memory that counts what is written to it, below TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Header of a TLS record: type, version, and two bytes of length (RFC 8446 §5.1).
const HEADER: usize = 5;

/// What was written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Written {
    pub(crate) writes: usize,
    pub(crate) records: usize,
}

impl Written {
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            writes: self.writes - before.writes,
            records: self.records - before.records,
        }
    }
}

/// Counts the writes to one end of a connection, and the records in them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(Arc<Mutex<Count>>);

#[derive(Debug, Default)]
struct Count {
    written: Written,
    header: [u8; HEADER],
    filled: usize,
    /// What is to come of the record that began last.
    left: usize,
}

impl Tally {
    pub(crate) fn now(&self) -> Written {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .written
    }

    fn write(&self, pieces: &[IoSlice<'_>], mut bytes: usize) {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        count.written.writes += 1;
        for piece in pieces {
            let piece = &piece[..bytes.min(piece.len())];
            bytes -= piece.len();
            count.pass(piece);
        }
    }
}

impl Count {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            if self.left > 0 {
                let payload = self.left.min(bytes.len());
                self.left -= payload;
                bytes = &bytes[payload..];
                continue;
            }
            self.header[self.filled] = *first;
            self.filled += 1;
            bytes = &bytes[1..];
            if self.filled == HEADER {
                self.filled = 0;
                self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                self.written.records += 1;
            }
        }
    }
}

/// One end of a connection in memory.
#[derive(Debug)]
pub(crate) struct Wire {
    io: DuplexStream,
    tally: Tally,
}

impl Wire {
    pub(crate) const fn new(io: DuplexStream, tally: Tally) -> Self {
        Self { io, tally }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(bytes)) = written {
            self.tally.write(bufs, bytes);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
