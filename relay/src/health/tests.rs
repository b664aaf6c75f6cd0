use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::config::Config;

fn session(port: u16, health: &str) -> Session {
    let text = format!(
        "node = \"n\"\n[[session]]\nid = \"a\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{port}\"\nhealth = \"{health}\"\n"
    );
    let config = Config::parse(&text, Path::new("relay.toml")).expect("loads");
    Session::new(
        config.sessions.into_iter().next().expect("one session"),
        None,
    )
}

fn limits() -> Limits {
    Limits {
        health_every: Duration::from_millis(10),
        health_within: Duration::from_millis(500),
        ..Limits::default()
    }
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

async fn answer_once(listener: &TcpListener, answer: &str) -> String {
    let (mut stream, _) = listener.accept().await.expect("accepted");
    let mut request = vec![0; 1024];
    let amount = stream.read(&mut request).await.expect("read");
    stream.write_all(answer.as_bytes()).await.expect("written");
    String::from_utf8_lossy(&request[..amount]).into_owned()
}

#[tokio::test]
async fn a_port_that_listens_is_up_and_one_that_does_not_is_down() {
    let (listener, port) = listener().await;
    assert!(check(&session(port, "tcp"), &limits()).await.is_ok());
    drop(listener);
    let error = check(&session(port, "tcp"), &limits())
        .await
        .expect_err("nobody listens");
    assert!(matches!(error, CheckError::Reach(_)), "{error}");
}

#[tokio::test]
async fn a_path_must_answer_well() {
    let (listener, port) = listener().await;
    let a = session(port, "/healthz");
    for (answer, good) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        (
            "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
            true,
        ),
        ("HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n", false),
        ("SSH-2.0-x\r\n", false),
        ("", false),
    ] {
        let limits = limits();
        let (checked, request) = tokio::join!(check(&a, &limits), answer_once(&listener, answer));
        assert_eq!(checked.is_ok(), good, "{answer}");
        assert!(
            request.starts_with("GET /healthz HTTP/1.1\r\n"),
            "{request}"
        );
    }
}

#[tokio::test]
async fn silence_is_a_failure_within_the_limit() {
    let (listener, port) = listener().await;
    let limits = Limits {
        health_within: Duration::from_millis(50),
        ..limits()
    };
    let error = check(&session(port, "/x"), &limits)
        .await
        .expect_err("nobody answers");
    assert!(matches!(error, CheckError::TooSlow), "{error}");
    drop(listener);
}

#[tokio::test]
async fn a_session_is_down_after_the_configured_failures_and_comes_back() {
    let (listener, port) = listener().await;
    let sessions = Arc::new(Sessions::new([session(port, "/x")]));
    let a = Arc::clone(sessions.iter().next().expect("one"));
    let mut changes = sessions.changes();
    let limits = Limits {
        health_failures: 3,
        ..limits()
    };
    let following = follow(Arc::clone(&sessions), Arc::clone(&a), limits);
    let service = async {
        for _ in 0..2 {
            answer_once(
                &listener,
                "HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n",
            )
            .await;
            assert!(!a.is_down());
        }
        answer_once(
            &listener,
            "HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        changes.changed().await.expect("told");
        assert!(a.is_down());
        answer_once(&listener, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        changes.changed().await.expect("told");
        assert!(!a.is_down());
    };
    let both = async {
        tokio::select! {
            () = following => panic!("it follows for ever"),
            () = service => {}
        }
    };
    timeout(Duration::from_secs(10), Box::pin(both))
        .await
        .expect("in time");
}
