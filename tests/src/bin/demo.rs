//! `make demo`: a gateway, a relay and a session on loopback, until Ctrl-C.
#![expect(
    clippy::expect_used,
    reason = "it speaks to the person who typed make demo"
)]

use std::convert::Infallible;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use futures::future::select_all;
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use sallyport_tests::{Gateway, Relay, Site, program};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, block_in_place};

const PAGE: &str = include_str!("demo.html");

/// The signals that end the demo: Ctrl-C, kill, a terminal that is closed, Ctrl-\\.
const ENDS: [SignalKind; 4] = [
    SignalKind::interrupt(),
    SignalKind::terminate(),
    SignalKind::hangup(),
    SignalKind::quit(),
];

#[tokio::main]
async fn main() {
    let mut ends = ENDS.map(|kind| signal(kind).expect("signals can be watched"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a loopback port");
    let session = listener.local_addr().expect("it is bound");

    let mut app = JoinSet::new();
    app.spawn(serve(listener));

    // On this thread, because the programs end with the thread that started them.
    let (site, sweeper, gateway, relay) = block_in_place(|| install(session));
    say(&explanation(&gateway, &relay));
    let any = ends.each_mut().map(|end| Box::pin(end.recv()));
    select_all(any).await;
    say(&format!(
        "\nEnding gateway and relay, removing {}",
        site.path().display()
    ));
    block_in_place(|| drop((relay, gateway, site, sweeper)));
}

/// To whoever still looks: a terminal that was closed is no fault.
fn say(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// A shell that removes the demo's folder when the demo is gone, also when it was killed.
#[derive(Debug)]
struct Sweeper(Child);

impl Sweeper {
    fn of(folder: &Path) -> Self {
        let script = "cat; rm -rf -- \"$0\"";
        let shell = Command::new("sh")
            .args(["-c".as_ref(), script.as_ref(), folder.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn();
        Self(shell.expect("there is a shell"))
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        // The end of its input is what it waits for; `wait` closes it.
        drop(self.0.wait());
    }
}

/// Serves the session until it is dropped with its connections.
async fn serve(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _peer)) = listener.accept().await {
        let served = hyper::server::conn::http1::Builder::new();
        connections.spawn(served.serve_connection(TokioIo::new(stream), service_fn(answer)));
        while connections.try_join_next().is_some() {}
    }
}

/// A gateway and a relay as an administrator sets them up, in a temporary folder.
fn install(session: SocketAddr) -> (Site, Sweeper, Gateway, Relay) {
    let site = Site::new();
    let sweeper = Sweeper::of(site.path());
    let gateway = site.gateway("gateway");
    let relay = site.relay(
        "demo-node",
        &gateway,
        &format!("[[session]]\nid = \"demo\"\nprotocol = \"http\"\ntarget = \"{session}\"\naccess = \"public\"\n"),
    );
    gateway.wait_session("demo");
    (site, sweeper, gateway, relay)
}

fn explanation(gateway: &Gateway, relay: &Relay) -> String {
    let url = gateway.session_url("demo", "/");
    let status = |program_name: &str, config: &Path| {
        format!(
            "{} status --config {}",
            program(program_name).display(),
            config.display()
        )
    };
    format!(
        "\n  Sallyport runs. The session listens on a port of the node only; the relay dialled out.\n\n\
         \x20 In a browser (the certificate is self-signed):\n    {url}\n\n\
         \x20 With curl, the certificate checked:\n    curl --cacert {} {url}\n\n\
         \x20 What the gateway and the relay see:\n    {}\n    {}\n\n\
         \x20 How the node reaches the gateway, step by step:\n    {} doctor --config {}\n\n\
         \x20 Ctrl-C ends all of it and leaves nothing behind.",
        gateway.certificate().display(),
        status("sallyport-gateway", gateway.config()),
        status("sallyport-relay", relay.config()),
        program("sallyport-relay").display(),
        relay.config().display(),
    )
}

/// The session: a page that shows what reaches it, and a clock that is streamed.
async fn answer(
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let full = |text: String| Full::new(Bytes::from(text)).boxed_unsync();
    let (kind, body) = match request.uri().path() {
        "/" => ("text/html; charset=utf-8", full(PAGE.to_owned())),
        "/headers" => ("text/plain; charset=utf-8", full(headers(&request))),
        "/clock" => ("text/event-stream", clock()),
        _ => {
            let mut missing = Response::new(full("no such page\n".to_owned()));
            *missing.status_mut() = hyper::StatusCode::NOT_FOUND;
            return Ok(missing);
        }
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(kind),
    );
    Ok(response)
}

fn headers(request: &Request<Incoming>) -> String {
    let lines = request
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    format!(
        "{} {}\n{}",
        request.method(),
        request.uri(),
        lines.collect::<String>()
    )
}

fn clock() -> UnsyncBoxBody<Bytes, Infallible> {
    let every = tokio::time::interval(std::time::Duration::from_secs(1));
    let ticks = futures::stream::unfold((every, 0_u64), |(mut every, number)| async move {
        every.tick().await;
        let event = format!("data: {number} s since this stream began\n\n");
        Some((
            Ok(Frame::data(Bytes::from(event))),
            (every, number.saturating_add(1)),
        ))
    });
    StreamBody::new(ticks).boxed_unsync()
}
