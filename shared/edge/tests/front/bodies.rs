//! Bodies on their way through, whole and broken off.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::app;
use crate::harness::{LONG, Site, header, status};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn chunks_and_trailers_go_both_ways() {
    let site = Site::new();
    app::web(&site).await;
    let mut raw = site.raw().await;
    raw.send(
        "POST /s/web/echo HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\
         Trailer: X-Sum\r\n\r\n5\r\nhello\r\n",
    )
    .await;
    let head = raw.head().await;
    assert_eq!(
        header(&head, "transfer-encoding"),
        Some("chunked"),
        "{head}"
    );
    assert_eq!(raw.exactly(10).await, "5\r\nhello\r\n");
    raw.send("0\r\nX-Sum: 42\r\n\r\n").await;
    assert_eq!(raw.exactly(16).await, "0\r\nx-sum: 42\r\n\r\n");

    raw.send("GET /s/web/trailers HTTP/1.1\r\nHost: gw.test\r\nTE: trailers\r\n\r\n")
        .await;
    let all = raw.rest().await;
    assert!(
        all.ends_with("4\r\ndata\r\n0\r\nx-sum: 42\r\n\r\n"),
        "{all}"
    );
}

#[tokio::test]
async fn a_body_waits_until_the_session_wants_it() {
    let site = Site::new();
    site.session(
        "web",
        |_| {},
        |mut stream| async move {
            let mut request = [0; 4096];
            let count = stream.read(&mut request).await.expect("a request");
            let text = String::from_utf8_lossy(&request[..count]).to_lowercase();
            assert!(
                text.contains("expect: 100-continue") && text.ends_with("\r\n\r\n"),
                "{text}"
            );
            if text.starts_with("post /no") {
                let refusal =
                    "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(refusal.as_bytes()).await.expect("sent");
                return;
            }
            stream
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                .await
                .expect("sent");
            let mut body = [0; 5];
            stream.read_exact(&mut body).await.expect("a body");
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
                .await
                .expect("sent");
            stream.write_all(&body).await.expect("sent");
        },
    )
    .await;

    let mut raw = site.raw().await;
    let ask = |path: &str| {
        format!(
            "POST /s/web/{path} HTTP/1.1\r\nHost: gw.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    raw.send(&ask("yes")).await;
    assert_eq!(status(&raw.head().await), 100);
    raw.send("hello").await;
    assert_eq!(raw.answer().await.1, "hello");

    let mut raw = site.raw().await;
    raw.send(&ask("no")).await;
    assert_eq!(status(&raw.head().await), 413);
}

#[tokio::test]
async fn a_session_that_ignores_expect_gets_the_body_anyway() {
    let site = Site::new();
    site.session(
        "web",
        |_| {},
        |mut stream| async move {
            let mut request = Vec::new();
            while !request.ends_with(b"hello") {
                assert_ne!(stream.read_buf(&mut request).await.expect("a request"), 0);
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await
                .expect("sent");
        },
    )
    .await;
    let mut raw = site.raw().await;
    raw.send("POST /s/web/ HTTP/1.1\r\nHost: gw.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(status(&raw.head().await), 100);
    raw.send("hello").await;
    assert_eq!(raw.answer().await.1, "ok");
}

/// A session that writes `total` bytes and tells how far it has come.
async fn fountain(site: &Site, total: usize) -> mpsc::Receiver<usize> {
    let (tell, told) = mpsc::channel(1024);
    site.session(
        "web",
        |_| {},
        move |mut stream| {
            let tell = tell.clone();
            async move {
                let mut request = [0; 4096];
                assert_ne!(stream.read(&mut request).await.expect("a request"), 0);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.expect("sent");
                let chunk = vec![b'x'; 64 * 1024];
                let mut sent = 0;
                while sent < total {
                    if stream.write_all(&chunk).await.is_err() {
                        break;
                    }
                    sent += chunk.len();
                }
                tell.send(sent).await.expect("a listener");
            }
        },
    )
    .await;
    told
}

#[tokio::test]
async fn a_slow_reader_slows_the_session_and_gets_everything() {
    let site = Site::new();
    let mut told = fountain(&site, 64 * MIB).await;
    let mut raw = site.raw().await;
    raw.get("/s/web/").await;
    raw.head().await;

    // Nothing is read here, so the sockets fill and the session has to wait.
    let early = tokio::time::timeout(Duration::from_millis(300), told.recv()).await;
    assert!(
        early.is_err(),
        "64 MiB were taken although nobody read them"
    );
    let mut left = 64 * MIB;
    let mut bytes = vec![0; 256 * 1024];
    while left > 0 {
        let count = raw.0.read(&mut bytes).await.expect("bytes");
        assert!(count > 0 && bytes[..count].iter().all(|byte| *byte == b'x'));
        left -= count;
    }
    assert_eq!(told.recv().await, Some(64 * MIB));
}

#[tokio::test]
async fn a_large_upload_arrives() {
    let site = Site::new();
    site.session(
        "web",
        |_| {},
        |mut stream| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a head"));
            }
            let mut left = 64 * MIB;
            let mut bytes = vec![0; 256 * 1024];
            while left > 0 {
                let count = stream.read(&mut bytes).await.expect("bytes");
                assert!(count > 0);
                left -= count;
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nall")
                .await
                .expect("sent");
        },
    )
    .await;
    let mut raw = site.raw().await;
    raw.send(&format!(
        "PUT /s/web/ HTTP/1.1\r\nHost: gw.test\r\nContent-Length: {}\r\n\r\n",
        64 * MIB
    ))
    .await;
    let chunk = vec![b'y'; MIB];
    for _ in 0..64 {
        raw.0.write_all(&chunk).await.expect("sent");
    }
    assert_eq!(raw.answer().await.1, "all");
}

#[tokio::test]
async fn a_client_that_goes_breaks_the_sessions_side() {
    let site = Site::new();
    let mut told = fountain(&site, 1 << 40).await;
    let mut raw = site.raw().await;
    raw.get("/s/web/").await;
    raw.exactly(1000).await;
    drop(raw);
    let sent = tokio::time::timeout(LONG, told.recv())
        .await
        .expect("the session notices")
        .expect("a figure");
    assert!(sent < 1 << 40);
}

#[tokio::test]
async fn an_upload_that_breaks_off_breaks_off_at_the_session() {
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let site = Site::new();
        let (tell, mut told) = mpsc::channel(1);
        site.session(
            "web",
            |_| {},
            move |mut stream| {
                let tell = tell.clone();
                async move {
                    let mut all = Vec::new();
                    let end = stream.read_to_end(&mut all).await;
                    tell.send(end.map_err(|error| error.kind()))
                        .await
                        .expect("a listener");
                }
            },
        )
        .await;
        let mut raw = site.raw().await;
        raw.send(&format!(
            "POST /s/web/ HTTP/1.1\r\nHost: gw.test\r\n{framing}\r\n\r\n5\r\nhello\r\n"
        ))
        .await;
        raw.0.shutdown().await.expect("an early end");
        let end = tokio::time::timeout(LONG, told.recv())
            .await
            .expect("in time")
            .expect("an end");
        assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset), "{framing}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_whole() {
    for head in [
        "Content-Length: 100",
        "Transfer-Encoding: chunked",
        "Connection: close",
    ] {
        let site = Site::new();
        site.session(
            "web",
            |_| {},
            move |mut stream| async move {
                let mut request = [0; 4096];
                assert_ne!(stream.read(&mut request).await.expect("a request"), 0);
                let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n");
                stream.write_all(answer.as_bytes()).await.expect("sent");
                // The client asks on once it has this much; then the session is killed.
                assert_ne!(stream.peek(&mut [0]).await.unwrap_or(1), 0);
            },
        )
        .await;
        let mut raw = site.raw().await;
        raw.get("/s/web/").await;
        raw.head().await;
        site.tasks.stop();
        let (bytes, _end) = raw.until_broken().await;
        assert!(
            !String::from_utf8_lossy(&bytes).ends_with("0\r\n\r\n"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn a_reset_session_resets_the_client() {
    for head in [
        "Content-Length: 100",
        "Transfer-Encoding: chunked",
        "Connection: close",
    ] {
        let site = Site::new();
        site.session(
            "web",
            |_| {},
            move |mut stream| async move {
                let mut request = [0; 4096];
                assert_ne!(stream.read(&mut request).await.expect("a request"), 0);
                let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n");
                stream.write_all(answer.as_bytes()).await.expect("sent");
                stream.set_zero_linger().expect("an option");
            },
        )
        .await;
        let mut raw = site.raw().await;
        raw.get("/s/web/").await;
        let (bytes, end) = raw.until_broken().await;
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.ends_with("0\r\n\r\n"), "{head}: {text}");
        assert!(
            end.is_err() || text.contains(" 502 "),
            "{head}: {end:?} {text}"
        );
    }
}

#[tokio::test]
async fn a_stream_with_an_unfinished_request_is_not_used_again() {
    let site = Site::new();
    let count = app::Count::default();
    let counted = count.clone();
    site.session(
        "web",
        |_| {},
        move |mut stream| {
            counted.add();
            async move {
                let mut request = [0; 1024];
                assert_ne!(stream.read(&mut request).await.expect("a request"), 0);
                stream
                    .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
                    .await
                    .expect("sent");
                // Not closed: a front that sent another request here would wait for ever.
                let mut rest = Vec::new();
                drop(stream.read_to_end(&mut rest).await);
            }
        },
    )
    .await;
    let mut raw = site.raw().await;
    raw.send("POST /s/web/ HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 1000000\r\n\r\nstart")
        .await;
    assert_eq!(raw.answer().await.1, "no");
    let mut raw = site.raw().await;
    raw.get("/s/web/").await;
    assert_eq!(raw.answer().await.1, "no");
    assert_eq!(count.get(), 2);
}

#[tokio::test]
async fn a_client_that_knows_no_chunks_is_reset_instead_of_ended() {
    let site = Site::new();
    site.session(
        "web",
        |_| {},
        |mut stream| async move {
            let mut request = [0; 4096];
            let count = stream.read(&mut request).await.expect("a request");
            let whole = String::from_utf8_lossy(&request[..count]).starts_with("GET /whole");
            let end = if whole { "0\r\n\r\n" } else { "" };
            let answer =
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n{end}");
            stream.write_all(answer.as_bytes()).await.expect("sent");
        },
    )
    .await;
    for (path, whole) in [("whole", true), ("broken", false)] {
        let mut raw = site.raw().await;
        raw.send(&format!(
            "GET /s/web/{path} HTTP/1.0\r\nHost: gw.test\r\n\r\n"
        ))
        .await;
        let (bytes, end) = raw.until_broken().await;
        assert_eq!(end.is_ok(), whole, "{path}: {end:?}");
        assert!(!whole || bytes.ends_with(b"\r\n\r\nhello"), "{path}");
    }
}
