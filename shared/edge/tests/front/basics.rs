//! What a session sees of a request, and a client of an answer.

use sallyport_edge::client::HttpVersion;

use crate::app;
use crate::harness::{Site, header, status};

#[tokio::test]
async fn a_session_sees_its_own_path_and_where_the_client_is() {
    let site = Site::new();
    app::web(&site).await;
    let mut raw = site.raw().await;
    let client = raw.0.local_addr().expect("an address").ip();
    raw.send(
        "GET /s/web/a%2Fb?c=d HTTP/1.1\r\nHost: GW.test:8443\r\nX-Forwarded-For: 6.6.6.6\r\nX-Custom: 1\r\n\
         Connection: X-Real-IP, x-custom\r\nCookie: a=1; __Host-sallyport=secret\r\n\r\n",
    )
    .await;
    let (head, seen) = raw.answer().await;

    assert_eq!(status(&head), 200);
    assert!(
        header(&head, "x-request-id").is_some_and(|id| id.len() == 20),
        "{head}"
    );
    assert!(seen.starts_with("GET /a%2Fb?c=d\n"), "{seen}");
    for line in [
        "host: gw.test:8443",
        "x-forwarded-host: gw.test:8443",
        "x-forwarded-proto: https",
        "x-forwarded-prefix: /s/web",
        "cookie: a=1",
        &format!("x-forwarded-for: {client}"),
        &format!("x-real-ip: {client}"),
        &format!("forwarded: for={client};host=\"gw.test:8443\";proto=https"),
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} in {seen}");
    }
    assert!(
        !seen.contains("x-custom") && !seen.contains("6.6.6.6") && !seen.contains("secret"),
        "{seen}"
    );
    let asked = site.host.asked();
    assert_eq!(asked[0].credential, "secret");
    assert_eq!(
        Some(asked[0].request_id.as_str()),
        header(&head, "x-request-id")
    );
}

#[tokio::test]
async fn host_mode_and_kept_prefixes_show_the_whole_path() {
    let site = Site::new();
    app::web(&site).await;
    let seen = site
        .fetch("GET /s/web/a HTTP/1.1\r\nHost: web.sessions.test\r\n\r\n")
        .await;
    assert!(
        seen.contains("\r\n\r\nGET /s/web/a\n") && !seen.contains("x-forwarded-prefix"),
        "{seen}"
    );

    let kept = Site::new();
    let address = "127.0.0.1:1".parse().expect("an address");
    kept.host.add("other", address, |_| {});
    kept.session(
        "web",
        |found| found.keep_prefix = true,
        |stream| async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut stream = stream;
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes).await.expect("a request");
            let line = String::from_utf8_lossy(&bytes[..count])
                .lines()
                .next()
                .expect("a line")
                .to_owned();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}",
                line.len()
            );
            stream.write_all(answer.as_bytes()).await.expect("sent");
        },
    )
    .await;
    let seen = kept
        .fetch("GET /s/web/a HTTP/1.1\r\nHost: gw.test\r\n\r\n")
        .await;
    assert!(seen.ends_with("\r\n\r\nGET /s/web/a HTTP/1.1"), "{seen}");
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let site = Site::new();
    let count = app::web(&site).await;
    let mut raw = site.raw().await;

    raw.send("HEAD /s/web/x HTTP/1.1\r\nHost: gw.test\r\n\r\n")
        .await;
    let head = raw.head().await;
    assert!(
        header(&head, "content-length").is_some_and(|length| length != "0"),
        "{head}"
    );
    raw.get("/s/web/304").await;
    let head = raw.head().await;
    assert_eq!((status(&head), header(&head, "etag")), (304, Some("\"x\"")));
    raw.get("/s/web/204").await;
    assert_eq!(status(&raw.head().await), 204);
    raw.get("/s/web/range").await;
    let (head, body) = raw.answer().await;
    assert_eq!((status(&head), body.as_str()), (206, "234"));
    assert_eq!(header(&head, "content-range"), Some("bytes 2-4/10"));
    assert_eq!(count.get(), 1, "one client connection, one stream");
}

