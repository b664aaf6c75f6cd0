//! Makes one line of each event.

use std::fmt;
use std::num::NonZeroU8;

use hyper::body::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Iso8601;
use time::format_description::well_known::iso8601::{self, TimePrecision};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Id, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, Scope};

use super::Logging;
use super::fields::{Fields, Shown};
use crate::escape::{Escaped, FIELD};

/// Keys that every JSON line has; a field of that name gets a `_` behind it.
const OWN_KEYS: &[&str] = &["time", "level", "target", "message", "span"];

/// Field of an event's text.
const MESSAGE: &str = "message";

/// What a JSON line has besides its fields' names and texts.
const ROOM_BESIDES: usize = 384;

const LOG: &str = "sallyport::log";
const LOST: &str = "log lines could not be written in time";
const MISSED: &str = "log lines went by, of any category, before they were read here";

/// The layer that keeps finished lines for readers, and hands them to `to`.
pub(super) struct Lines<F> {
    json: bool,
    logging: Logging,
    to: F,
}

impl<F> fmt::Debug for Lines<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("json", &self.json)
            .finish_non_exhaustive()
    }
}

impl<F: Fn(Bytes)> Lines<F> {
    pub(super) fn new(json: bool, logging: Logging, to: F) -> Self {
        Self { json, logging, to }
    }

    /// Readers have JSON, however the process writes.
    fn hand_over(&self, line: &Line) {
        let recent = &self.logging.recent;
        let target = line.event.target();
        let kept = (self.json || recent.keeps()).then(|| Bytes::from(line.json()));
        if let Some(kept) = kept.clone().filter(|_| recent.keeps()) {
            recent.put(target, kept);
        }
        let text = || line.text().into();
        (self.to)(kept.filter(|_| self.json).unwrap_or_else(text));
    }
}

impl<S, F> Layer<S> for Lines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    F: Fn(Bytes) + 'static,
{
    fn register_callsite(&self, callsite: &'static Metadata<'static>) -> Interest {
        if self.logging.levels.logs(callsite) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, callsite: &Metadata<'_>, _ctx: Context<'_, S>) -> bool {
        self.logging.levels.logs(callsite)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.logging.levels.highest())
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = ctx.span(id) {
            span.extensions_mut().replace(fields);
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            record.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut line = Line::new(event.metadata());
        if let Some(spans) = ctx.event_scope(event) {
            line.take_spans(spans);
        }
        event.record(&mut line.fields);
        self.hand_over(&line);
    }
}

/// The line that tells how many lines could not be written.
pub(super) fn lost_as_json(lost: u64) -> Vec<u8> {
    counted(LOST, lost)
}

/// The line that tells a reader how many lines it did not read in time.
pub(super) fn missed_as_json(missed: u64) -> Vec<u8> {
    counted(MISSED, missed)
}

fn counted(message: &str, lost: u64) -> Vec<u8> {
    let mut line = b"{".to_vec();
    member(&mut line, "time", &now());
    member(&mut line, "level", "WARN");
    member(&mut line, "target", LOG);
    member(&mut line, MESSAGE, message);
    line.extend_from_slice(format!(",\"lost\":{lost}}}\n").as_bytes());
    line
}

/// As [`lost_as_json`], for people.
pub(super) fn lost_as_text(lost: u64) -> Vec<u8> {
    format!("{} WARN  {LOG}: {LOST} lost={lost}\n", now()).into_bytes()
}

/// A line of JSON as a person reads it, without its end: `time LEVEL target: message field=value [connection/stream]`.
/// What is no line of a log is shown as it is, made harmless.
#[must_use]
pub fn for_people(line: &str) -> String {
    let Ok(Members(members)) = serde_json::from_str(line) else {
        return Escaped::new(line, FIELD).to_string();
    };
    let own = |key: &str| {
        let found = members.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| shown(value)).unwrap_or_default()
    };
    let (level, span) = (own("level"), own("span"));
    let mut text = format!(
        "{} {level:<5} {}: {}",
        own("time"),
        own("target"),
        own(MESSAGE)
    );
    for (name, value) in &members {
        if !OWN_KEYS.contains(&name.as_str()) {
            text.push_str(&pair(&shown(&Value::from(name.as_str())), &shown(value)));
        }
    }
    if !span.is_empty() {
        text.push_str(&format!(" [{span}]"));
    }
    text
}

