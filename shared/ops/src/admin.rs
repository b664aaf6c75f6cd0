//! HTTP for the administrator, on a unix socket and, where configured, on a loopback address.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Either, Full, Limited, StreamBody};
use hyper::body::{Body, Bytes, Frame};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::metrics::Metrics;
use crate::ready::Ready;
use crate::tasks::Tasks;

mod serve;
mod local;
mod ask;
mod socket;
mod query;

pub use ask::{AskError, ask, listen};
pub use query::query;

/// A request's body may have this many bytes.
const MOST_BODY: usize = 1 << 20;
/// How long a route may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A request to a route.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdminRequest {
    /// The query's parameters, decoded; of two with one name the last holds.
    pub query: BTreeMap<String, String>,
    /// The body, when there is one.
    pub body: Option<Value>,
}

/// Why a route did not answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct AdminError {
    /// The status of the answer.
    pub status: StatusCode,
    /// What the administrator reads.
    pub message: String,
}

impl AdminError {
    /// An error with this status and text.
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// Something that was named does not exist (404).
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// The request is wrong (400).
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

type Answer = dyn Fn(AdminRequest) -> BoxFuture<'static, Result<Value, AdminError>> + Send + Sync;
type Tell = dyn Fn(AdminRequest) -> Result<BoxStream<'static, Bytes>, AdminError> + Send + Sync;
type Told = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;
type Reply = Response<Either<Full<Bytes>, Told>>;

/// What the administrator can ask of the process.
///
/// Whoever may open the unix socket (mode 0660, group `sallyport-admin` where there is one) may do everything. The TCP
/// address is open to every user of the machine, and to every page in their browsers: it only reads, and only when
/// the request names a loopback host.
pub struct Admin {
    metrics: Metrics,
    ready: Ready,
    routes: Vec<Route>,
}

struct Route {
    method: Method,
    path: &'static str,
    handler: Handler,
}

enum Handler {
    /// Answers with JSON.
    Answers(Box<Answer>),
    /// Goes on telling until it is done or nobody listens any more.
    Tells(Box<Tell>),
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes = self.routes.iter().map(|route| (&route.method, route.path));
        f.debug_map().entries(routes).finish()
    }
}

impl Admin {
    /// With `GET /healthz`, `/readyz` and `/metrics` only.
    #[must_use]
    pub fn new(metrics: Metrics, ready: Ready) -> Self {
        Self {
            metrics,
            ready,
            routes: Vec::new(),
        }
    }

