//! A request's body on its way to the session: passed on frame by frame, counted, held back while the session has not
//! asked for it, and cut off if the client's side fails.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::access_log::Record;
use crate::client_body::ClientBody;
use crate::fields;
use crate::gate::PacedError;

/// A request's body that broke off, or came too slowly.
#[derive(Debug, thiserror::Error)]
#[error("the request's body broke off")]
pub(crate) struct UploadError(#[from] PacedError<hyper::Error>);

impl UploadError {
    /// Whether the client was too slow, rather than gone.
    pub(crate) const fn is_slow(&self) -> bool {
        matches!(self.0, PacedError::TooSlow)
    }
}

/// A request's body on its way to the session.
pub(crate) struct Upload {
    body: Option<ClientBody>,
    record: Arc<Record>,
    hold: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    /// Where the body goes back to if nothing of it was used.
    unused: Option<oneshot::Sender<ClientBody>>,
    done: Arc<AtomicBool>,
}

/// Holds a body back while the session has not said `100 Continue` (RFC 9110 §10.1.1). The client's own 100 is sent
/// when its body is first read, so that the session's word reaches it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expectation {
    /// The session wants the body.
    pub(crate) granted: CancellationToken,
    /// The session has answered without it.
    pub(crate) answered: CancellationToken,
}

impl Expectation {
    /// Resolves when the body may be read: when the session says so, or after `patience` if it says nothing at all,
    /// as a session may that does not know `Expect`.
    async fn granted(self, patience: Duration) {
        tokio::select! {
            biased;
            () = self.granted.cancelled() => {}
            () = self.answered.cancelled() => std::future::pending().await,
            () = tokio::time::sleep(patience) => {}
        }
    }
}

impl Upload {
    /// An upload of `body`, or of nothing. The body comes back if the upload is dropped before any of it was used.
    pub(crate) fn new(
        body: Option<ClientBody>,
        record: &Arc<Record>,
    ) -> (Self, oneshot::Receiver<ClientBody>) {
        let (unused, returned) = oneshot::channel();
        let body = body.filter(|body| !body.is_end_stream());
        let done = Arc::new(AtomicBool::new(body.is_none()));
        (
            Self {
                body,
                record: Arc::clone(record),
                hold: None,
                unused: Some(unused),
                done,
            },
            returned,
        )
    }

    /// Becomes true when the whole body has gone through.
    pub(crate) fn done(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.done)
    }

    /// Holds the body back until the session wants it.
    pub(crate) fn hold(&mut self, expectation: Expectation, patience: Duration) {
        self.hold = Some(Box::pin(expectation.granted(patience)));
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = self.get_mut();
        if let Some(hold) = &mut this.hold {
            ready!(hold.as_mut().poll(cx));
            this.hold = None;
        }
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        // From here on the client may have been told to go on, and bytes may be gone: there is no way back.
        this.unused = None;
        let frame = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => {
                this.done.store(true, Ordering::Release);
                return Poll::Ready(None);
            }
        };
        if body.is_end_stream() {
            this.done.store(true, Ordering::Release);
        }
        Poll::Ready(Some(Ok(fields::onward(frame, |bytes| {
            this.record.uploaded(bytes)
        }))))
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

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(unused), Some(body)) = (self.unused.take(), self.body.take()) {
            // Nobody waits for it any more where the exchange is over.
            drop(unused.send(body));
        }
    }
}
