//! An answer's body on its way to the client: passed on frame by frame, counted, and cut off on both sides if one side
//! fails.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRAILER,
};
use http::{Method, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::access_log::{EndedBy, Record};
use crate::answer::{self, BadAnswer};
use crate::client_body::Grace;
use crate::fields;
use sallyport_wire::Code;

use crate::gate::Exchange;
use crate::lease::Lease;
use crate::reply::{self, Failure, Format};
use crate::stall::Turn;

/// Trailers of gRPC, which a client of HTTP/1.1 has to be told of before the body.
const GRPC_TRAILERS: [HeaderName; 3] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];

/// How an answer has to look for the client that waits for it.
#[derive(Debug)]
pub(crate) struct Passing {
    record: Arc<Record>,
    exchange: Arc<Exchange>,
    grace: Option<Arc<Grace>>,
    turn: Option<Turn>,
    format: Format,
    head_only: bool,
    version: Version,
}

impl Passing {
    /// To the sender of a request.
    pub(crate) fn to<B>(
        request: &Request<B>,
        record: &Arc<Record>,
        exchange: &Arc<Exchange>,
        grace: Option<Arc<Grace>>,
    ) -> Self {
        Self {
            record: Arc::clone(record),
            exchange: Arc::clone(exchange),
            grace,
            turn: Turn::current(),
            format: Format::of(request.headers()),
            head_only: request.method() == Method::HEAD,
            version: request.version(),
        }
    }

    /// An answer of the front.
    pub(crate) fn own(&self, response: Response<Bytes>) -> Response<Answer> {
        let (mut head, mut body) = response.into_parts();
        if self.head_only {
            head.headers
                .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            body = Bytes::new();
        }
        Response::from_parts(head, Answer::own(body, self))
    }

    /// The answer that tells of a failure.
    pub(crate) fn failed(&self, failure: &Failure) -> Response<Answer> {
        self.record.ended(EndedBy::Gateway);
        self.record.failed(failure.code, &failure.cause);
        let mut response = reply::failure(failure, self.format, self.record.request_id());
        // After a request that was not understood nothing more of its connection is (RFC 9112 §9.6).
        if failure.code == Code::BadRequest && self.version < Version::HTTP_2 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        self.own(response)
    }

    /// An answer of a session. `prefix` is that of path mode.
    pub(crate) fn session(
        &self,
        response: Response<Incoming>,
        lease: Lease,
        prefix: Option<&str>,
    ) -> Result<Response<Answer>, BadAnswer> {
        let (mut head, body) = response.into_parts();
        let mut trailers = fields::trailer_names(&head.headers);
        answer::filter(&mut head, prefix)?;
        if head.version == Version::HTTP_2 && is_grpc(&head.headers) {
            trailers.extend(GRPC_TRAILERS);
        }
        if self.version < Version::HTTP_2 {
            announce(&mut head.headers, &trailers);
        }
        // hyper takes the client's version where this one is higher.
        head.version = if self.version == Version::HTTP_2 {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
        head.extensions.clear();
        Ok(Response::from_parts(
            head,
            Answer::session(body, lease, self),
        ))
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|media| media.as_bytes().starts_with(b"application/grpc"))
}

/// Names the trailers before the body: hyper writes no others on HTTP/1.1.
fn announce(headers: &mut HeaderMap, trailers: &[HeaderName]) {
    let names: Vec<&str> = trailers.iter().map(HeaderName::as_str).collect();
    if !names.is_empty()
        && !headers.contains_key(CONTENT_LENGTH)
        && let Ok(names) = HeaderValue::try_from(names.join(", "))
    {
        headers.insert(TRAILER, names);
    }
}

/// An answer's body on its way to the client.
#[derive(Debug)]
pub(crate) struct Answer {
    kind: AnswerKind,
    record: Arc<Record>,
    /// The gate waits for the next request until this is dropped.
    _exchange: Arc<Exchange>,
    /// The client's time to stop sending begins when this is dropped.
    _grace: Option<Arc<Grace>>,
    turn: Option<Turn>,
    /// What was read of the body before the head could go.
    first: Option<Result<Frame<Bytes>, hyper::Error>>,
}

#[derive(Debug)]
enum AnswerKind {
    /// What the front says itself.
    Own(Full<Bytes>),
    /// What the session says.
    Session {
        // Dropped before the body, so that an exchange that is cut off never looks finished to the session.
        lease: Option<Lease>,
        body: Incoming,
    },
}

impl Answer {
    /// An answer of the front.
    fn own(body: Bytes, passing: &Passing) -> Self {
        Self::of(AnswerKind::Own(Full::new(body)), passing)
    }

    fn of(kind: AnswerKind, passing: &Passing) -> Self {
        Self {
            kind,
            record: Arc::clone(&passing.record),
            _exchange: Arc::clone(&passing.exchange),
            _grace: passing.grace.clone(),
            turn: passing.turn.clone(),
            first: None,
        }
    }

    /// An answer of a session, over a stream that is given back when all of it is through.
    fn session(body: Incoming, lease: Lease, passing: &Passing) -> Self {
        let mut answer = Self::of(
            AnswerKind::Session {
                lease: Some(lease),
                body,
            },
            passing,
        );
        if answer.is_end_stream() {
            answer.finish();
        }
        answer
    }

    /// Waits `most` for the first of the body, which then leaves together with the head, if the request is not through
    /// yet. Clients that see the head of an error alone, curl among them, end their upload short of what they announced,
    /// and are reset for it before they have seen the rest.
    pub(crate) async fn gather(&mut self, most: Duration) {
        let early = match &self.kind {
            AnswerKind::Own(_) => false,
            AnswerKind::Session { lease, .. } => lease.as_ref().is_some_and(Lease::is_early),
        };
        if early {
            let first = poll_fn(|cx| self.poll_next(cx));
            self.first = timeout(most, first).await.ok().flatten();
        }
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = match &mut self.kind {
            AnswerKind::Own(body) => ready!(Pin::new(body).poll_frame(cx))
                .map(|frame| frame.map_err(|never| match never {})),
            AnswerKind::Session { body, .. } => ready!(Pin::new(body).poll_frame(cx)),
        };
        match polled {
            Some(Ok(frame)) => {
                let frame = fields::onward(frame, |bytes| self.record.downloaded(bytes));
                if self.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.record.ended(EndedBy::Session);
                Poll::Ready(Some(Err(error)))
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    fn finish(&mut self) {
        if let AnswerKind::Session { lease, .. } = &mut self.kind
            && let Some(lease) = lease.take()
        {
            self.record.ended(EndedBy::Both);
            lease.finish();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(turn) = &this.turn {
            turn.of_session();
        }
        let frame = match this.first.take() {
            Some(first) => Some(first),
            None => ready!(this.poll_next(cx)),
        };
        if let Some(turn) = &this.turn {
            turn.of_client();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let rest = match &self.kind {
            AnswerKind::Own(body) => body.is_end_stream(),
            AnswerKind::Session { body, .. } => body.is_end_stream(),
        };
        rest && self.first.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = match &self.kind {
            AnswerKind::Own(body) => body.size_hint(),
            AnswerKind::Session { body, .. } => body.size_hint(),
        };
        let first = self.first.as_ref().and_then(|first| first.as_ref().ok());
        let bytes = first.and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + bytes);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + bytes);
        }
        hint
    }
}
