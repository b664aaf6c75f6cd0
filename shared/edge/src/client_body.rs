//! A request's body, and what becomes of it when its answer is through first.
//!
//! On HTTP/2 a body that is let go asks its client to stop: behind a whole answer h2 sends RST_STREAM with NO_ERROR
//! (RFC 9113 §8.1). Clients in the middle of an upload, curl among them, report a broken stream if they meet that
//! before they have looked at the answer. So a client is given a while to see the answer and to stop by itself. On
//! HTTP/1.1 the gate does the same when it closes.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sallyport_ops::Tasks;
use tokio::time::timeout;
use tracing::Span;

use crate::Limits;
use crate::client::HttpVersion;
use crate::gate::{Exchange, Paced, PacedError};

/// The body of a request as the gate lets it through.
#[derive(Debug)]
pub(crate) struct ClientBody {
    body: Option<Paced<Incoming>>,
    grace: Option<Arc<Grace>>,
}

/// The time that a client has to stop sending. It begins when this is let go by the answer, which then is through, and
/// by the body.
#[derive(Debug)]
pub(crate) struct Grace {
    rest: Mutex<Option<Incoming>>,
    limits: Arc<Limits>,
    tasks: Tasks,
}

impl Grace {
    /// For a request with a body whose client has to be told when to stop.
    pub(crate) fn new(
        http: HttpVersion,
        body: &Incoming,
        limits: &Arc<Limits>,
        tasks: &Tasks,
    ) -> Option<Arc<Self>> {
        let told = http == HttpVersion::Two && !body.is_end_stream();
        told.then(|| {
            Arc::new(Self {
                rest: Mutex::default(),
                limits: Arc::clone(limits),
                tasks: tasks.clone(),
            })
        })
    }
}

impl Drop for Grace {
    fn drop(&mut self) {
        let rest = self.rest.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(rest) = rest.take() {
            let parting = see_off(rest, Arc::clone(&self.limits));
            self.tasks.spawn(Span::current(), parting);
        }
    }
}

/// Lets a body go once its client has stopped sending, or has had its time. Beyond what may be dropped meanwhile, the
/// client's window stays shut.
async fn see_off(body: Incoming, limits: Arc<Limits>) {
    let mut body = pin!(body);
    let stopped = async {
        let mut left = limits.linger_bytes;
        while left > 0 {
            let Some(Ok(frame)) = body.frame().await else {
                return;
            };
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
        std::future::pending().await
    };
    drop(timeout(limits.linger, stopped).await);
}

impl ClientBody {
    /// The body of the request that `exchange` is about.
    pub(crate) fn new(
        body: Incoming,
        exchange: &Exchange,
        limits: &Limits,
        grace: Option<Arc<Grace>>,
    ) -> Self {
        Self {
            body: Some(Paced::new(body, exchange, limits)),
            grace,
        }
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        let body = self.body.take().filter(|body| !body.is_end_stream());
        if let (Some(grace), Some(body)) = (&self.grace, body) {
            let mut rest = grace.rest.lock().unwrap_or_else(PoisonError::into_inner);
            *rest = Some(body.into_inner());
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = PacedError<hyper::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
