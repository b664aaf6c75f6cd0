//! Which streams are kept, for whom and how long.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::app;
use crate::harness::{LONG, Site, header, status};

#[tokio::test]
async fn each_connection_and_each_credential_has_its_own() {
    let site = Site::new();
    let count = app::web(&site).await;
    let mut raw = site.raw().await;
    for (fields, streams) in [
        ("", 1),
        ("", 1),
        ("Authorization: Bearer sp_one\r\n", 2),
        ("Authorization: Bearer sp_two\r\n", 3),
        ("Authorization: Bearer sp_one\r\n", 3),
        ("Authorization: Bearer other\r\n", 3),
    ] {
        raw.send(&format!(
            "GET /s/web/ HTTP/1.1\r\nHost: gw.test\r\n{fields}\r\n"
        ))
        .await;
        let (_, seen) = raw.answer().await;
        assert!(!seen.contains("sp_"), "{seen}");
        assert_eq!(count.get(), streams, "{fields}");
    }
    let mut second = site.raw().await;
    second.get("/s/web/").await;
    second.answer().await;
    assert_eq!(count.get(), 4);
}

#[tokio::test]
async fn an_idle_stream_is_closed_in_order() {
    let site = Site::limited(|limits| limits.upstream_idle = Duration::from_millis(100));
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    site.session(
        "web",
        |_| {},
        move |mut stream| {
            let tell = tell.clone();
            async move {
                let mut request = [0; 4096];
                assert_ne!(stream.read(&mut request).await.expect("a request"), 0);
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await
                    .expect("sent");
                let end = stream
                    .read(&mut request)
                    .await
                    .map_err(|error| error.kind());
                tell.send(end).await.expect("a listener");
            }
        },
    )
    .await;
    let mut raw = site.raw().await;
    raw.get("/s/web/").await;
    raw.answer().await;
    let end = tokio::time::timeout(LONG, told.recv())
        .await
        .expect("in time");
    assert_eq!(end, Some(Ok(0)));
    raw.get("/s/web/").await;
    assert_eq!(
        raw.answer().await.1,
        "ok",
        "the client's connection is as it was"
    );
}

/// Nothing tells from outside when it rests, so it comes back at many moments around that.
#[tokio::test]
async fn a_client_that_rests_between_requests_loses_nothing_and_ends_when_it_is_told() {
    let site = Site::limited(|limits| limits.upstream_idle = Duration::from_millis(20));
    let streams = app::web(&site).await;
    let mut raw = site.raw().await;
    for pause in 0..40 {
        raw.get("/s/web/").await;
        let (head, _) = raw.answer().await;
        assert_eq!(status(&head), 200, "{head}");
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    assert!(streams.get() > 1, "it rested");

    let mut leaving = site.raw().await;
    for client in [&mut raw, &mut leaving] {
        client.get("/s/web/").await;
        client.answer().await;
    }
    leaving.0.shutdown().await.expect("its end is told");
    let (_, end) = leaving.until_broken().await;
    assert!(end.is_ok_and(|count| count == 0));
    site.front.drain();
    let (_, end) = raw.until_broken().await;
    assert!(end.is_ok_and(|count| count == 0));
}

#[tokio::test]
async fn draining_ends_connections_after_their_answers() {
    let site = Site::new();
    let (go, mut gone) = tokio::sync::mpsc::channel::<()>(1);
    let (tell, mut told) = tokio::sync::mpsc::channel::<()>(1);
    let gate = std::sync::Arc::new(tokio::sync::Mutex::new(()));
    let held = std::sync::Arc::clone(&gate).lock_owned().await;
    site.session(
        "web",
        |_| {},
        move |mut stream| {
            let (tell, gate) = (tell.clone(), std::sync::Arc::clone(&gate));
            async move {
                let mut request = [0; 4096];
                assert_ne!(stream.read(&mut request).await.expect("a request"), 0);
                tell.send(()).await.expect("a listener");
                let _open = gate.lock().await;
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await
                    .expect("sent");
            }
        },
    )
    .await;
    let mut idle = site.raw().await;
    idle.get("/").await;
    idle.answer().await;
    let mut busy = site.raw().await;
    busy.get("/s/web/").await;
    told.recv().await.expect("the request arrived");

    site.front.drain();
    let (_, end) = idle.until_broken().await;
    assert!(end.is_ok_and(|count| count == 0));
    drop(held);
    let (head, body) = busy.answer().await;
    assert_eq!(
        (status(&head), body.as_str(), header(&head, "connection")),
        (200, "ok", Some("close"))
    );
    drop(go);
    assert!(gone.recv().await.is_none());
}
