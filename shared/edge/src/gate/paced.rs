//! A request body that must keep coming while somebody waits for it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::Exchange;
use super::alarm::Alarm;
use crate::limits::Limits;

/// A request body whose client must send at `Limits::body_rate` while the front waits for bytes.
///
/// Time counts only between a poll that finds nothing and the next bytes: a session that reads
/// slowly is not held against the client. Once [`Exchange::answering`] was called, the body may be
/// one side of a conversation, and only `Limits::idle` counts.
#[derive(Debug)]
pub struct Paced<B> {
    inner: B,
    pace: Pace,
    idle: Duration,
    answering: Arc<AtomicBool>,
    alarm: Alarm,
}

/// Why a paced body failed.
#[derive(Debug, thiserror::Error)]
pub enum PacedError<E> {
    /// The client sends too slowly: answer 408 and reset.
    #[error("the request body came too slowly")]
    TooSlow,
    /// The body itself failed.
    #[error(transparent)]
    Body(E),
}

impl<B> Paced<B> {
    /// Watches a body for the exchange that it belongs to.
    #[must_use]
    pub fn new(inner: B, exchange: &Exchange, limits: &Limits) -> Self {
        Self {
            inner,
            pace: Pace::new(limits),
            idle: limits.idle,
            answering: exchange.answering_flag(),
            alarm: Alarm::default(),
        }
    }

    /// The body itself, unwatched.
    #[must_use]
    pub fn into_inner(self) -> B {
        self.inner
    }

    fn deadline(&mut self, now: Instant) -> Instant {
        let too_slow = self.pace.wait(now);
        if self.answering.load(Ordering::Acquire) {
            return self.pace.waiting_since.unwrap_or(now) + self.idle;
        }
        too_slow
    }
}

impl<B: Body + Unpin> Body for Paced<B> {
    type Data = B::Data;
    type Error = PacedError<B::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let paced = self.get_mut();
        let now = Instant::now();
        match Pin::new(&mut paced.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                let bytes = frame
                    .as_ref()
                    .and_then(|frame| frame.as_ref().ok()?.data_ref());
                paced.pace.received(bytes.map_or(0, Buf::remaining), now);
                Poll::Ready(frame.map(|frame| frame.map_err(PacedError::Body)))
            }
            Poll::Pending => {
                let deadline = paced.deadline(now);
                paced
                    .alarm
                    .poll(cx, deadline)
                    .map(|()| Some(Err(PacedError::TooSlow)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// How long a client may still be waited for. Waiting uses it up and every byte adds to it, up to
/// the window over which the rate is averaged; the grace comes on top at the start.
#[derive(Debug)]
struct Pace {
    left: Duration,
    most: Duration,
    per_byte: Duration,
    waiting_since: Option<Instant>,
}

impl Pace {
    fn new(limits: &Limits) -> Self {
        let rate = u32::try_from(limits.body_rate.max(1)).unwrap_or(u32::MAX);
        Self {
            left: limits.body_window + limits.body_grace,
            most: limits.body_window,
            per_byte: Duration::from_secs(1) / rate,
            waiting_since: None,
        }
    }

    /// Somebody waits for bytes; gives when the patience ends.
    fn wait(&mut self, now: Instant) -> Instant {
        *self.waiting_since.get_or_insert(now) + self.left
    }

    fn received(&mut self, bytes: usize, now: Instant) {
        if let Some(since) = self.waiting_since.take() {
            self.left = self.left.saturating_sub(now - since);
        }
        let earned = self
            .per_byte
            .saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX));
        let most = self.most.max(self.left);
        self.left = self.left.saturating_add(earned).min(most);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::*;
    use crate::gate::Handle;
    use crate::gate::handle::Shared;

    struct Fed(mpsc::Receiver<Bytes>);

    impl Body for Fed {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            self.0
                .poll_recv(cx)
                .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    fn paced(limits: &Limits) -> (mpsc::Sender<Bytes>, Paced<Fed>, Exchange) {
        let (feed, body) = mpsc::channel(4);
        let exchange = Handle::new(Arc::new(Shared::new(limits, Instant::now()))).begin();
        (feed, Paced::new(Fed(body), &exchange, limits), exchange)
    }

    /// The length of the next frame, or none if it came too slowly.
    async fn next(body: &mut Paced<Fed>) -> Option<usize> {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))
            .await
            .expect("a frame");
        frame.ok()?.into_data().ok().map(|bytes| bytes.len())
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_reads_does_not_count() {
        let (feed, mut body, _exchange) = paced(&Limits::default());
        for _ in 0..5 {
            feed.send(Bytes::from_static(b"x")).await.expect("open");
            assert_eq!(next(&mut body).await, Some(1));
            tokio::time::sleep(Duration::from_secs(100)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_fast_buys_at_most_the_window() {
        let limits = Limits {
            body_grace: Duration::ZERO,
            ..Limits::default()
        };
        let (feed, mut body, _exchange) = paced(&limits);
        feed.send(Bytes::from(vec![0; 1 << 20]))
            .await
            .expect("open");
        assert_eq!(next(&mut body).await, Some(1 << 20));
        let start = Instant::now();
        assert_eq!(next(&mut body).await, None);
        assert_eq!(start.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_or_not() {
        let limits = Limits {
            body_rate: 1_000,
            ..Limits::default()
        };
        for (bytes, seconds) in [(999, None), (500, Some(49)), (0, Some(30))] {
            let (feed, mut body, _exchange) = paced(&limits);
            let start = Instant::now();
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            let slow = loop {
                tokio::select! {
                    read = next(&mut body) => if read.is_none() { break Some(start.elapsed().as_secs()) },
                    _ = ticks.tick() => drop(feed.try_send(Bytes::from(vec![0; bytes]))),
                }
                if start.elapsed() > Duration::from_secs(1_000) {
                    break None;
                }
            };
            let expected = seconds.map(|seconds| seconds..=seconds + 1);
            assert_eq!(slow.is_some(), expected.is_some(), "{bytes} B/s");
            assert!(
                slow.is_none_or(|slow| expected.is_some_and(|range| range.contains(&slow))),
                "{slow:?}"
            );
        }
    }
}
