//! The kinds of objects that there are, and what an object of each may say.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::bundle::Object;

/// Longest name of an object, in bytes.
const MAX_NAME: usize = 64;

/// Longest source of a function, in bytes.
pub const MOST_SOURCE: usize = 64 << 10;

/// Longest path, in bytes.
const MAX_PATH: usize = 4096;

/// Epochs that may be kept.
const KEEP: RangeInclusive<u64> = 2..=100;

/// The setting that says how many epochs are kept, and its field.
pub(super) const HISTORY: (&str, &str) = ("history", "keep");

/// The kind whose objects are settings of the cluster.
pub const SETTINGS: &str = "settings";

/// The settings of placement, and their field.
pub const PLACEMENT: (&str, &str) = ("placement", "on_script_failure");

/// The setting that says how much may wait for a server, of all users and of one, and its fields.
pub const QUEUE_SETTING: (&str, &str, &str) = ("queue", "limit", "per_user");

/// So much may wait.
const WAITING: RangeInclusive<u64> = 0..=10_000;

/// What [`PLACEMENT`] may say: the user hears of it, or what is built in decides.
pub const ON_SCRIPT_FAILURE: [&str; 2] = ["error", "builtin"];

/// The kind of functions and programs whose values nodes tell of themselves.
pub const METRICS: &str = "metrics";

/// The kind of load-balancing functions and programs.
pub const SCRIPTS: &str = "scripts";

/// The kind of their chains: one for each of [`CHAIN_NAMES`].
pub const CHAINS: &str = "chains";

/// What a chain decides about.
pub const CHAIN_NAMES: [&str; 2] = ["login", "start"];

/// Functions that every node brings along, in the order in which they are listed. No script may have such a name.
pub const PREDEFINED: [&str; 12] = [
    "user-selection",
    "find-logged-in",
    "users-logged-in-server",
    "filter-not-logged-in",
    "filter-vnode",
    "needs-gpu",
    "use-gpu-system",
    "get-gpu",
    "most-free-memory",
    "fewest-sessions",
    "local-server",
    "random-server",
];

/// Most scripts of a chain.
pub const MOST_IN_CHAIN: usize = 64;

/// A kind of objects.
struct Kind {
    name: &'static str,
    /// Most objects of it.
    most: usize,
    check: fn(&mut Fields<'_>),
}

/// All of them. What is not here is refused by name.
const KINDS: &[Kind] = &[
    Kind {
        name: CHAINS,
        most: CHAIN_NAMES.len(),
        check: chain,
    },
    Kind {
        name: METRICS,
        most: 64,
        check: metric,
    },
    Kind {
        name: SCRIPTS,
        most: 128,
        check: script,
    },
    Kind {
        name: SETTINGS,
        most: 64,
        check: setting,
    },
];

/// What is wrong with a field; none for the object as a whole.
pub(super) type Wrong = (Option<String>, String);

/// The names of all kinds.
pub fn names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.name)
}

/// How many objects of a kind there may be; none if there is no such kind.
pub(super) fn most(kind: &str) -> Option<usize> {
    find(kind).map(|kind| kind.most)
}

/// What is wrong with an object of a kind that there is.
pub(super) fn check(kind: &str, name: &str, object: &Object) -> Vec<Wrong> {
    let mut fields = Fields {
        name,
        object,
        known: Vec::new(),
        wrong: Vec::new(),
    };
    if !is_name(name) {
        let text = format!("its name is not 1 to {MAX_NAME} characters a-z A-Z 0-9 - _ .");
        fields.wrong.push((None, text));
    }
    if let Some(kind) = find(kind) {
        (kind.check)(&mut fields);
    }
    fields.end()
}

fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits)
}

/// A value of each node: a JavaScript function, or a program that prints JSON.
fn metric(fields: &mut Fields<'_>) {
    if fields.name.contains('.') {
        let text = "the name of a metric has no dot".to_owned();
        fields.wrong.push((None, text));
    }
    fields.flag("enabled");
    code(fields);
}

/// A function that chooses among servers, or a program that does.
fn script(fields: &mut Fields<'_>) {
    if PREDEFINED.contains(&fields.name) {
        let text = "this name is that of a predefined script".to_owned();
        fields.wrong.push((None, text));
    }
    code(fields);
}

/// A JavaScript function, or a program.
fn code(fields: &mut Fields<'_>) {
    match fields.one_of("kind", &["javascript", "executable"]) {
        Some("javascript") => drop(fields.text("source", MOST_SOURCE)),
        Some("executable") => fields.path("path"),
        // what else there should be cannot be told
        _ => fields.known.extend(["source", "path"]),
    }
}

