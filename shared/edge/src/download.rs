//! An answer's body on its way to the client: passed on frame by frame, counted, and cut off on both sides if one side
//! fails.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRAILER,
};
use http::{Method, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::access_log::{EndedBy, Record};
use crate::answer::{self, BadAnswer};
use crate::client_body::Grace;
use crate::fields;
use sallyport_wire::Code;

use crate::gate::Exchange;
use crate::lease::Lease;
use crate::reply::{self, Failure, Format};

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
        let polled = match &mut this.kind {
            AnswerKind::Own(body) => ready!(Pin::new(body).poll_frame(cx))
                .map(|frame| frame.map_err(|never| match never {})),
            AnswerKind::Session { body, .. } => ready!(Pin::new(body).poll_frame(cx)),
        };
        match polled {
            Some(Ok(frame)) => {
                let frame = fields::onward(frame, |bytes| this.record.downloaded(bytes));
                if this.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.record.ended(EndedBy::Session);
                Poll::Ready(Some(Err(error)))
            }
            None => {
                this.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            AnswerKind::Own(body) => body.is_end_stream(),
            AnswerKind::Session { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            AnswerKind::Own(body) => body.size_hint(),
            AnswerKind::Session { body, .. } => body.size_hint(),
        }
    }
}
