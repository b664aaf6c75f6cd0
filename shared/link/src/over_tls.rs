//! A yamux stream, whose ends are told on the control stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::io::{AsyncRead as _, AsyncWrite as _};
use sallyport_wire::Code;
use sallyport_wire::message::{ControlKind, Finish, Reset};
use tokio::io::ReadBuf;
use tokio::time::Sleep;

use crate::ends::{End, Ends};
use crate::life::{Life, broken, to_u64};

/// A yamux stream, whose ends are told on the control stream.
#[derive(Debug)]
pub(crate) struct OverTls {
    /// Dropped by an abort, which makes the crate send its own reset.
    stream: Option<yamux::Stream>,
    pub(crate) number: u64,
    end: Arc<End>,
    ends: Arc<Ends>,
    life: Arc<Life>,
    sent: u64,
    received: u64,
    /// Our direction: finished in order.
    finished: bool,
    /// Their direction: finished in order.
    ended: bool,
    finish_within: Duration,
    /// Runs while the end of file has come and the word about it has not.
    patience: Option<Pin<Box<Sleep>>>,
}

impl OverTls {
    pub(crate) fn new(
        stream: yamux::Stream,
        ends: Arc<Ends>,
        life: Arc<Life>,
        finish_within: Duration,
    ) -> Self {
        let number = u64::from(stream.id().val());
        Self {
            stream: Some(stream),
            number,
            end: ends.follow(number),
            ends,
            life,
            sent: 0,
            received: 0,
            finished: false,
            ended: false,
            finish_within,
            patience: None,
        }
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        match Pin::new(stream).poll_read(cx, buf.initialize_unfilled()) {
            Poll::Ready(Ok(0)) => self.poll_end(cx),
            Poll::Ready(Ok(read)) => {
                buf.advance(read);
                self.received += to_u64(read);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(self.lost())),
            Poll::Pending => {
                self.end.watch_read(cx);
                match self.failure() {
                    // What was finished in order before is still on its way.
                    Some(error) if self.end.word().finished.is_none() => Poll::Ready(Err(error)),
                    _ => Poll::Pending,
                }
            }
        }
    }

    /// At end of file: was that all?
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end.watch_read(cx);
        match self.end.word().finished {
            Some(bytes) if bytes == self.received => {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            Some(_) => return Poll::Ready(Err(self.lost())),
            None => {}
        }
        if let Some(error) = self.failure() {
            return Poll::Ready(Err(error));
        }
        let within = self.finish_within;
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(Err(broken(Code::Protocol)))
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if let Some(error) = self.failure() {
            return Poll::Ready(Err(error));
        }
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        match Pin::new(stream).poll_write(cx, buf) {
            Poll::Ready(Ok(written)) => {
                self.sent += to_u64(written);
                Poll::Ready(Ok(written))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(self.lost())),
            Poll::Pending => {
                self.end.watch_write(cx);
                match self.failure() {
                    Some(error) => Poll::Ready(Err(error)),
                    None => Poll::Pending,
                }
            }
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) if !self.finished => Pin::new(stream)
                .poll_flush(cx)
                .map_err(|_closed| self.lost()),
            _ => Poll::Ready(Ok(())),
        }
    }

    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = self.failure() {
            return Poll::Ready(Err(error));
        }
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if ready!(Pin::new(stream).poll_close(cx)).is_err() {
            return Poll::Ready(Err(self.lost()));
        }
        self.finished = true;
        self.tell(ControlKind::Finish(Finish {
            stream: self.number,
            bytes: self.sent,
        }));
        Poll::Ready(Ok(()))
    }

    pub(crate) fn abort(&mut self, code: Code) {
        let open = !(self.finished && self.ended);
        if self.stream.take().is_some() && open {
            self.tell(ControlKind::Reset(Reset {
                stream: self.number,
                code: code.number(),
            }));
        }
    }

    fn tell(&self, word: ControlKind) {
        if self.life.over().is_none() && self.ends.tell(word).is_err() {
            self.life.end(Code::Limit, "the control stream is stuck");
        }
    }

    /// Why this stream can go no further, if it is so.
    fn failure(&self) -> Option<io::Error> {
        if let Some(code) = self.end.word().reset {
            return Some(broken(code));
        }
        self.life.over().map(|_| broken(Code::TunnelLost))
    }

    fn lost(&self) -> io::Error {
        self.failure().unwrap_or_else(|| broken(Code::TunnelLost))
    }
}

