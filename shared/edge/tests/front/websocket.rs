//! WebSockets over HTTP/1.1 and HTTP/2.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use sallyport_edge::client::HttpVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app;
use crate::harness::{Raw, Site, header, status};

const OPEN: &str = "GET /s/ws/chat?x HTTP/1.1\r\nHost: gw.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                    Sec-WebSocket-Protocol: chat\r\n\r\n";

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

fn accept(head: &str) -> String {
    let key = header(head, "sec-websocket-key").expect("a key").to_owned();
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        text.as_bytes(),
    ))
}

/// A session that takes every upgrade up and sends back what comes.
async fn echo(site: &Site) {
    site.session(
        "ws",
        |found| found.by_cookie = true,
        |mut stream| async move {
            let head = read_head(&mut stream).await;
            assert!(head.starts_with("GET /chat?x HTTP/1.1\r\n"), "{head}");
            assert_eq!(header(&head, "sec-websocket-version"), Some("13"));
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: chat\r\nAlt-Svc: h3\r\n\r\nfirst",
                accept(&head),
            );
            stream.write_all(answer.as_bytes()).await.expect("sent");
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write)
                .await
                .expect("echoed");
            write.shutdown().await.expect("an end");
        },
    )
    .await;
}

#[tokio::test]
async fn bytes_flow_after_a_verified_answer() {
    let site = Site::new();
    echo(&site).await;
    let mut raw = site.raw().await;
    raw.send(OPEN).await;
    let head = raw.head().await;
    assert_eq!(status(&head), 101, "{head}");
    assert_eq!(
        header(&head, "sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(header(&head, "sec-websocket-protocol"), Some("chat"));
    assert_eq!(header(&head, "alt-svc"), None);
    assert_eq!(raw.exactly(5).await, "first");
    raw.send("ping").await;
    assert_eq!(raw.exactly(4).await, "ping");
    assert_eq!(
        raw.rest().await,
        "",
        "a half-closed client gets the orderly end"
    );
}

/// What an upgrade that shows no cookie is told to come back with.
fn given(site: &Site) -> String {
    let affinity = site.host.asked()[0].affinity.expect("one");
    format!(
        "__Secure-sallyport-pool={:032x}; Path=/s/ws/; Secure; HttpOnly; SameSite=Lax",
        affinity.value()
    )
}

#[tokio::test]
async fn an_upgrade_gives_the_cookie_of_a_pool_and_goes_by_it() {
    let site = Site::new();
    echo(&site).await;
    let mut raw = site.raw().await;
    raw.send(OPEN).await;
    let head = raw.head().await;
    let given = given(&site);
    assert_eq!(header(&head, "set-cookie"), Some(given.as_str()), "{head}");

    let (cookie, _) = given.split_once(';').expect("attributes");
    let mut raw = site.raw().await;
    let open = OPEN.replace("\r\n\r\n", &format!("\r\nCookie: {cookie}\r\n\r\n"));
    raw.send(&open).await;
    let head = raw.head().await;
    assert_eq!(header(&head, "set-cookie"), None, "{head}");
    let asked = site.host.asked();
    assert_eq!(asked[0].affinity, asked[1].affinity);
}

#[tokio::test]
async fn bytes_sent_too_early_come_after_the_upgrade() {
    let site = Site::new();
    echo(&site).await;
    let mut raw = site.raw().await;
    raw.send(&format!("{OPEN}early")).await;
    raw.head().await;
    assert_eq!(raw.exactly(10).await, "firstearly");
}

#[tokio::test]
async fn an_answer_that_is_not_for_this_upgrade_is_refused() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nleak",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\nleak",
    ] {
        let site = Site::new();
        site.session(
            "ws",
            |_| {},
            move |mut stream| async move {
                read_head(&mut stream).await;
                stream.write_all(answer.as_bytes()).await.expect("sent");
                let mut rest = Vec::new();
                drop(stream.read_to_end(&mut rest).await);
                assert!(rest.is_empty(), "{rest:?}");
            },
        )
        .await;
        let told = site.fetch(OPEN).await;
        assert!(status(&told) == 502 && !told.contains("leak"), "{told}");
    }
}

