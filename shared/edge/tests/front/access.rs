//! The line that each request leaves in the log.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, Once};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::app;
use crate::harness::{Site, eventually, header};

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
