use std::os::unix::fs::PermissionsExt as _;

use std::ops::ControlFlow;

use futures::{FutureExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::*;

fn admin(ready: Ready) -> Arc<Admin> {
    let metrics = Metrics::new();
    metrics.counter("things", "Things that were seen").inc();
    let echo = |request: AdminRequest| {
        async move { Ok(json!({ "query": request.query, "body": request.body })) }.boxed()
    };
    let never = |_| std::future::pending().boxed();
    let refuse = |_| async { Err(AdminError::not_found("no relay `n9`")) }.boxed();
    let count = |request: AdminRequest| {
        let most = request.query.get("most").and_then(|most| most.parse().ok());
        let most: usize = most.ok_or_else(|| AdminError::bad_request("how many?"))?;
        let numbers = stream::iter(0..most).map(|number| format!("{number}\n").into());
        Ok(numbers
            .chain(stream::pending().take(usize::from(most > 9)))
            .boxed())
    };
    let admin = Admin::new(metrics, ready)
        .stream("/count", count)
        .route(Method::POST, "/echo", echo)
        .route(Method::GET, "/echo", echo)
        .route(Method::GET, "/never", never)
        .route(Method::POST, "/refuse", refuse);
    Arc::new(admin)
}

struct Served {
    dir: tempfile::TempDir,
    tasks: Tasks,
}

impl Served {
    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("gateway.sock")
    }

    async fn ask(&self, method: &str, path: &str) -> Result<Value, AskError> {
        ask(&self.socket(), method, path, None).await
    }
}

fn served(ready: Ready) -> Served {
    let served = Served {
        dir: tempfile::tempdir().unwrap(),
        tasks: Tasks::new(),
    };
    admin(ready)
        .serve_unix(&served.socket(), &served.tasks)
        .unwrap();
    served
}

#[tokio::test]
async fn health_readiness_and_metrics_are_always_there() {
    let ready = Ready::new(&["listen", "relays"]);
    let served = served(ready.clone());

    assert_eq!(
        served.ask("GET", "/healthz").await.unwrap(),
        json!({ "status": "ok" })
    );
    ready.set("listen", Ok(()));
    let error = served.ask("GET", "/readyz").await.unwrap_err();
    assert!(matches!(
        error,
        AskError::Refused {
            status: StatusCode::SERVICE_UNAVAILABLE,
            ..
        }
    ));
    assert!(
        error
            .to_string()
            .contains(r#""listen":"ok","relays":"not yet""#),
        "{error}"
    );
    ready.set("relays", Ok(()));
    assert_eq!(served.ask("GET", "/readyz").await.unwrap()["ready"], true);
    let metrics = served.ask("GET", "/metrics").await.unwrap();
    assert!(
        metrics
            .as_str()
            .unwrap()
            .contains("sallyport_things_total 1\n")
    );
}

#[tokio::test]
async fn a_route_gets_query_and_body_and_its_error_is_told() {
    let served = served(Ready::default());
    let path = query("/echo", &[("node", "n 1")]);

    let answer = ask(&served.socket(), "POST", &path, Some(json!([1])))
        .await
        .unwrap();
    assert_eq!(answer, json!({ "query": { "node": "n 1" }, "body": [1] }));

    let error = served.ask("POST", "/refuse").await.unwrap_err();
    assert_eq!(error.to_string(), "no relay `n9`");
    let error = served.ask("GET", "/absent").await.unwrap_err();
    assert!(matches!(
        error,
        AskError::Refused {
            status: StatusCode::NOT_FOUND,
            ..
        }
    ));
    let error = served.ask("DELETE", "/echo").await.unwrap_err();
    assert!(matches!(
        error,
        AskError::Refused {
            status: StatusCode::METHOD_NOT_ALLOWED,
            ..
        }
    ));
}

#[tokio::test]
async fn a_body_too_large_or_not_json_is_refused() {
    let served = served(Ready::default());

    let large = Some(Value::from("x".repeat(MOST_BODY)));
    let error = ask(&served.socket(), "POST", "/echo", large)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            AskError::Refused {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                ..
            }
        ),
        "{error}"
    );

    let mut stream = UnixStream::connect(served.socket()).await.unwrap();
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n{")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn only_the_owner_and_administrators_may_open_the_socket() {
    let served = served(Ready::default());
    let mode = std::fs::metadata(served.socket())
        .unwrap()
        .permissions()
        .mode();
    let group = nix::unistd::Group::from_name("sallyport-admin");
    let expected = if matches!(group, Ok(Some(_))) {
        0o660
    } else {
        0o600
    };
    assert_eq!(mode & 0o777, expected);
}