/// Scripts one after the other. Whether there are such is for the bundle to say.
fn chain(fields: &mut Fields<'_>) {
    if !CHAIN_NAMES.contains(&fields.name) {
        let text = format!(
            "there is no such chain; there are: {}",
            CHAIN_NAMES.join(", ")
        );
        fields.wrong.push((None, text));
    }
    let is_list = |value: &Value| {
        let names = value.as_array();
        names.is_some_and(|names| {
            (1..=MOST_IN_CHAIN).contains(&names.len()) && names.iter().all(Value::is_string)
        })
    };
    if fields.get(SCRIPTS).is_some_and(|value| !is_list(value)) {
        let text = format!("it is no list of 1 to {MOST_IN_CHAIN} names of scripts");
        fields.complain(SCRIPTS, &text);
    }
}

/// The names of a chain's scripts.
pub fn chained(chain: &Object) -> impl Iterator<Item = &str> {
    let names = chain.get(SCRIPTS).and_then(Value::as_array);
    names.into_iter().flatten().filter_map(Value::as_str)
}

/// What holds for the cluster as a whole, each under a name of its own.
fn setting(fields: &mut Fields<'_>) {
    if fields.name == HISTORY.0 {
        return fields.number(HISTORY.1, KEEP);
    }
    if fields.name == PLACEMENT.0 {
        fields.one_of(PLACEMENT.1, &ON_SCRIPT_FAILURE);
        return;
    }
    if fields.name == QUEUE_SETTING.0 {
        fields.number(QUEUE_SETTING.1, WAITING);
        fields.number(QUEUE_SETTING.2, WAITING);
        return;
    }
    let there = [HISTORY.0, PLACEMENT.0, QUEUE_SETTING.0].join(", ");
    let text = format!("there is no such setting; there are: {there}");
    fields.wrong.push((None, text));
    fields
        .known
        .extend(fields.object.keys().map(String::as_str));
}

/// The fields of an object while they are looked at.
struct Fields<'o> {
    name: &'o str,
    object: &'o Object,
    /// Those that may be there.
    known: Vec<&'o str>,
    wrong: Vec<Wrong>,
}

impl<'o> Fields<'o> {
    fn get(&mut self, field: &'static str) -> Option<&'o Value> {
        self.known.push(field);
        let value = self.object.get(field);
        if value.is_none() {
            self.complain(field, "it is missing");
        }
        value
    }

    fn flag(&mut self, field: &'static str) {
        if self.get(field).is_some_and(|value| !value.is_boolean()) {
            self.complain(field, "it is neither true nor false");
        }
    }

    fn number(&mut self, field: &'static str, range: RangeInclusive<u64>) {
        let in_range = |value: &Value| value.as_u64().is_some_and(|value| range.contains(&value));
        if self.get(field).is_some_and(|value| !in_range(value)) {
            let (least, most) = range.into_inner();
            self.complain(field, &format!("it is no number from {least} to {most}"));
        }
    }

    fn one_of(&mut self, field: &'static str, words: &[&'static str]) -> Option<&'static str> {
        let value = self.get(field)?;
        let word = words.iter().copied().find(|word| value == word);
        if word.is_none() {
            self.complain(field, &format!("it is none of {}", words.join(", ")));
        }
        word
    }

    fn text(&mut self, field: &'static str, most: usize) -> Option<&'o str> {
        let value = self.get(field)?;
        let text = value
            .as_str()
            .filter(|text| (1..=most).contains(&text.len()));
        if text.is_none() {
            self.complain(field, &format!("it is no text of 1 to {most} bytes"));
        }
        text
    }

    fn path(&mut self, field: &'static str) {
        let path = self.text(field, MAX_PATH);
        if path.is_some_and(|path| !path.starts_with('/') || path.contains('\0')) {
            self.complain(
                field,
                "it is no absolute path, like /usr/local/bin/licences",
            );
        }
    }

    fn complain(&mut self, field: &str, text: &str) {
        self.wrong.push((Some(field.to_owned()), text.to_owned()));
    }

    fn end(mut self) -> Vec<Wrong> {
        for field in self.object.keys() {
            if !self.known.contains(&field.as_str()) {
                let text = "there is no such field".to_owned();
                self.wrong.push((Some(field.clone()), text));
            }
        }
        self.wrong
    }
}
