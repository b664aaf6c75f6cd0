use std::path::Path;

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::*;
use crate::config::Config;

fn session(target: &str, more: &str) -> SessionConfig {
    let text = format!(
        "node = \"n\"\n[[session]]\nid = \"a\"\nprotocol = \"http\"\ntarget = \"{target}\"\n{more}\n"
    );
    let config = Config::parse(&text, Path::new("/")).expect("loads");
    config.sessions.into_iter().next().expect("one session")
}

const WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn tcp_and_unix_targets_are_reached() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let target = tcp.local_addr().expect("an address").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.sock");
    let _unix = UnixListener::bind(&path).expect("bound");
    let client = Origin::default();

    let reached = reach(&session(&target, ""), &client, WITHIN)
        .await
        .expect("reached");
    assert!(matches!(reached, Upstream::Tcp(_)));
    let unix = session(&format!("unix:{}", path.display()), "");
    let reached = reach(&unix, &client, WITHIN).await.expect("reached");
    assert!(matches!(reached, Upstream::Unix(_)));
}

#[tokio::test]
async fn a_name_is_tried_at_all_its_addresses() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = tcp.local_addr().expect("an address").port();
    let found = [
        "[::1]:1".parse().expect("an address"),
        SocketAddr::from(([127, 0, 0, 1], port)),
    ];

    assert!(
        first_up(interleave(&found)).await.is_ok(),
        "the second one listens"
    );
    assert!(first_up(Vec::new()).await.is_err());
}

#[test]
fn families_take_turns_and_the_number_is_bounded() {
    let v4 = |n| SocketAddr::from(([127, 0, 0, n], 1));
    let v6 = |n: u16| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, n], 1));
    assert_eq!(interleave(&[v6(1), v6(2), v4(1)]), [v6(1), v4(1), v6(2)]);
    let many: Vec<_> = (1..=20).map(v4).collect();
    assert_eq!(interleave(&many).len(), MAX_ADDRESSES);
}

#[tokio::test]
async fn a_port_that_refuses_and_one_that_is_silent_are_told_apart() {
    // Bound and not listening: it refuses, and nobody else gets the port.
    let held = TcpSocket::new_v4().expect("a socket");
    held.bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let closed = held.local_addr().expect("bound");
    let error = reach(
        &session(&closed.to_string(), ""),
        &Origin::default(),
        WITHIN,
    )
    .await
    .expect_err("closed");
    assert_eq!(error.code(), Code::SessionRefused);

    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("bound");
    let full = socket.listen(1).expect("listens");
    let target = full.local_addr().expect("an address").to_string();
    let mut fill = Vec::new();
    let error = loop {
        match reach(
            &session(&target, ""),
            &Origin::default(),
            Duration::from_millis(200),
        )
        .await
        {
            Ok(upstream) => fill.push(upstream),
            Err(error) => break error,
        }
        assert!(fill.len() < 16, "the queue of connections is never full");
    };
    assert_eq!(error.code(), Code::TooSlow);
}

#[tokio::test]
async fn the_session_is_told_who_the_client_is() {
    let known = Origin {
        peer: "10.1.2.3:4".parse().ok(),
        local: "10.9.9.9:443".parse().ok(),
    };
    for (version, client, start) in [
        (1, &known, &b"PROXY TCP4 10.1.2.3 10.9.9.9 4 443\r\n"[..]),
        (1, &Origin::default(), b"PROXY UNKNOWN\r\n"),
        (2, &known, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"),
        (2, &Origin::default(), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
    ] {
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let target = tcp.local_addr().expect("an address").to_string();
        let session = session(&target, &format!("proxy_protocol = {version}"));
        let reached = reach(&session, client, WITHIN).await.expect("reached");
        let (mut accepted, _) = tcp.accept().await.expect("accepted");
        let mut header = vec![0; start.len()];
        accepted.read_exact(&mut header).await.expect("a header");
        assert_eq!(header, start, "version {version}");
        drop(reached);
    }
}