#[tokio::test]
async fn a_dead_processs_socket_is_replaced_and_a_living_ones_is_not() {
    let served = served(Ready::default());
    let error = admin(Ready::default())
        .serve_unix(&served.socket(), &served.tasks)
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(
        error.to_string().contains("is it running already?"),
        "{error}"
    );

    let stale = served.dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    admin(Ready::default())
        .serve_unix(&stale, &served.tasks)
        .unwrap();
    assert!(ask(&stale, "GET", "/healthz", None).await.is_ok());

    let file = served.dir.path().join("file.sock");
    std::fs::write(&file, "precious").unwrap();
    let error = admin(Ready::default())
        .serve_unix(&file, &served.tasks)
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn a_socket_deep_in_the_tree_is_served_too() {
    let served = served(Ready::default());
    let deep = served.dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let socket = deep.join("relay.sock");

    admin(Ready::default())
        .serve_unix(&socket, &served.tasks)
        .unwrap();

    assert!(ask(&socket, "GET", "/healthz", None).await.is_ok());
    assert!(
        admin(Ready::default())
            .serve_unix(&socket, &served.tasks)
            .is_err()
    );
}

#[tokio::test]
async fn the_socket_goes_with_the_process_and_its_absence_is_explained() {
    let served = served(Ready::default());
    served.tasks.drain(Duration::ZERO).await;

    assert!(!served.socket().exists());
    let error = served.ask("GET", "/healthz").await.unwrap_err().to_string();
    assert!(error.contains("is sallyport-gateway running"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_route_that_never_answers_is_given_up() {
    let served = served(Ready::default());
    let start = Instant::now();

    let error = served.ask("GET", "/never").await.unwrap_err();

    assert_eq!(error.to_string(), "no answer within 30 s");
    assert!(start.elapsed() >= ANSWER_WITHIN);
}

#[tokio::test(start_paused = true)]
async fn clients_that_send_nothing_are_hung_up_on_and_hold_up_others_no_longer() {
    let served = served(Ready::default());
    let start = Instant::now();
    let mut idle = Vec::new();
    for _ in 0..serve::MOST_CONNECTIONS {
        idle.push(UnixStream::connect(served.socket()).await.unwrap());
    }

    assert!(served.ask("GET", "/healthz").await.is_ok());
    assert!(
        start.elapsed() >= serve::HEADER_WITHIN,
        "the limit made it wait"
    );
    assert!(start.elapsed() < 2 * serve::HEADER_WITHIN);
    for mut stream in idle {
        let mut answer = Vec::new();
        assert!(stream.read_to_end(&mut answer).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_drips_its_body_is_hung_up_on() {
    let served = served(Ready::default());
    let start = Instant::now();
    let mut stream = UnixStream::connect(served.socket()).await.unwrap();
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{")
        .await
        .unwrap();

    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();

    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(start.elapsed() <= serve::CONNECTION_WITHIN);
}

#[tokio::test]
async fn an_answer_too_large_is_refused_by_the_one_who_asks() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("gateway.sock");
    let tasks = Tasks::new();
    let large = |_| async { Ok(Value::from("x".repeat(ask::MOST_ANSWER))) }.boxed();
    let admin = Admin::new(Metrics::new(), Ready::default()).route(Method::GET, "/large", large);
    Arc::new(admin).serve_unix(&socket, &tasks).unwrap();

    let error = ask(&socket, "GET", "/large", None).await.unwrap_err();

    assert!(matches!(error, AskError::Broken { .. }), "{error}");
}

async fn counted(served: &Served, path: &str, enough: usize) -> Result<String, AskError> {
    let mut text = String::new();
    let each = |bytes: &Bytes| {
        text.push_str(str::from_utf8(bytes).unwrap());
        if text.lines().count() < enough {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    };
    listen(&served.socket(), path, each).await.map(|()| text)
}

#[tokio::test]
async fn a_stream_is_heard_until_it_ends_or_there_is_enough_of_it() {
    let served = served(Ready::default());

    let all = counted(&served, "/count?most=3", usize::MAX).await;
    assert_eq!(all.unwrap(), "0\n1\n2\n");
    let enough = counted(&served, "/count?most=10", 10).await;
    assert_eq!(enough.unwrap().lines().count(), 10);
    let error = counted(&served, "/count", 1).await.unwrap_err();
    assert_eq!(error.to_string(), "how many?");
    let cut = |_: &Bytes| {
        served.tasks.stop();
        ControlFlow::Continue(())
    };
    let error = listen(&served.socket(), "/count?most=10", cut).await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "sallyport-gateway has ended"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_outlasts_other_answers_and_ends_with_its_listener() {
    let served = served(Ready::default());
    let mut stream = UnixStream::connect(served.socket()).await.unwrap();
    stream
        .write_all(b"GET /count?most=10 HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");

    tokio::time::sleep(10 * serve::CONNECTION_WITHIN).await;
    assert_eq!(served.tasks.len(), 2, "who accepts, and the stream");
    drop(stream);
    while served.tasks.len() > 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn over_tcp(addr: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream
        .write_all(format!("{head}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn over_tcp_only_loopback_requests_that_read_are_answered() {
    let tasks = Tasks::new();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let addr = admin(Ready::default()).serve_tcp(any, &tasks).unwrap();

    let own = format!("GET /metrics HTTP/1.1\r\nhost: {addr}");
    assert!(
        over_tcp(addr, &own)
            .await
            .contains("sallyport_things_total 1\n")
    );
    let rebound = over_tcp(addr, "GET /metrics HTTP/1.1\r\nhost: evil.example").await;
    assert!(rebound.starts_with("HTTP/1.1 403 "), "{rebound}");
    let changing = over_tcp(addr, "POST /echo HTTP/1.1\r\nhost: localhost").await;
    assert!(changing.starts_with("HTTP/1.1 403 "), "{changing}");

    let stream = over_tcp(addr, &format!("GET /count?most=1 HTTP/1.1\r\nhost: {addr}")).await;
    assert!(stream.starts_with("HTTP/1.1 403 "), "{stream}");

    let public = SocketAddr::from(([0, 0, 0, 0], 0));
    let error = admin(Ready::default())
        .serve_tcp(public, &tasks)
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}
