//! A session's program.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sallyport_edge::Found;
use sallyport_ops::Tasks;
use sallyport_wire::message::Protocol;
use tokio::net::TcpStream;

use crate::harness::Site;

type Body = BoxBody<Bytes, hyper::Error>;

/// How often sessions were connected to.
#[derive(Clone, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn add(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// The program as session `web`, over HTTP/1.1.
pub(crate) async fn web(site: &Site) -> Count {
    one(site, "web", |_| {}).await
}

/// The program as `pool`, whose clients a cookie keeps with one member.
pub(crate) async fn pool(site: &Site) -> Count {
    one(site, "pool", |found| found.by_cookie = true).await
}

async fn one(site: &Site, id: &str, change: impl FnOnce(&mut Found)) -> Count {
    let count = Count::default();
    let counted = count.clone();
    site.session(id, change, move |stream| {
        counted.add();
        serve_one(stream)
    })
    .await;
    count
}

/// The program as session `rpc`, over HTTP/2 with prior knowledge.
pub(crate) async fn rpc(site: &Site) -> Count {
    let count = Count::default();
    let counted = count.clone();
    let tasks = site.tasks.clone();
    site.session(
        "rpc",
        |found| found.protocol = Protocol::H2c,
        move |stream| {
            counted.add();
            serve_two(stream, tasks.clone())
        },
    )
    .await;
    count
}

async fn serve_one(stream: TcpStream) {
    let served = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
    drop(served);
}

async fn serve_two(stream: TcpStream, tasks: Tasks) {
    let served = http2::Builder::new(On(tasks))
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
    drop(served);
}

/// Runs hyper's futures as tasks.
#[derive(Clone)]
pub(crate) struct On(pub(crate) Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for On {
    fn execute(&self, future: F) {
        self.0.spawn(tracing::Span::none(), future);
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, http::Error> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/echo" => {
            let trailer = request.headers().get("trailer").cloned();
            let mut response = Response::builder().header("content-type", "application/grpc");
            if let Some(trailer) = trailer {
                response = response.header("trailer", trailer);
            }
            response.body(request.into_body().boxed())
        }
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "42".parse()?);
            trailers.insert("grpc-status", "0".parse()?);
            trailers.insert("x-forwarded-for", "6.6.6.6".parse()?);
            let frames = [
                Ok(Frame::data(Bytes::from_static(b"data"))),
                Ok(Frame::trailers(trailers)),
            ];
            Response::builder()
                .header("content-type", "application/grpc")
                .header("trailer", "x-sum, x-forwarded-for")
                .body(StreamBody::new(futures::stream::iter(frames)).boxed())
        }
        "/304" => Response::builder()
            .status(StatusCode::NOT_MODIFIED)
            .header("etag", "\"x\"")
            .body(empty()),
        "/204" => Response::builder()
            .status(StatusCode::NO_CONTENT)
            .body(empty()),
        "/range" => Response::builder()
            .status(StatusCode::PARTIAL_CONTENT)
            .header("content-range", "bytes 2-4/10")
            .body(full("234")),
        "/cookies" => Response::builder()
            .header("set-cookie", "a=1; Domain=test; Path=/")
            .header("set-cookie", "__Host-sallyport=evil; Path=/; Secure")
            .header("set-cookie", "__Secure-sallyport-pool=1; Path=/; Secure")
            .header("set-cookie", "=__Host-sallyport-pool=1; Path=/; Secure")
            .header("alt-svc", "h3=\":1\"")
            .body(full("set")),
        _ => Response::builder().body(full(&seen(&request))),
    }
}

/// Method, target and fields of a request, line by line.
fn seen(request: &Request<Incoming>) -> String {
    let mut text = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        let _infallible = writeln!(text, "{name}: {value}");
    }
    text
}

fn full(text: &str) -> Body {
    Full::new(Bytes::copy_from_slice(text.as_bytes()))
        .map_err(|never| match never {})
        .boxed()
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}