impl Drop for OverTls {
    fn drop(&mut self) {
        self.abort(if self.finished {
            Code::Closed
        } else {
            Code::Internal
        });
        self.ends.forget(self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures::io::AsyncWriteExt;
    use sallyport_ops::Tasks;
    use tokio::time::Instant;
    use tokio_util::compat::TokioAsyncReadCompatExt;
    use tracing::Span;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    struct Ours {
        over: OverTls,
        ends: Arc<Ends>,
        life: Arc<Life>,
        _tasks: Tasks,
    }

    /// Our end of a stream, whose peer is bare yamux: it sends `bytes`, closes, and says nothing about it.
    async fn closed_by_bare_yamux(bytes: &'static [u8]) -> Ours {
        let tasks = Tasks::new();
        let (here, there) = tokio::io::duplex(64 * 1_024);
        let config = yamux::Config::default();
        let mut peer = yamux::Connection::new(there.compat(), config.clone(), yamux::Mode::Client);
        let mut connection = yamux::Connection::new(here.compat(), config, yamux::Mode::Server);
        let opening = std::future::poll_fn(|cx| peer.poll_new_outbound(cx));
        let mut stream = opening.await.expect("a stream");
        tasks.spawn(Span::none(), async move {
            let mut sending = Box::pin(async move {
                stream.write_all(bytes).await.expect("a live stream");
                stream.close().await.expect("a live stream");
                stream
            });
            let mut kept = None;
            std::future::poll_fn(|cx| {
                if kept.is_none()
                    && let Poll::Ready(stream) = sending.as_mut().poll(cx)
                {
                    kept = Some(stream);
                }
                peer.poll_next_inbound(cx).map(|_| ())
            })
            .await;
        });
        let arriving = std::future::poll_fn(|cx| connection.poll_next_inbound(cx));
        let stream = arriving
            .await
            .expect("a stream")
            .expect("a live connection");
        tasks.spawn(Span::none(), async move {
            std::future::poll_fn(|cx| connection.poll_next_inbound(cx).map(|_| ())).await;
        });
        let (ends, life) = (Arc::new(Ends::new(false)), Arc::new(Life::new()));
        let over = OverTls::new(stream, Arc::clone(&ends), Arc::clone(&life), PATIENCE);
        Ours {
            over,
            ends,
            life,
            _tasks: tasks,
        }
    }

    async fn read_all(over: &mut OverTls) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let mut chunk = [0; 16];
            let mut chunk = ReadBuf::new(&mut chunk);
            std::future::poll_fn(|cx| over.poll_read(cx, &mut chunk)).await?;
            if chunk.filled().is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(chunk.filled());
        }
    }

    fn code(read: io::Result<Vec<u8>>) -> Code {
        let error = read.expect_err("no orderly end");
        sallyport_wire::Refusal::in_chain(&error).expect("a code").0
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_nobody_vouches_for_is_none() {
        let mut ours = closed_by_bare_yamux(b"all of it").await;
        let begun = Instant::now();
        assert_eq!(code(read_all(&mut ours.over).await), Code::Protocol);
        assert_eq!(begun.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_believed_when_the_count_agrees() {
        let mut ours = closed_by_bare_yamux(b"all of it").await;
        ours.ends.finished(Finish {
            stream: 1,
            bytes: 9,
        });
        assert_eq!(
            read_all(&mut ours.over).await.expect("an end"),
            b"all of it"
        );
        assert_eq!(read_all(&mut ours.over).await.expect("still"), b"");
    }

    #[tokio::test(start_paused = true)]
    async fn a_word_that_comes_late_is_waited_for() {
        let mut ours = closed_by_bare_yamux(b"all of it").await;
        let ends = Arc::clone(&ours.ends);
        let (read, ()) = tokio::join!(read_all(&mut ours.over), async {
            tokio::time::sleep(PATIENCE / 2).await;
            ends.finished(Finish {
                stream: 1,
                bytes: 9,
            });
        });
        assert_eq!(read.expect("an end"), b"all of it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_count_and_a_long_one_are_errors() {
        for bytes in [8, 10] {
            let mut ours = closed_by_bare_yamux(b"all of it").await;
            ours.ends.finished(Finish { stream: 1, bytes });
            assert_eq!(code(read_all(&mut ours.over).await), Code::TunnelLost);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_and_a_lost_tunnel_end_the_wait() {
        let mut ours = closed_by_bare_yamux(b"some").await;
        let gone = Code::ClientGone.number();
        ours.ends.reset(Reset {
            stream: 1,
            code: gone,
        });
        assert_eq!(code(read_all(&mut ours.over).await), Code::ClientGone);

        let mut ours = closed_by_bare_yamux(b"some").await;
        let (life, ends) = (Arc::clone(&ours.life), Arc::clone(&ours.ends));
        let begun = Instant::now();
        let (read, ()) = tokio::join!(read_all(&mut ours.over), async {
            tokio::task::yield_now().await;
            life.end(Code::TunnelLost, "cut");
            ends.wake_all();
        });
        assert_eq!(code(read), Code::TunnelLost);
        assert!(begun.elapsed() < PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn how_a_stream_ends_is_told_once() {
        let mut ours = closed_by_bare_yamux(b"some").await;
        std::future::poll_fn(|cx| ours.over.poll_write(cx, b"1234"))
            .await
            .expect("a live stream");
        std::future::poll_fn(|cx| ours.over.poll_finish(cx))
            .await
            .expect("a live stream");
        drop(ours.over);
        let finish = Finish {
            stream: 1,
            bytes: 4,
        };
        let closed = Reset {
            stream: 1,
            code: Code::Closed.number(),
        };
        assert_eq!(ours.ends.take(), Some(ControlKind::Finish(finish)));
        assert_eq!(
            ours.ends.take(),
            Some(ControlKind::Reset(closed)),
            "it did not read to the end"
        );
        assert_eq!(ours.ends.take(), None);
    }
}
