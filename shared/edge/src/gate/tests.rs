//! The gate between a raw client and a real hyper.

mod bad_requests;
mod http1;
mod http2;
mod same_view;

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;

/// A client's end, and what stands behind the gate.
struct Rig {
    client: DuplexStream,
    handle: Handle,
    seen: Arc<Seen>,
    _server: JoinSet<()>,
}

/// What the service behind hyper saw.
#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    /// Lets the answers to `/wait` go.
    go: Option<Semaphore>,
}

impl Seen {
    fn requests(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }
}

impl Rig {
    fn new(http: HttpVersion, limits: Limits) -> Self {
        let (client, server) = tokio::io::duplex(64 << 10);
        let limits = Arc::new(limits);
        let (gate, handle) = Gate::new(server, http, &limits);
        let seen = Arc::new(Seen {
            go: Some(Semaphore::new(0)),
            ..Seen::default()
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(
            gate,
            http,
            (handle.clone(), limits, Arc::clone(&seen)),
        ));
        Self {
            client,
            handle,
            seen,
            _server: tasks,
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.client
            .write_all(bytes)
            .await
            .expect("the gate takes it");
    }

    /// Everything until the connection ends, and how long that took.
    async fn rest(&mut self) -> (String, Duration) {
        let start = Instant::now();
        let mut bytes = Vec::new();
        self.client.read_to_end(&mut bytes).await.expect("an end");
        (
            String::from_utf8_lossy(&bytes).into_owned(),
            start.elapsed(),
        )
    }

    /// What has come so far.
    async fn so_far(&mut self) -> String {
        let mut bytes = vec![0; 64 << 10];
        let soon = Duration::from_millis(1);
        match tokio::time::timeout(soon, self.client.read(&mut bytes)).await {
            Ok(read) => String::from_utf8_lossy(&bytes[..read.expect("open")]).into_owned(),
            Err(_nothing) => String::new(),
        }
    }
}

type Around = (Handle, Arc<Limits>, Arc<Seen>);

async fn serve(gate: Gate<DuplexStream>, http: HttpVersion, context: Around) {
    let closing = context.0.clone();
    let service = service_fn(move |request| answer(request, context.clone()));
    let io = TokioIo::new(gate);
    // The gate's own reason is what the tests look at.
    match http {
        HttpVersion::One => {
            let http = hyper::server::conn::http1::Builder::new();
            let mut connection = Box::pin(http.serve_connection(io, service).with_upgrades());
            tokio::select! {
                _ended = &mut connection => return,
                () = closing.closing() => connection.as_mut().graceful_shutdown(),
            }
            drop(connection.await);
        }
        HttpVersion::Two => {
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let mut connection = Box::pin(http.serve_connection(io, service));
            tokio::select! {
                _ended = &mut connection => return,
                () = closing.closing() => connection.as_mut().graceful_shutdown(),
            }
            drop(connection.await);
        }
    }
}

/// `/wait` answers when told to, `/large` with 1 MiB, `/early` without reading the body, `/talk`
/// begins the answer before the body; anything else tells what arrived.
async fn answer(
    mut request: Request<Incoming>,
    (handle, limits, seen): Around,
) -> Result<Response<Held>, Infallible> {
    let exchange = handle.begin();
    seen.requests.fetch_add(1, Ordering::AcqRel);
    let path = request.uri().path().to_owned();
    if request.headers().contains_key("upgrade") {
        return Ok(upgrade(&mut request, &handle, exchange));
    }
    let body = Paced::new(request.into_body(), &exchange, &limits);
    let (status, text) = match path.as_str() {
        "/wait" => {
            let go = seen.go.as_ref().expect("a semaphore").acquire().await;
            go.expect("open").forget();
            (StatusCode::OK, "waited".to_owned())
        }
        "/large" => (StatusCode::OK, "x".repeat(1 << 20)),
        "/early" => (StatusCode::PAYLOAD_TOO_LARGE, "early".to_owned()),
        "/talk" => {
            exchange.answering();
            return Ok(Response::new(Held {
                body: Text::Talk(body),
                _exchange: exchange,
            }));
        }
        _ => match body.collect().await {
            Ok(body) => (StatusCode::OK, format!("{path} {}", body.to_bytes().len())),
            Err(PacedError::TooSlow) => (StatusCode::REQUEST_TIMEOUT, "slow".to_owned()),
            Err(PacedError::Body(_)) => (StatusCode::BAD_REQUEST, "broken".to_owned()),
        },
    };
    exchange.answering();
    let mut response = Response::new(Held {
        body: Text::All(text.into()),
        _exchange: exchange,
    });
    *response.status_mut() = status;
    Ok(response)
}

/// Echoes what comes after the 101.
fn upgrade(request: &mut Request<Incoming>, handle: &Handle, exchange: Exchange) -> Response<Held> {
    let upgrading = hyper::upgrade::on(request);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let upgraded = upgrading.await.expect("an upgrade");
        let parts = upgraded
            .downcast::<TokioIo<Gate<DuplexStream>>>()
            .expect("our gate");
        let (mut io, held) = parts.io.into_inner().into_parts();
        io.write_all(&parts.read_buf).await.expect("open");
        io.write_all(&held).await.expect("open");
        let mut bytes = [0; 64];
        while let Ok(read @ 1..) = io.read(&mut bytes).await {
            io.write_all(&bytes[..read]).await.expect("open");
        }
    });
    tasks.detach_all();
    handle.upgraded();
    let mut response = Response::new(Held {
        body: Text::All(Full::default()),
        _exchange: exchange,
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert("upgrade", http::HeaderValue::from_static("websocket"));
    response
        .headers_mut()
        .insert("connection", http::HeaderValue::from_static("upgrade"));
    response
}

/// An answer that keeps its exchange open until it is sent.
struct Held {
    body: Text,
    _exchange: Exchange,
}

enum Text {
    All(Full<Bytes>),
    /// The request's own bytes, as they come.
    Talk(Paced<Incoming>),
}

impl Body for Held {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut self.get_mut().body {
            Text::All(all) => Pin::new(all).poll_frame(cx).map_err(io::Error::other),
            Text::Talk(talk) => Pin::new(talk).poll_frame(cx).map_err(io::Error::other),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Text::All(all) => all.size_hint(),
            Text::Talk(_) => SizeHint::default(),
        }
    }
}
