//! Clients of HTTP/2.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use sallyport_edge::client::HttpVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::app::{self, On};
use crate::harness::{LONG, Site};

type Body = BoxBody<Bytes, std::convert::Infallible>;

pub(crate) async fn client(site: &Site) -> SendRequest<Body> {
    let stream = site.connect(HttpVersion::Two, |_| {}).await;
    let (sender, connection) = http2::handshake(On(site.tasks.clone()), TokioIo::new(stream))
        .await
        .expect("a connection");
    site.tasks
        .spawn(tracing::Span::none(), async move { drop(connection.await) });
    sender
}

pub(crate) fn request(method: &str, path: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(format!("https://gw.test{path}"))
        .body(body)
        .expect("a request")
}

pub(crate) fn empty() -> Body {
    Empty::new().boxed()
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[tokio::test]
async fn a_hundred_at_once() {
    let site = Site::new();
    let count = app::web(&site).await;
    let sender = client(&site).await;
    let all: FuturesUnordered<_> = (0..100)
        .map(|number| {
            let mut sender = sender.clone();
            async move {
                let body = Full::new(Bytes::from(format!("{number}"))).boxed();
                let response = sender
                    .send_request(request("POST", "/s/web/echo", body))
                    .await
                    .expect("an answer");
                (text(response).await, number.to_string())
            }
        })
        .collect();
    all.for_each(|(got, sent)| async move { assert_eq!(got, sent) })
        .await;
    assert!(count.get() <= 100, "{}", count.get());
}

#[tokio::test]
async fn http1_sessions_get_te_and_give_trailers() {
    let site = Site::new();
    app::web(&site).await;
    let mut sender = client(&site).await;

    let seen = text(
        sender
            .send_request(request("POST", "/s/web/x?y", empty()))
            .await
            .expect("an answer"),
    )
    .await;
    assert!(
        seen.starts_with("POST /x?y\n") && seen.contains("te: trailers\n"),
        "{seen}"
    );
    assert!(
        seen.contains("content-length: 0\n") && seen.contains("host: gw.test\n"),
        "{seen}"
    );

    let response = sender
        .send_request(request("GET", "/s/web/trailers", empty()))
        .await
        .expect("an answer");
    let whole = response.into_body().collect().await.expect("a body");
    let trailers = whole.trailers().expect("trailers");
    assert_eq!(
        trailers.get("x-sum").map(|value| value.as_bytes()),
        Some(&b"42"[..])
    );
    assert!(!trailers.contains_key("x-forwarded-for"));
}

#[tokio::test]
async fn cookies_arrive_in_one_line_and_head_has_no_body() {
    let site = Site::new();
    app::web(&site).await;
    let mut sender = client(&site).await;
    let mut crumbs = request("GET", "/s/web/x", empty());
    crumbs
        .headers_mut()
        .append("cookie", "a=1".parse().expect("a value"));
    crumbs
        .headers_mut()
        .append("cookie", "__Host-sallyport=s".parse().expect("a value"));
    crumbs
        .headers_mut()
        .append("cookie", "b=2".parse().expect("a value"));
    let seen = text(sender.send_request(crumbs).await.expect("an answer")).await;
    assert!(seen.contains("cookie: a=1; b=2\n"), "{seen}");

    for path in ["/s/web/x", "/s/nothing/"] {
        let response = sender
            .send_request(request("HEAD", path, empty()))
            .await
            .expect("an answer");
        assert!(response.headers().contains_key("content-length"));
        assert_eq!(text(response).await, "");
    }
}

#[tokio::test]
async fn grpc_streams_both_ways_over_one_upstream_connection() {
    let site = Site::new();
    let count = app::rpc(&site).await;
    let mut sender = client(&site).await;
    let (feed, fed) = mpsc::channel::<Frame<Bytes>>(1);
    let frames = futures::stream::unfold(fed, |mut fed| async move {
        fed.recv().await.map(|frame| (Ok(frame), fed))
    });
    let mut call = request(
        "POST",
        "/s/rpc/echo",
        BodyExt::boxed(StreamBody::new(frames)),
    );
    call.headers_mut()
        .insert("te", "trailers".parse().expect("a value"));
    let mut answer = sender
        .send_request(call)
        .await
        .expect("an answer")
        .into_body();
    for word in ["one", "two", "three"] {
        feed.send(Frame::data(Bytes::from(word)))
            .await
            .expect("sent");
        let frame = answer.frame().await.expect("a frame").expect("a frame");
        assert_eq!(frame.into_data().expect("data"), word);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    feed.send(Frame::trailers(trailers)).await.expect("sent");
    drop(feed);
    let frame = answer.frame().await.expect("a frame").expect("a frame");
    assert_eq!(frame.into_trailers().expect("trailers")["grpc-status"], "0");

    let response = sender
        .send_request(request("POST", "/s/rpc/trailers", empty()))
        .await
        .expect("an answer");
    let whole = response.into_body().collect().await.expect("a body");
    assert_eq!(whole.trailers().expect("trailers")["grpc-status"], "0");
    assert_eq!(count.get(), 1);
}

#[tokio::test]
async fn grpc_trailers_reach_a_client_of_http1() {
    let site = Site::new();
    app::rpc(&site).await;
    let all = site
        .fetch("GET /s/rpc/trailers HTTP/1.1\r\nHost: gw.test\r\nTE: trailers\r\n\r\n")
        .await;
    assert!(
        all.contains("grpc-status: 0\r\n") && all.ends_with("\r\n\r\n"),
        "{all}"
    );
}

#[tokio::test]
async fn a_broken_answer_resets_its_stream_only() {
    let site = Site::new();
    app::web(&site).await;
    site.session(
        "breaks",
        |_| {},
        |mut stream| async move {
            let mut request = [0; 4096];
            assert_ne!(stream.read(&mut request).await.expect("a request"), 0);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
                .await
                .expect("sent");
        },
    )
    .await;
    let mut sender = client(&site).await;
    let broken = sender
        .send_request(request("GET", "/s/breaks/", empty()))
        .await
        .expect("a head");
    assert!(broken.into_body().collect().await.is_err());
    let seen = text(
        sender
            .send_request(request("GET", "/s/web/", empty()))
            .await
            .expect("an answer"),
    )
    .await;
    assert!(seen.starts_with("GET /\n"), "{seen}");
}

#[tokio::test]
async fn a_cancelled_request_is_aborted_at_the_session() {
    let site = Site::new();
    let (tell, mut told) = mpsc::channel(4);
    site.session(
        "web",
        |_| {},
        move |mut stream| {
            let tell = tell.clone();
            async move {
                let mut request = [0; 4096];
                assert_ne!(stream.read(&mut request).await.expect("a request"), 0);
                tell.send(Ok(1)).await.expect("a listener");
                let end = stream
                    .read(&mut request)
                    .await
                    .map_err(|error| error.kind());
                tell.send(end).await.expect("a listener");
            }
        },
    )
    .await;
    let mut sender = client(&site).await;
    let waiting = sender.send_request(request("GET", "/s/web/", empty()));
    let mut waiting = Box::pin(waiting);
    tokio::select! {
        _ = &mut waiting => panic!("nobody answers"),
        arrived = told.recv() => assert_eq!(arrived, Some(Ok(1))),
    }
    drop(waiting);
    let end = tokio::time::timeout(LONG, told.recv())
        .await
        .expect("in time");
    assert_eq!(end, Some(Err(std::io::ErrorKind::ConnectionReset)));
}

#[tokio::test]
async fn names_that_differ_are_refused() {
    let site = Site::new();
    app::web(&site).await;
    let mut sender = client(&site).await;
    let mut differing = request("GET", "/s/web/", empty());
    differing
        .headers_mut()
        .insert("host", "other.test".parse().expect("a value"));
    assert_eq!(
        sender
            .send_request(differing)
            .await
            .expect("an answer")
            .status(),
        400
    );
    for path in ["/s/web/../x", "/s/web//x", "/s/web/%00", "/s%2fweb/"] {
        let response = sender
            .send_request(request("GET", path, empty()))
            .await
            .expect("an answer");
        assert_eq!(response.status(), 400, "{path}");
    }
    assert!(site.host.asked().is_empty());
}