#[tokio::test]
async fn a_session_may_say_no_and_http_goes_on() {
    let site = Site::new();
    app::web(&site).await;
    site.session(
        "ws",
        |_| {},
        |mut stream| async move {
            read_head(&mut stream).await;
            stream
                .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
                .await
                .expect("sent");
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
            assert!(rest.is_empty(), "{rest:?}");
        },
    )
    .await;
    let mut raw = site.raw().await;
    raw.send(&format!(
        "{OPEN}GET /s/web/next HTTP/1.1\r\nHost: gw.test\r\n\r\n"
    ))
    .await;
    let (head, body) = raw.answer().await;
    assert_eq!((status(&head), body.as_str()), (403, "no"));
    assert!(raw.answer().await.1.starts_with("GET /next\n"));
}

#[tokio::test]
async fn only_a_proper_upgrade_is_one() {
    let site = Site::new();
    echo(&site).await;
    for (from, to, expected) in [
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", 426),
        ("Upgrade: websocket", "Upgrade: websocket, h2c", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "short", 400),
        ("GET ", "POST ", 400),
        ("Upgrade: websocket", "Upgrade: h2c", 400),
    ] {
        let told = site.fetch(&OPEN.replacen(from, to, 1)).await;
        assert_eq!(status(&told), expected, "{to}: {told}");
    }
    assert!(site.host.asked().is_empty());
}

async fn extended(site: &Site, path: &str) -> (Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    let stream = site.connect(HttpVersion::Two, |_| {}).await;
    let (sender, mut connection) = h2::client::handshake(stream).await.expect("a connection");
    let mut sender = sender.ready().await.expect("ready");
    site.tasks.spawn(tracing::Span::none(), async move {
        drop(std::future::poll_fn(|cx| std::pin::Pin::new(&mut connection).poll(cx)).await);
    });
    crate::harness::eventually("the setting has come", || {
        sender.is_extended_connect_protocol_enabled()
    })
    .await;
    let mut request = Request::builder()
        .method("CONNECT")
        .uri(format!("https://gw.test{path}"))
        .header("sec-websocket-version", "13")
        .body(())
        .expect("a request");
    request
        .extensions_mut()
        .insert(h2::ext::Protocol::from_static("websocket"));
    let (answer, send) = sender.send_request(request, false).expect("sent");
    (answer.await.expect("an answer"), send)
}

#[tokio::test]
async fn http2_reaches_the_same_sessions() {
    let site = Site::new();
    echo(&site).await;
    let (answer, mut send) = extended(&site, "/s/ws/chat?x").await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    assert_eq!(answer.headers()["set-cookie"], given(&site));
    send.send_data(Bytes::from_static(b"ping"), true)
        .expect("sent");
    let mut body = answer.into_body();
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        all.extend_from_slice(&data.expect("data"));
    }
    assert_eq!(all, b"firstping");
}

#[tokio::test]
async fn an_h2c_session_has_no_websockets() {
    let site = Site::new();
    app::rpc(&site).await;
    let (answer, _send) = extended(&site, "/s/rpc/chat").await;
    assert_eq!(answer.status(), 501);
    assert_eq!(
        status(&site.fetch(&OPEN.replace("/s/ws/", "/s/rpc/")).await),
        501
    );
}

#[tokio::test]
async fn a_lost_session_breaks_the_client_off() {
    let site = Site::new();
    site.session(
        "ws",
        |_| {},
        |mut stream| async move {
            let head = read_head(&mut stream).await;
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
                accept(&head),
            );
            stream.write_all(answer.as_bytes()).await.expect("sent");
            stream.read_u8().await.expect("a byte");
            stream.set_zero_linger().expect("an option");
        },
    )
    .await;
    let mut raw: Raw = site.raw().await;
    raw.send(OPEN).await;
    raw.head().await;
    raw.send("x").await;
    let (_, end) = raw.until_broken().await;
    assert!(end.is_err(), "{end:?}");
}