#[tokio::test]
async fn a_session_cannot_speak_for_others() {
    let site = Site::new();
    app::web(&site).await;
    let answer = site
        .fetch("GET /s/web/cookies HTTP/1.1\r\nHost: gw.test\r\n\r\n")
        .await;

    assert!(
        answer.contains("set-cookie: a=1; Path=/s/web/\r\n"),
        "{answer}"
    );
    assert!(
        !answer.contains("evil") && !answer.contains("alt-svc"),
        "{answer}"
    );
}

#[tokio::test]
async fn the_front_answers_for_itself() {
    let site = Site::new();
    app::web(&site).await;

    let root = site.fetch("GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n").await;
    assert!(
        status(&root) == 200 && root.ends_with("the front"),
        "{root}"
    );
    assert_eq!(
        status(
            &site
                .fetch("DELETE / HTTP/1.1\r\nHost: gw.test\r\n\r\n")
                .await
        ),
        405
    );
    let slash = site
        .fetch("POST /s/web?a=b HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(
        (status(&slash), header(&slash, "location")),
        (308, Some("/s/web/?a=b"))
    );
    assert_eq!(
        status(&site.fetch("GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n").await),
        404
    );
    assert_eq!(
        status(
            &site
                .fetch("GET /s/web/ HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n")
                .await
        ),
        421
    );
    assert!(site.host.asked().is_empty());
}

#[tokio::test]
async fn the_handshake_name_and_the_host_are_one() {
    let site = Site::new();
    app::web(&site).await;
    for (name, expected) in [("gw.test", 200), ("web.sessions.test", 421)] {
        let mut raw = crate::harness::Raw(
            site.connect(HttpVersion::One, |info| info.sni = Some(name.to_owned()))
                .await,
        );
        raw.get("/s/web/").await;
        assert_eq!(status(&raw.head().await), expected, "{name}");
    }
}

#[tokio::test]
async fn ambiguous_requests_reach_no_session() {
    let site = Site::new();
    app::web(&site).await;
    for path in [
        "/s/web/../x",
        "/s/web/%2e%2e/x",
        "/s%2fweb/x",
        "/s/web%2f..%2fx",
        "/s/web//x",
        "//web/x",
        "/s/web\\x",
        "/s/web/%5c..%5cx",
        "/s/web/%00",
        "/s/w%65b/",
        "/s/web;x=1/",
        "/%73/web/",
        "/s/web/a#b",
    ] {
        let answer = site
            .fetch(&format!("GET {path} HTTP/1.1\r\nHost: gw.test\r\n\r\n"))
            .await;
        assert_eq!(status(&answer), 400, "{path}: {answer}");
    }
    for request in [
        "GET /s/web/ HTTP/1.1\r\n\r\n",
        "GET /s/web/ HTTP/1.1\r\nHost: gw.test\r\nHost: gw.test\r\n\r\n",
        "GET /s/web/ HTTP/1.1\r\nHost: a@gw.test\r\n\r\n",
        "GET http://other.test/s/web/ HTTP/1.1\r\nHost: gw.test\r\n\r\n",
        "POST /s/web/ HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /s/web/ HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        "POST /s/web/ HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ] {
        let answer = site.fetch(request).await;
        assert_eq!(status(&answer), 400, "{request}: {answer}");
    }
    for request in [
        "CONNECT gw.test:443 HTTP/1.1\r\nHost: gw.test:443\r\n\r\n",
        "TRACE /s/web/ HTTP/1.1\r\nHost: gw.test\r\n\r\n",
    ] {
        let answer = site.fetch(request).await;
        assert!(
            (400..=501).contains(&status(&answer)),
            "{request}: {answer}"
        );
    }
    assert!(site.host.asked().is_empty());
}
