//! What a front of this relay opens: streams to sessions, listed and counted while they last.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use sallyport_edge::{Found, Page, Way};
use sallyport_ops::Slot;
use sallyport_splice::{Abort, Duplex, Entry, Pieces};
use sallyport_wire::ClusterName;
use sallyport_wire::message::Protocol;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::info_span;

use crate::carry::{Admitted, Carrier};
use crate::config::SessionConfig;
use crate::reach::ReachError;

mod pipe;

use pipe::Pipe;

/// Bytes between a front and the bridge of a desktop, each way.
const BRIDGE_BUFFER: usize = 64 << 10;

/// A stream to a session. It stays listed until the last of those that share its entry is gone.
pub(crate) struct Outlet {
    inner: Box<dyn Duplex>,
    way: Arc<Way>,
    /// None where what it leads to lists and counts itself.
    entry: Option<Arc<Entry>>,
    /// The client's place among the streams of clients.
    _place: Option<Slot>,
}

impl Outlet {
    /// A stream that exists already.
    pub(crate) fn new(inner: Box<dyn Duplex>, way: Arc<Way>, entry: Option<Arc<Entry>>) -> Self {
        Self {
            inner,
            way,
            entry,
            _place: None,
        }
    }

    /// To the program of a session that the stream was let in to, or to the bridge to its desktop.
    pub(crate) async fn reach(
        carrier: &Arc<Carrier>,
        admitted: &Arc<Admitted>,
        way: Arc<Way>,
        entry: impl FnOnce() -> Arc<Entry> + Send,
    ) -> Result<Self, ReachError> {
        if admitted.session.config.protocol == Protocol::Vnc {
            let bridge = desktop(Arc::clone(carrier), Arc::clone(admitted));
            return Ok(Self::new(Box::new(bridge), way, None));
        }
        let upstream = carrier.reach(admitted).await?;
        Ok(Self::new(Box::new(upstream), way, Some(entry())))
    }

    /// Keeps a place until it is gone.
    pub(crate) fn in_place(self, place: Slot) -> Self {
        Self {
            _place: Some(place),
            ..self
        }
    }

    /// The way that it takes.
    pub(crate) const fn way(&self) -> &Arc<Way> {
        &self.way
    }

    fn sent(&self, amount: usize) {
        if let Some(entry) = &self.entry {
            let amount = u64::try_from(amount).unwrap_or(u64::MAX);
            entry.meter().add_up(amount);
        }
    }

    fn received(&self, amount: usize) {
        if let Some(entry) = &self.entry {
            let amount = u64::try_from(amount).unwrap_or(u64::MAX);
            entry.meter().add_down(amount);
        }
    }
}

/// The other end is the bridge, which is a task of the stream's owner.
fn desktop(carrier: Arc<Carrier>, admitted: Arc<Admitted>) -> Pipe {
    let (front, bridge) = Pipe::pair(BRIDGE_BUFFER);
    let span = info_span!("desktop", session = %admitted.session.id());
    let tasks = admitted.tasks.clone();
    tasks.spawn(span, async move { carrier.bridge(&admitted, bridge).await });
    front
}

/// How a front treats a session of this node.
pub(crate) fn found(session: &SessionConfig) -> Found {
    let seconds = u64::from(session.answer_within);
    Found {
        session: session.id.clone(),
        // a relay knows its own cluster alone
        cluster: ClusterName::default(),
        protocol: session.protocol,
        keep_prefix: !session.strip_prefix,
        answer_within: (seconds > 0).then(|| Duration::from_secs(seconds)),
        anonymous: session.anonymous(),
        elsewhere: None,
        by_cookie: false,
    }
}

/// There is no page at `/` of a front of this relay.
pub(crate) const fn no_page() -> Page {
    Page {
        status: StatusCode::NOT_FOUND,
        content_type: "text/plain; charset=utf-8",
        body: Bytes::from_static(b"not found\n"),
    }
}

impl AsyncRead for Outlet {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.received(buf.filled().len().saturating_sub(before));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Outlet {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let amount = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.sent(amount);
        Poll::Ready(Ok(amount))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let amount = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, slices))?;
        self.sent(amount);
        Poll::Ready(Ok(amount))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl Duplex for Outlet {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        to: &mut Pieces,
    ) -> Option<Poll<io::Result<usize>>> {
        let taken = self.inner.poll_take(cx, most, to);
        if let Some(Poll::Ready(Ok(amount))) = taken {
            self.received(amount);
        }
        taken
    }

    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Bytes,
    ) -> Option<Poll<io::Result<usize>>> {
        let given = self.inner.poll_give(cx, piece);
        if let Some(Poll::Ready(Ok(amount))) = given {
            self.sent(amount);
        }
        given
    }
}

impl Abort for Outlet {
    fn abort(&mut self, code: u32) {
        self.inner.abort(code);
    }
}
