//! What a client hears when it cannot be served.

use std::time::Duration;

use sallyport_edge::Denial;
use sallyport_wire::Code;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::app;
use crate::harness::{Scripted, Site, TUNNEL, header, status, way};

async fn get(site: &Site, path: &str) -> String {
    site.fetch(&format!("GET {path} HTTP/1.1\r\nHost: gw.test\r\n\r\n"))
        .await
}

#[tokio::test]
async fn denials_have_their_status_and_say_no_more_than_they_should() {
    let site = Site::new();
    site.host.add(
        "private",
        "127.0.0.1:1".parse().expect("an address"),
        |found| found.anonymous = false,
    );
    for (path, expected) in [
        ("/s/nothing/", 404),
        ("/s/down/", 503),
        ("/s/lost/", 503),
        ("/s/private/", 401),
    ] {
        let answer = get(&site, path).await;
        assert_eq!(status(&answer), expected, "{answer}");
        let id = header(&answer, "x-request-id").expect("an id");
        assert!(answer.ends_with(&format!("request {id}\n")), "{answer}");
        assert!(
            !answer.contains("n1") && !answer.contains("10.0.0.7"),
            "{answer}"
        );
    }
    assert!(
        get(&site, "/s/down/")
            .await
            .contains("session down: the session is down")
    );
    assert_eq!(
        header(&get(&site, "/s/lost/").await, "retry-after"),
        Some("3")
    );
    let json = site
        .fetch("GET /s/nothing/ HTTP/1.1\r\nHost: gw.test\r\nAccept: application/json\r\n\r\n")
        .await;
    assert!(
        json.contains("{\"error\":{\"name\":\"unknown_session\""),
        "{json}"
    );
    let page = site
        .fetch("GET /s/nothing/ HTTP/1.1\r\nHost: gw.test\r\nAccept: text/html\r\n\r\n")
        .await;
    assert!(
        page.contains("<!doctype html>") && header(&page, "content-security-policy").is_some(),
        "{page}"
    );
    let head = site
        .fetch("HEAD /s/nothing/ HTTP/1.1\r\nHost: gw.test\r\n\r\n")
        .await;
    assert!(
        head.ends_with("\r\n\r\n") && header(&head, "content-length") != Some("0"),
        "{head}"
    );
}

#[tokio::test]
async fn a_session_that_answers_nonsense_is_a_bad_gateway() {
    for answer in [
        "",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        let site = Site::new();
        site.session(
            "web",
            |_| {},
            move |mut stream| async move {
                let mut request = [0; 4096];
                assert_ne!(stream.read(&mut request).await.expect("a request"), 0);
                stream.write_all(answer.as_bytes()).await.expect("sent");
            },
        )
        .await;
        let told = get(&site, "/s/web/").await;
        assert_eq!(status(&told), 502, "{answer:?}: {told}");
    }
}