/// A value without quotes. It was made harmless before it was logged, and is once more for whoever reads another log.
fn shown(value: &Value) -> String {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    Escaped::new(&text, FIELD).to_string()
}

/// The members of an object in the order in which they stand there.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

/// RFC 3339 in UTC with milliseconds, always of the same length.
fn now() -> String {
    const MILLISECONDS: iso8601::EncodedConfig = iso8601::Config::DEFAULT
        .set_time_precision(TimePrecision::Second {
            decimal_digits: NonZeroU8::new(3),
        })
        .encode();
    let now = OffsetDateTime::now_utc();
    // an absent time is better than an absent line
    now.format(&Iso8601::<MILLISECONDS>).unwrap_or_default()
}

#[derive(Debug)]
struct Line {
    time: String,
    event: &'static Metadata<'static>,
    spans: Vec<(&'static str, Fields)>,
    fields: Fields,
}

impl Line {
    fn new(event: &'static Metadata<'static>) -> Self {
        Self {
            time: now(),
            event,
            spans: Vec::new(),
            fields: Fields::of_event(),
        }
    }

    fn take_spans<S: for<'s> LookupSpan<'s>>(&mut self, spans: Scope<'_, S>) {
        self.spans = spans
            .from_root()
            .map(|span| {
                let fields = span.extensions().get::<Fields>().cloned();
                (span.name(), fields.unwrap_or_default())
            })
            .collect();
    }

    fn message(&self) -> &str {
        let message = self.fields.iter().find(|field| field.name == MESSAGE);
        message.map_or("", |field| field.text)
    }

    fn own_fields(&self) -> impl Iterator<Item = Shown<'_>> {
        self.fields.iter().filter(|field| field.name != MESSAGE)
    }

    /// `{"time":…,"level":…,"target":…,"message":…,"span":"connection/stream",…}`, of equal names the innermost.
    fn json(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(self.room());
        line.push(b'{');
        member(&mut line, "time", &self.time);
        member(&mut line, "level", self.event.level().as_str());
        member(&mut line, "target", self.event.target());
        member(&mut line, MESSAGE, self.message());
        if !self.spans.is_empty() {
            let spans: Vec<_> = self.spans.iter().map(|(name, _)| *name).collect();
            member(&mut line, "span", &spans.join("/"));
        }
        for (depth, (_, fields)) in self.spans.iter().enumerate() {
            let hidden = |name| self.is_hidden(depth, name);
            for field in fields.iter().filter(|field| !hidden(field.name)) {
                put(&mut line, field);
            }
        }
        self.own_fields().for_each(|field| put(&mut line, field));
        line.extend_from_slice(b"}\n");
        line
    }

    /// About how long it will be, so that it is allocated once.
    fn room(&self) -> usize {
        let spans = self.spans.iter().map(|(_, fields)| fields);
        let fields: usize = spans.chain([&self.fields]).map(Fields::length).sum();
        fields + ROOM_BESIDES
    }

    /// Whether a field of the span at `depth` is that of something further in.
    fn is_hidden(&self, depth: usize, name: &str) -> bool {
        let spans = self.spans.iter().skip(depth + 1);
        let mut inner = spans
            .flat_map(|(_, fields)| fields.iter())
            .chain(self.own_fields());
        inner.any(|field| field.name == name)
    }

    /// `time LEVEL target: message field=value [connection peer=… > stream session=…]`.
    fn text(&self) -> Vec<u8> {
        let (level, target) = (self.event.level().as_str(), self.event.target());
        let mut line = format!("{} {level:<5} {target}: {}", self.time, self.message());
        self.own_fields()
            .for_each(|field| line.push_str(&pair(field.name, field.text)));
        for (place, (name, fields)) in self.spans.iter().enumerate() {
            line.push_str(if place == 0 { " [" } else { " > " });
            line.push_str(name);
            fields
                .iter()
                .for_each(|field| line.push_str(&pair(field.name, field.text)));
        }
        line.push_str(if self.spans.is_empty() { "\n" } else { "]\n" });
        line.into_bytes()
    }
}

