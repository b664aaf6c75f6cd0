//! Limits of the front itself, reached. Those of the gate are tested beside it.

use std::pin::Pin;

use sallyport_edge::client::HttpVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::app;
use crate::harness::{Site, eventually, status};
use crate::http2::{client, empty, request, text};

#[tokio::test]
async fn sixteen_idle_streams_are_kept() {
    let site = Site::new();
    let count = app::web(&site).await;
    let mut raw = site.raw().await;
    for (number, streams) in (0..17).zip(1..).chain([(16, 17), (0, 18)]) {
        let token = format!("Authorization: Bearer sp_{number}");
        raw.send(&format!(
            "GET /s/web/ HTTP/1.1\r\nHost: gw.test\r\n{token}\r\n\r\n"
        ))
        .await;
        raw.answer().await;
        assert_eq!(count.get(), streams, "{number}");
    }
}

#[tokio::test]
async fn sixteen_http2_sessions_are_kept() {
    let site = Site::new();
    let count = app::rpc(&site).await;
    let mut sender = client(&site).await;
    for (number, streams) in (0..17).zip(1..).chain([(16, 17), (0, 18)]) {
        let mut call = request("GET", "/s/rpc/", empty());
        let token = format!("Bearer sp_{number}").parse().expect("a value");
        call.headers_mut().insert("authorization", token);
        text(sender.send_request(call).await.expect("an answer")).await;
        assert_eq!(count.get(), streams, "{number}");
    }
}

#[tokio::test]
async fn the_head_of_an_answer_is_bounded() {
    let field = |number: usize, length: usize| format!("x-{number}: {}\r\n", "x".repeat(length));
    let many = |count: usize| {
        (0..count)
            .map(|number| field(number, 1))
            .collect::<String>()
    };
    for (fields, expected) in [
        (many(99), 200),
        (many(100), 502),
        (field(0, 40 * 1024), 200),
        (field(0, 70 * 1024), 502),
    ] {
        let site = Site::new();
        site.session(
            "web",
            |_| {},
            move |mut stream| {
                let fields = fields.clone();
                async move {
                    let mut request = [0; 4096];
                    assert_ne!(stream.read(&mut request).await.expect("a request"), 0);
                    let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n");
                    // A front that has seen enough may be gone.
                    drop(stream.write_all(head.as_bytes()).await);
                }
            },
        )
        .await;
        let mut raw = site.raw().await;
        raw.get("/s/web/").await;
        assert_eq!(status(&raw.head().await), expected);
    }
}

#[tokio::test]
async fn http2_clients_are_told_their_limits() {
    let site = Site::limited(|limits| limits.h2_streams = 7);
    let stream = site.connect(HttpVersion::Two, |_| {}).await;
    let (sender, mut connection) = h2::client::handshake(stream).await.expect("a connection");
    site.tasks.spawn(tracing::Span::none(), async move {
        drop(std::future::poll_fn(|cx| Pin::new(&mut connection).poll(cx)).await);
    });
    eventually("the settings have come", || {
        sender.current_max_send_streams() == 7
    })
    .await;
}

#[tokio::test]
async fn fields_are_counted_and_measured_on_http2() {
    let site = Site::limited(|limits| {
        limits.fields = 5;
        limits.field_bytes = 100;
        limits.target_bytes = 100;
    });
    app::web(&site).await;
    let mut sender = client(&site).await;
    let mut many = request("GET", "/s/web/", empty());
    for number in 0..6 {
        let name: http::HeaderName = format!("x-{number}").parse().expect("a name");
        many.headers_mut()
            .insert(name, "1".parse().expect("a value"));
    }
    let mut long = request("GET", "/s/web/", empty());
    long.headers_mut()
        .insert("x", "1".repeat(100).parse().expect("a value"));
    let far = request("GET", &format!("/s/web/{}", "x".repeat(100)), empty());
    for refused in [many, long, far] {
        assert_eq!(
            sender
                .send_request(refused)
                .await
                .expect("an answer")
                .status(),
            431
        );
    }
    assert!(site.host.asked().is_empty());
}