    /// Adds a route. It answers with JSON within 30 s.
    #[must_use]
    pub fn route(
        mut self,
        method: Method,
        path: &'static str,
        handler: impl Fn(AdminRequest) -> BoxFuture<'static, Result<Value, AdminError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.routes.push(Route {
            method,
            path,
            handler: Handler::Answers(Box::new(handler)),
        });
        self
    }

    /// Adds a `GET` route that goes on telling lines of JSON for as long as it likes and somebody listens. It is served
    /// on the unix socket alone: each listener holds a place, and others of the machine are none of them.
    ///
    /// The stream is asked for more only as fast as the client reads, and dropped when the client goes.
    #[must_use]
    pub fn stream(
        mut self,
        path: &'static str,
        handler: impl Fn(AdminRequest) -> Result<BoxStream<'static, Bytes>, AdminError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.routes.push(Route {
            method: Method::GET,
            path,
            handler: Handler::Tells(Box::new(handler)),
        });
        self
    }

    /// Serves on a unix socket until `tasks` are stopped, and then removes it.
    ///
    /// A socket that a dead process left is replaced.
    ///
    /// # Errors
    /// When the socket cannot be made; `AddrInUse` when a living process answers there, `AlreadyExists` when what is
    /// there is no socket.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn serve_unix(self: &Arc<Self>, path: &Path, tasks: &Tasks) -> io::Result<()> {
        serve::unix(self, path, tasks)
    }

    /// Serves what reads on a loopback address until `tasks` are stopped, and says which address it got.
    ///
    /// # Errors
    /// `InvalidInput` when the address is not loopback, else when it cannot be bound.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn serve_tcp(self: &Arc<Self>, addr: SocketAddr, tasks: &Tasks) -> io::Result<SocketAddr> {
        serve::tcp(self, addr, tasks)
    }

    async fn answer<B>(&self, request: Request<B>) -> Reply
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
    {
        let (head, body) = request.into_parts();
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        match head.uri.path() {
            "/healthz" if reads => json(StatusCode::OK, &json!({ "status": "ok" })),
            "/readyz" if reads => self.readiness(),
            "/metrics" if reads => self.exposition(),
            _ => self
                .run_route(head, body)
                .await
                .unwrap_or_else(|error| refusal(&error)),
        }
    }

    /// Whether a path is told over the unix socket alone.
    fn is_stream(&self, path: &str) -> bool {
        let tells = |route: &Route| matches!(route.handler, Handler::Tells(_));
        self.routes
            .iter()
            .any(|route| route.path == path && tells(route))
    }

    fn readiness(&self) -> Reply {
        let ready = self.ready.is_ready();
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        json(
            status,
            &json!({ "ready": ready, "steps": self.ready.shown() }),
        )
    }

    fn exposition(&self) -> Reply {
        const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        reply(StatusCode::OK, OPEN_METRICS, self.metrics.encode())
    }

    async fn run_route<B>(&self, head: Parts, body: B) -> Result<Reply, AdminError>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
    {
        let route = self.find(&head.method, head.uri.path())?;
        let answer = async {
            let body = read_body(body).await?;
            let query = query::parse(head.uri.query().unwrap_or_default());
            let request = AdminRequest { query, body };
            match &route.handler {
                Handler::Answers(answer) => answer(request)
                    .await
                    .map(|value| json(StatusCode::OK, &value)),
                Handler::Tells(tell) => tell(request).map(telling),
            }
        };
        timeout(ANSWER_WITHIN, answer)
            .await
            .unwrap_or_else(|_elapsed| {
                let text = format!("no answer within {} s", ANSWER_WITHIN.as_secs());
                Err(AdminError::new(StatusCode::GATEWAY_TIMEOUT, text))
            })
    }

    fn find(&self, method: &Method, path: &str) -> Result<&Route, AdminError> {
        let mut here = self
            .routes
            .iter()
            .filter(|route| route.path == path)
            .peekable();
        if here.peek().is_none() {
            return Err(AdminError::not_found("no such route"));
        }
        let other_method =
            || AdminError::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method");
        here.find(|route| route.method == *method)
            .ok_or_else(other_method)
    }
}

async fn read_body<B>(body: B) -> Result<Option<Value>, AdminError>
where
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let body = Limited::new(body, MOST_BODY).collect().await;
    let bytes = body
        .map_err(|cause| AdminError::new(StatusCode::PAYLOAD_TOO_LARGE, cause.to_string()))?
        .to_bytes();
    if bytes.is_empty() {
        return Ok(None);
    }
    let value = serde_json::from_slice(&bytes);
    value
        .map(Some)
        .map_err(|cause| AdminError::bad_request(format!("the body is no JSON: {cause}")))
}

fn refusal(error: &AdminError) -> Reply {
    let name = error.status.canonical_reason().unwrap_or("error");
    json(
        error.status,
        &json!({ "error": { "name": name, "message": error.message } }),
    )
}

fn json(status: StatusCode, value: &Value) -> Reply {
    reply(status, "application/json", format!("{value}\n"))
}

/// The head of a told stream goes out at once: the client knows that it is let in.
fn telling(stream: BoxStream<'static, Bytes>) -> Reply {
    let frames = stream.map(|bytes| Ok(Frame::data(bytes)));
    let mut reply = Response::new(Either::Right(StreamBody::new(frames.boxed())));
    let lines = http::HeaderValue::from_static("application/x-ndjson");
    reply
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, lines);
    reply
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Reply {
    let mut reply = Response::new(Either::Left(Full::new(Bytes::from(body))));
    *reply.status_mut() = status;
    let content_type = http::HeaderValue::from_static(content_type);
    reply
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, content_type);
    reply
}

#[cfg(test)]
mod tests;