/// A field behind others.
fn put(line: &mut Vec<u8>, field: Shown<'_>) {
    if OWN_KEYS.contains(&field.name) {
        key(line, &format!("{}_", field.name));
    } else {
        key(line, field.name);
    }
    if field.is_literal {
        line.extend_from_slice(field.text.as_bytes());
    } else {
        quote(line, field.text);
    }
}

fn member(line: &mut Vec<u8>, name: &str, text: &str) {
    key(line, name);
    quote(line, text);
}

fn key(line: &mut Vec<u8>, name: &str) {
    if line.len() > 1 {
        line.push(b',');
    }
    quote(line, name);
    line.push(b':');
}

/// Text as JSON has it. Nothing can fail: it is text, and goes to memory.
fn quote(line: &mut Vec<u8>, text: &str) {
    drop(serde_json::to_writer(line, text));
}

/// A value that could be taken for more than one is quoted.
fn pair(name: &str, text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_.:/+%@#*,~$!?&'".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        format!(" {name}={text}")
    } else {
        format!(" {name}={}", Value::from(text))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::FutureExt as _;
    use time::format_description::well_known::Rfc3339;
    use tracing::{debug, field, info, info_span, trace, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::super::{Category, Log};
    use super::*;

    fn logged(json: bool, level: &str, act: impl FnOnce()) -> Vec<String> {
        let written = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&written);
        let logging = Logging::new(level, Log::default()).unwrap();
        let lines = Lines::new(json, logging.clone(), move |line| {
            let line = str::from_utf8(&line).unwrap().to_owned();
            to.lock().unwrap().push(line);
        });
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), act);
        let lines = written.lock().unwrap();
        assert_eq!(kept(&logging).len(), lines.len(), "each is kept too");
        lines.clone()
    }

    /// What a reader gets, each line parsed.
    fn kept(logging: &Logging) -> Vec<Value> {
        let mut reader = logging.read(None, false).unwrap();
        let mut lines = Vec::new();
        while let Some(chunk) = reader.next().now_or_never().unwrap() {
            let text = str::from_utf8(&chunk).unwrap();
            lines.extend(text.lines().map(|line| serde_json::from_str(line).unwrap()));
        }
        lines
    }

    fn json(act: impl FnOnce()) -> Value {
        let lines = logged(true, "info", act);
        assert_eq!(lines.len(), 1);
        let line = lines[0].strip_suffix('\n').unwrap();
        assert!(!line.contains('\n'));
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn a_json_line_has_the_events_and_the_spans_fields() {
        let line = json(|| {
            let outer = info_span!("connection", peer = "10.0.0.1:5", session = field::Empty);
            outer.record("session", "notebook");
            let _outer = outer.entered();
            let _inner = info_span!("stream", stream = 7, up = 0).entered();
            info!(
                up = 12_u64,
                ratio = 0.5,
                broken = f64::NAN,
                ok = true,
                "stream ended"
            );
        });

        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "stream ended");
        assert_eq!(line["target"], module_path!());
        assert_eq!(line["span"], "connection/stream");
        assert_eq!(line["peer"], "10.0.0.1:5");
        assert_eq!(line["session"], "notebook");
        assert_eq!(
            (&line["stream"], &line["up"]),
            (&Value::from(7), &Value::from(12))
        );
        assert_eq!(
            (&line["ratio"], &line["ok"]),
            (&Value::from(0.5), &Value::from(true))
        );
        assert_eq!(line["broken"], "NaN");
        let time = line["time"].as_str().unwrap();
        assert_eq!(time.len(), "2027-01-31T00:00:00.000Z".len(), "{time}");
        assert!(OffsetDateTime::parse(time, &Rfc3339).is_ok(), "{time}");
    }

    #[test]
    fn hostile_values_stay_inside_one_harmless_line() {
        let hostile = "x\r\n{\"level\":\"ERROR\"}\u{1b}[2J\0\u{2028}\u{9b}\"\\";
        let line = json(|| {
            let _span = info_span!("request", path = hostile).entered();
            info!(agent = hostile, shown = %hostile, debug = ?hostile, "got {hostile}");
        });

        let safe = "x\\r\\n{\"level\":\"ERROR\"}\\u{1b}[2J\\u{0}\\u{2028}\\u{9b}\"\\";
        assert_eq!(line["agent"], safe);
        assert_eq!(line["shown"], safe);
        assert_eq!(line["path"], safe);
        assert_eq!(line["message"], format!("got {safe}"));
        assert_eq!(line["level"], "INFO");

        for json in [true, false] {
            let lines = logged(json, "info", || info!(agent = hostile, "got {hostile}"));
            let line = lines[0].strip_suffix('\n').unwrap();
            assert!(
                !line.chars().any(|c| c.is_control() || c == '\u{2028}'),
                "{line:?}"
            );
        }
    }

    #[test]
    fn a_long_value_is_cut_to_a_kibibyte() {
        let line = json(|| info!(agent = "ä".repeat(65_536), list = ?vec![7; 100_000], "long"));

        assert_eq!(line["agent"].as_str().unwrap().len(), 1023);
        assert!(line["list"].as_str().unwrap().len() <= 1024);
        assert!(line["list"].as_str().unwrap().ends_with('…'));
    }

    #[test]
    fn a_field_cannot_pose_as_one_of_the_lines_own() {
        let line = json(|| info!(level = "FAKE", time = 1, "real"));
        assert_eq!(
            (&line["level"], &line["level_"]),
            (&"INFO".into(), &"FAKE".into())
        );
        assert_eq!(line["time_"], 1);
    }

    #[test]
    fn a_text_line_quotes_what_could_be_misread() {
        let lines = logged(false, "info", || {
            let _span = info_span!("stream", session = "nb").entered();
            warn!(
                cause = "timed out node=evil",
                up = 3,
                empty = "",
                "stream ended"
            );
        });

        let (_time, rest) = lines[0].split_once(' ').unwrap();
        let target = module_path!();
        assert_eq!(
            rest,
            format!(
                "WARN  {target}: stream ended cause=\"timed out node=evil\" up=3 empty=\"\" \
                 [stream session=nb]\n"
            )
        );
    }

    #[test]
    fn a_line_of_json_is_shown_to_people_in_its_own_order() {
        let lines = logged(true, "info", || {
            let _span = info_span!("stream", session = "nb").entered();
            warn!(up = 3, cause = "timed out\u{1b}[2J", a = 1, "ended");
        });

        let shown = for_people(lines[0].trim_end());

        let (_time, rest) = shown.split_once(' ').unwrap();
        let target = module_path!();
        let fields = r#"session=nb up=3 cause="timed out\\u{1b}[2J" a=1"#;
        assert_eq!(rest, format!("WARN  {target}: ended {fields} [stream]"));
        assert_eq!(for_people("no\u{7} line"), "no\\u{7} line");
        let strange = for_people("{\"message\":\"a\\nb\",\"x\\ny\":[\"\\u001b\"]}");
        assert!(!strange.chars().any(char::is_control), "{strange:?}");
    }

    #[test]
    fn losses_are_told_in_the_form_of_the_other_lines() {
        let line: Value = serde_json::from_slice(&lost_as_json(3)).unwrap();
        assert_eq!((&line["level"], &line["lost"]), (&"WARN".into(), &3.into()));
        let line = String::from_utf8(lost_as_text(3)).unwrap();
        assert!(
            line.ends_with(&format!(" WARN  {LOG}: {LOST} lost=3\n")),
            "{line}"
        );
    }

    #[test]
    fn a_category_that_is_debugged_says_more_until_it_is_not() {
        const HERE: Category = Category {
            name: "here",
            about: "",
            targets: &[module_path!()],
        };
        let logging = Logging::new("info", Log::default()).unwrap();
        let lines = Lines::new(true, logging.clone(), drop);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            for (categories, message) in [
                (vec![], "before"),
                (vec![&HERE], "while"),
                (vec![], "after"),
            ] {
                logging.debug(categories);
                debug!("{message}");
                debug!(target: "elsewhere", "{message}");
                trace!("{message}");
            }
        });

        let messages: Vec<_> = kept(&logging)
            .iter()
            .map(|line| (line["message"].clone(), line["target"].clone()))
            .collect();
        assert_eq!(messages, [("while".into(), module_path!().into())]);
    }

    #[test]
    fn a_warning_keeps_its_context_at_any_level() {
        let lines = logged(false, "warn", || {
            let _span = info_span!("tunnel", node = "n1").entered();
            info!("hidden");
            debug!("hidden");
            warn!("shown");
        });

        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with("shown [tunnel node=n1]\n"), "{lines:?}");
    }
}