#[tokio::test]
async fn a_session_has_its_time_to_answer_and_uploads_do_not_count() {
    let limit = Duration::from_secs(2);
    let site = Site::new();
    site.session(
        "web",
        move |found| found.answer_within = Some(limit),
        |mut stream| async move {
            let mut all = Vec::new();
            while !all.ends_with(b"last") {
                if stream.read_buf(&mut all).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await
                .expect("sent");
        },
    )
    .await;
    assert_eq!(status(&get(&site, "/s/web/").await), 504);

    let mut raw = site.raw().await;
    raw.send("POST /s/web/ HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 12\r\n\r\n")
        .await;
    for part in ["aaaa", "bbbb", "last"] {
        // The pauses are what is tested: each is far shorter than the limit, together they are longer.
        tokio::time::sleep(limit * 2 / 5).await;
        raw.send(part).await;
    }
    assert_eq!(raw.answer().await.1, "ok");
}

#[tokio::test]
async fn refusals_of_the_stream_are_told() {
    let site = Site::new();
    app::web(&site).await;
    for (code, expected) in [
        (Code::SessionRefused, 502),
        (Code::SessionDown, 503),
        (Code::LoginRequired, 401),
        (Code::Forbidden, 403),
        (Code::HomeLost, 503),
    ] {
        site.host.script(Scripted::Refused(code));
        let answer = get(&site, "/s/web/").await;
        assert_eq!(status(&answer), expected, "{code}: {answer}");
    }
    assert_eq!(site.host.asked().len(), 5, "none of these is tried again");
}

#[tokio::test]
async fn what_did_nothing_is_tried_once_more_elsewhere() {
    let site = Site::new();
    app::web(&site).await;
    let denied = || Denial {
        way: Some(way()),
        ..Denial::new(Code::TunnelLost, "gone")
    };

    site.host.script(Scripted::Refused(Code::Draining));
    assert_eq!(status(&get(&site, "/s/web/").await), 200);
    site.host.script(Scripted::Denied(denied()));
    assert_eq!(status(&get(&site, "/s/web/").await), 200);
    site.host.script(Scripted::Refused(Code::TunnelLost));
    assert_eq!(status(&get(&site, "/s/web/").await), 200);
    let avoided: Vec<_> = site.host.asked().into_iter().map(|ask| ask.avoid).collect();
    assert_eq!(
        avoided,
        [
            vec![],
            vec![TUNNEL],
            vec![],
            vec![TUNNEL],
            vec![],
            vec![TUNNEL]
        ]
    );

    site.host.script(Scripted::Refused(Code::Draining));
    site.host.script(Scripted::Refused(Code::Draining));
    let answer = get(&site, "/s/web/").await;
    assert_eq!(status(&answer), 503, "once, not for ever");
    assert!(header(&answer, "retry-after").is_some(), "{answer}");
}

#[tokio::test]
async fn a_body_that_may_have_been_seen_is_not_sent_again() {
    let site = Site::new();
    app::web(&site).await;
    let post = "POST /s/web/echo HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 5\r\n\r\nhello";

    site.host.script(Scripted::Refused(Code::TunnelLost));
    assert_eq!(status(&site.fetch(post).await), 503);
    assert_eq!(site.host.asked().len(), 1);

    let denial = Denial {
        way: Some(way()),
        ..Denial::new(Code::Draining, "going")
    };
    site.host.script(Scripted::Denied(denial));
    let answer = site.fetch(post).await;
    assert!(
        status(&answer) == 200 && answer.ends_with("hello"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_kept_stream_that_was_closed_is_replaced_for_reading_only() {
    for (request, expected) in [
        ("GET /s/web/ HTTP/1.1\r\nHost: gw.test\r\n\r\n", 200),
        (
            "POST /s/web/ HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 1\r\n\r\nx",
            502,
        ),
    ] {
        let site = Site::new();
        let count = app::Count::default();
        let counted = count.clone();
        site.session(
            "web",
            |_| {},
            move |mut stream| {
                counted.add();
                async move {
                    let mut request = [0; 4096];
                    assert_ne!(stream.read(&mut request).await.expect("a request"), 0);
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        .await
                        .expect("sent");
                    // The next request comes, and the stream ends without an answer.
                    assert_ne!(stream.read(&mut request).await.expect("a request"), 0);
                }
            },
        )
        .await;
        let mut raw = site.raw().await;
        raw.get("/s/web/").await;
        assert_eq!(raw.answer().await.1, "ok");
        raw.send(request).await;
        assert_eq!(status(&raw.answer().await.0), expected, "{request}");
    }
}

#[tokio::test]
async fn a_body_that_trickles_is_timed_out() {
    let site = Site::limited(|limits| {
        limits.body_grace = Duration::from_millis(100);
        limits.body_window = Duration::from_millis(200);
    });
    site.session(
        "web",
        |_| {},
        |mut stream| async move {
            let mut all = Vec::new();
            drop(stream.read_to_end(&mut all).await);
        },
    )
    .await;
    let mut raw = site.raw().await;
    raw.send("POST /s/web/ HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 1000\r\n\r\nx")
        .await;
    assert_eq!(status(&raw.head().await), 408);
}
