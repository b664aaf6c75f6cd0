use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::*;

/// A bridge whose RFB server is always there.
async fn open(server: DuplexStream) -> Result<Option<impl Duplex>, hyper::Error> {
    let opened = opened(server, || std::future::ready(Ok(()))).await;
    opened.map(|opened| opened.map(|(frames, ())| frames))
}

async fn exchange(request: &str) -> String {
    let (mut client, server) = duplex(64 << 10);
    client.write_all(request.as_bytes()).await.expect("written");
    let (served, reply) = tokio::join!(open(server), async {
        let mut reply = String::new();
        client.read_to_string(&mut reply).await.expect("UTF-8");
        reply
    });
    assert!(served.expect("served").is_none());
    reply
}

async fn viewer(
    client: DuplexStream,
    protocol: Option<&'static str>,
) -> tokio_tungstenite::WebSocketStream<DuplexStream> {
    let mut request = "ws://desk/websockify"
        .into_client_request()
        .expect("a request");
    if let Some(protocol) = protocol {
        let value = HeaderValue::from_static(protocol);
        request
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    client_async(request, client).await.expect("upgraded").0
}

#[tokio::test]
async fn bytes_cross_the_bridge_both_ways_and_a_close_is_an_end() {
    let (client, server) = duplex(4 << 10);
    let (socket, bridge) = tokio::join!(viewer(client, Some("binary")), open(server));
    let (mut socket, mut bridge) = (socket, bridge.expect("served").expect("a WebSocket"));

    socket
        .send(Message::Ping(Bytes::new()))
        .await
        .expect("sent");
    socket
        .send(Message::binary(&b"RFB 003.008\n"[..]))
        .await
        .expect("sent");
    let mut hello = [0; 12];
    bridge.read_exact(&mut hello).await.expect("read");
    assert_eq!(&hello, b"RFB 003.008\n");

    let picture = vec![7; 300_000];
    let write = async {
        bridge.write_all(&picture).await.expect("written");
        bridge.flush().await.expect("flushed");
    };
    let read = async {
        let mut got = Vec::new();
        while got.len() < 300_000 {
            match socket.next().await.expect("open").expect("a message") {
                Message::Binary(bytes) => got.extend_from_slice(&bytes),
                Message::Pong(_) => {}
                other @ (Message::Text(_)
                | Message::Ping(_)
                | Message::Close(_)
                | Message::Frame(_)) => {
                    panic!("unexpected {other:?}")
                }
            }
        }
        got
    };
    let ((), got) = tokio::join!(write, read);
    assert_eq!(got, vec![7; 300_000]);

    let (closed, end) = tokio::join!(socket.close(None), async {
        let end = bridge.read(&mut [0; 8]).await;
        bridge.shutdown().await.expect("closed");
        end
    });
    closed.expect("closed");
    assert_eq!(end.expect("an orderly end"), 0);
}

#[tokio::test]
async fn a_viewer_that_breaks_off_is_an_error_and_so_is_text() {
    let (client, server) = duplex(4 << 10);
    let (socket, bridge) = tokio::join!(viewer(client, None), open(server));
    drop(socket);
    let mut bridge = bridge.expect("served").expect("a WebSocket");
    assert!(bridge.read(&mut [0; 8]).await.is_err());

    let (client, server) = duplex(4 << 10);
    let (mut socket, bridge) = tokio::join!(viewer(client, None), open(server));
    socket.send(Message::text("hello")).await.expect("sent");
    let mut bridge = bridge.expect("served").expect("a WebSocket");
    assert!(bridge.read(&mut [0; 8]).await.is_err());
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused() {
    let (client, server) = duplex(4 << 20);
    let (mut socket, bridge) = tokio::join!(viewer(client, None), open(server));
    socket
        .send(Message::binary(vec![0; (1 << 20) + 1]))
        .await
        .expect("sent");
    let mut bridge = bridge.expect("served").expect("a WebSocket");

    let error = bridge.read(&mut [0; 8]).await.expect_err("too long");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_browser_gets_a_page_that_says_what_to_do() {
    let reply = exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;

    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    assert!(
        reply.contains("text/html") && reply.contains("noVNC"),
        "{reply}"
    );
}

#[tokio::test]
async fn anything_else_is_refused() {
    let post =
        exchange("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await;
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    let old = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade, close\r\nSec-WebSocket-Version: 8\r\n\r\n";
    let old = exchange(old).await;
    assert!(
        old.starts_with("HTTP/1.1 400 ") && old.contains("sec-websocket-version: 13"),
        "{old}"
    );
}

#[tokio::test]
async fn the_subprotocol_is_chosen_only_if_offered() {
    for (offered, chosen) in [(Some("binary"), true), (None, false)] {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(
            header::CONNECTION,
            HeaderValue::from_static("keep-alive, Upgrade"),
        );
        headers.insert(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        );
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
        if let Some(offered) = offered {
            headers.insert(
                header::SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static(offered),
            );
        }
        let reply = handshake(&Method::GET, &headers)
            .expect("well formed")
            .expect("a handshake");

        assert_eq!(
            reply.headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL),
            chosen
        );
        // the example of RFC 6455 §1.3
        assert_eq!(
            reply.headers()[header::SEC_WEBSOCKET_ACCEPT],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_http_error() {
    let (mut client, server) = duplex(64 << 10);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("written");
    let serve = opened(server, || {
        std::future::ready(Err::<(), _>(Code::SessionRefused))
    });
    let (served, reply) = tokio::join!(serve, async {
        let mut reply = [0; 12];
        client.read_exact(&mut reply).await.expect("an answer");
        drop(client);
        reply
    });
    assert!(served.is_err() || served.is_ok_and(|served| served.is_none()));
    assert_eq!(&reply, b"HTTP/1.1 502");
}

#[test]
fn a_page_of_another_origin_is_refused() {
    let asked = |origin: Option<&'static str>| {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("gw.example:8443"));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        same_origin(&headers)
    };

    assert!(asked(None), "only browsers name a page");
    assert!(asked(Some("https://GW.example:8443")));
    for foreign in [
        "https://evil.example",
        "https://gw.example",
        "null",
        "https://gw.example:8443.evil.example",
    ] {
        assert!(!asked(Some(foreign)), "{foreign}");
    }
}
