//! The line that each request leaves in the log.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, Once};

use sallyport_edge::Denial;
use sallyport_wire::Code;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::app;
use crate::harness::{Scripted, Site, eventually, header, way};

type Line = BTreeMap<&'static str, String>;

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());
static LISTEN: Once = Once::new();

/// Keeps the events of the access log.
struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "sallyport::access"
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(Line::new());
        event.record(&mut fields);
        LINES.lock().expect("a lock").push(fields.0);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

struct Fields(Line);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

fn listen() {
    LISTEN.call_once(|| tracing::subscriber::set_global_default(Listener).expect("the first"));
}

/// The one line about a request.
async fn line(request_id: &str) -> Line {
    let find = || -> Vec<Line> {
        let lines = LINES.lock().expect("a lock");
        let about = |line: &&Line| line.get("request_id").is_some_and(|id| id == request_id);
        lines.iter().filter(about).cloned().collect()
    };
    eventually("the line is written", || !find().is_empty()).await;
    let lines = find();
    assert_eq!(lines.len(), 1);
    lines.into_iter().next().expect("a line")
}

#[track_caller]
fn assert_has(line: &Line, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(
            line.get(name).map(String::as_str),
            Some(*value),
            "{name} in {line:?}"
        );
    }
}

#[tokio::test]
async fn a_served_request_is_told_with_its_bytes() {
    listen();
    let site = Site::new();
    app::web(&site).await;
    let answer = site
        .fetch("POST /s/web/echo?token=secret HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    let line = line(header(&answer, "x-request-id").expect("an id")).await;
    let expected = [
        ("method", "POST"),
        ("host", "gw.test"),
        ("path", "/s/web/echo"),
        ("session", "web"),
        ("node", "n1"),
        ("tunnel", "7"),
        ("transport", "quic"),
        ("status", "200"),
        ("up", "5"),
        ("down", "5"),
        ("ended_by", "both"),
    ];
    assert_has(&line, &expected);
    assert!(
        line.contains_key("first_byte_ms") && line.contains_key("total_ms"),
        "{line:?}"
    );
    assert!(!format!("{line:?}").contains("secret"));
}

#[tokio::test]
async fn a_refused_request_is_told_with_its_cause() {
    listen();
    let site = Site::new();
    let answer = site
        .fetch("GET /s/down/ HTTP/1.1\r\nHost: gw.test\r\n\r\n")
        .await;
    let line = line(header(&answer, "x-request-id").expect("an id")).await;
    let expected = [
        ("status", "503"),
        ("session", "down"),
        ("code", "session_down"),
        ("cause", "node n1: 10.0.0.7:80 refused"),
        ("ended_by", "gateway"),
    ];
    assert_has(&line, &expected);
}

#[tokio::test]
async fn a_failure_is_told_with_the_node_that_was_tried() {
    listen();
    let site = Site::new();
    app::web(&site).await;
    let denied = || {
        Scripted::Denied(Denial {
            way: Some(way()),
            ..Denial::new(Code::Limit, "on n1: full")
        })
    };
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (script, fields, code) in [
        ([denied(), denied()], "", "limit"),
        ([denied(), denied()], websocket, "limit"),
        (
            [denied(), Scripted::Refused(Code::SessionRefused)],
            "",
            "session_refused",
        ),
        (
            [denied(), Scripted::Refused(Code::SessionRefused)],
            websocket,
            "session_refused",
        ),
    ] {
        for step in script {
            site.host.script(step);
        }
        let answer = site
            .fetch(&format!(
                "GET /s/web/ HTTP/1.1\r\nHost: gw.test\r\n{fields}\r\n"
            ))
            .await;
        let line = line(header(&answer, "x-request-id").expect("an id")).await;
        let expected = [
            ("session", "web"),
            ("node", "n1"),
            ("tunnel", "7"),
            ("transport", "quic"),
            ("first_try", "limit: on n1: full"),
            ("code", code),
        ];
        assert_has(&line, &expected);
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_leaves_the_node() {
    listen();
    let site = Site::new();
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    site.session(
        "web",
        |_| {},
        move |mut stream| {
            let tell = tell.clone();
            async move {
                let mut request = [0; 4096];
                let read = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
                let head =
                    String::from_utf8_lossy(&request[..read.expect("a request")]).into_owned();
                tell.send(head).await.expect("a listener");
                std::future::pending().await
            }
        },
    )
    .await;
    let mut raw = site.raw().await;
    raw.get("/s/web/").await;
    let head = told.recv().await.expect("a request");
    raw.0.set_zero_linger().expect("a socket");
    drop(raw);
    let line = line(header(&head, "x-request-id").expect("an id")).await;
    assert_has(
        &line,
        &[("node", "n1"), ("ended_by", "client"), ("status", "0")],
    );
}
