//! Strict configuration files: whoever mistypes a key is told where, and what was probably meant.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// A configuration file larger than this is a mistake.
const MOST_BYTES: u64 = 1 << 20;

/// What is wrong with a configuration file, and where.
///
/// A string is shown only where one of a few words was expected; any other may be a secret in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    path: PathBuf,
    at: Option<Position>,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    line: usize,
    column: usize,
}

impl ConfigError {
    /// A fault found after parsing; `text` names the key and what it may be.
    #[must_use]
    pub fn fault(path: &Path, text: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            at: None,
            text: text.into(),
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if let Some(Position { line, column }) = self.at {
            write!(f, "line {line}, column {column}: ")?;
        }
        f.write_str(&self.text)
    }
}

impl std::error::Error for ConfigError {}

/// Reads a TOML file of at most 1 MiB. `T` denies unknown fields.
///
/// # Errors
/// When it cannot be read or does not fit `T`.
pub fn load_toml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    parse_toml(&read(path)?, path)
}

/// The text of a configuration file of at most 1 MiB.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    let fault = |text: String| ConfigError::fault(path, text);
    let file = File::open(path).map_err(|cause| {
        let advice = if cause.kind() == io::ErrorKind::NotFound {
            "; name another file with --config"
        } else {
            ""
        };
        fault(format!("{cause}{advice}"))
    })?;
    let mut text = String::new();
    let read = file.take(MOST_BYTES + 1).read_to_string(&mut text);
    read.map_err(|cause| fault(cause.to_string()))?;
    if text.len() as u64 > MOST_BYTES {
        return Err(fault(format!("larger than {MOST_BYTES} bytes")));
    }
    Ok(text)
}

/// Reads TOML text that came from `path`.
///
/// # Errors
/// When it does not fit `T`.
pub fn parse_toml<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map(|span| span.start);
        let key = at.and_then(|offset| key_before(text, offset));
        ConfigError {
            path: path.to_owned(),
            at: at.map(|offset| position(text, offset)),
            text: explain(error.message(), key, &Words::TOML),
        }
    })
}

/// Reads JSON text that came from `path`.
///
/// # Errors
/// When it does not fit `T`.
pub fn parse_json<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let message = error.to_string();
        let place = format!(" at line {line} column {column}");
        ConfigError {
            path: path.to_owned(),
            at: (line > 0).then_some(Position { line, column }),
            text: explain(
                message.strip_suffix(&place).unwrap_or(&message),
                None,
                &Words::JSON,
            ),
        }
    })
}

fn position(text: &str, offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let on_line = before.get(line_start..).unwrap_or_default();
    Position {
        line: before.matches('\n').count() + 1,
        column: on_line.chars().count() + 1,
    }
}

/// The key in whose line an offset is, if that lies behind the equals sign.
fn key_before(text: &str, offset: usize) -> Option<&str> {
    let line = text.get(..offset)?.rsplit('\n').next()?;
    let key = line.split_once('=')?.0.trim();
    let is_bare = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!key.is_empty() && key.chars().all(is_bare)).then_some(key)
}

/// What a file's format calls serde's things.
struct Words {
    map: &'static str,
    list: &'static str,
}

impl Words {
    const TOML: Self = Self {
        map: "a table",
        list: "a list",
    };
    const JSON: Self = Self {
        map: "an object",
        list: "an array",
    };

    /// serde's word for what it wanted or found.
    fn of(&self, word: &str) -> String {
        let plain = match word {
            "a sequence" | "sequence" => self.list,
            "a map" | "map" => self.map,
            "a string" | "string" => "text in quotes",
            "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
            "a boolean" => "true or false",
            word if word.starts_with("struct ") => self.map,
            word => word,
        };
        plain.to_owned()
    }
}

/// What serde reports, in the words of somebody who edits the file.
fn explain(message: &str, key: Option<&str>, words: &Words) -> String {
    let unknown = [("unknown field `", "key"), ("unknown variant `", "value")];
    let unknown = unknown
        .iter()
        .find_map(|(start, what)| explain_unknown(what, message.strip_prefix(start)?));
    if let Some(unknown) = unknown {
        return unknown;
    }
    if let Some(missing) = message.strip_prefix("missing field ") {
        return format!("{missing} is missing");
    }
    let text = without_text(message);
    let text = explain_type(&text, words).unwrap_or(text);
    match key {
        Some(key) => format!("`{key}`: {text}"),
        None => text,
    }
}

fn explain_type(message: &str, words: &Words) -> Option<String> {
    let addresses = [
        (
            "invalid socket address syntax",
            "an address with its port is expected, such as 0.0.0.0:443 or [::]:443",
        ),
        (
            "invalid IP address syntax",
            "a network is expected, such as 10.0.0.0/8 or 2001:db8::/32",
        ),
    ];
    let address = addresses.iter().find(|(serde, _)| *serde == message);
    if let Some((_, text)) = address {
        return Some((*text).to_owned());
    }
    let rest = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .or_else(|| message.strip_prefix("invalid length "))?;
    let (found, wanted) = rest.split_once(", expected ")?;
    let (found, wanted) = (words.of(found), words.of(wanted));
    let advice = if wanted == Words::TOML.list && found == Words::TOML.map {
        "; a table of which there may be several begins with [[name]]"
    } else {
        ""
    };
    let found = if message.starts_with("invalid type: ") {
        format!(", not {found}")
    } else {
        String::new()
    };
    Some(format!("{wanted} is expected{found}{advice}"))
}

fn explain_unknown(what: &str, rest: &str) -> Option<String> {
    let (found, rest) = rest.split_once('`')?;
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let advice = match likely(found, &known) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if known.is_empty() => "none is allowed here".to_owned(),
        None => format!("known here: {}", known.join(", ")),
    };
    Some(format!(
        "unknown {what} `{}`: {advice}",
        found.escape_debug()
    ))
}

/// The known name that `found` was probably meant to be.
fn likely<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let found = plain(found);
    let furthest = (found.chars().count() / 3).clamp(1, 3);
    let by_distance = known
        .iter()
        .map(|name| (strsim::osa_distance(&found, &plain(name)), *name));
    let (distance, nearest) = by_distance.min_by_key(|(distance, _)| *distance)?;
    (distance <= furthest).then_some(nearest)
}

/// serde quotes a string it did not expect; it may be a secret in the wrong place.
fn without_text(message: &str) -> String {
    let quoted = message
        .split_once("string \"")
        .zip(message.rsplit_once("\", expected "));
    match quoted {
        Some(((before, _), (_, expected))) => format!("{before}string, expected {expected}"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        listen: SocketAddr,
        #[serde(default)]
        session: Vec<Session>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Session {
        id: String,
        protocol: Protocol,
        port: u16,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Protocol {
        Http,
        Tcp,
    }

    fn toml_error(text: &str) -> String {
        parse_toml::<Sample>(text, Path::new("sample.toml"))
            .unwrap_err()
            .to_string()
    }

    fn json_error(text: &str) -> String {
        parse_json::<Sample>(text, Path::new("sample.json"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_the_likely_meant_one() {
        assert_eq!(
            toml_error("# ä\nlisten = \"[::]:443\"\n\n[[session]]\n  prtocol = \"http\"\n"),
            "sample.toml: line 5, column 3: unknown key `prtocol`: did you mean `protocol`?"
        );
        assert_eq!(
            json_error("{\n  \"Listen\": \"[::]:443\"}"),
            "sample.json: line 2, column 10: unknown key `Listen`: did you mean `listen`?"
        );
    }

    #[test]
    fn a_key_like_none_is_answered_with_those_that_are_known() {
        assert_eq!(
            toml_error("colour = 1"),
            "sample.toml: line 1, column 1: unknown key `colour`: known here: listen, session"
        );
    }

    #[test]
    fn an_unknown_value_of_a_choice_is_explained_the_same_way() {
        let error = toml_error(
            "listen = \"[::]:443\"\n[[session]]\nid = \"a\"\nport = 1\nprotocol = \"htttp\"",
        );
        assert_eq!(
            error,
            "sample.toml: line 5, column 12: unknown value `htttp`: did you mean `http`?"
        );
    }

    #[test]
    fn a_string_in_the_wrong_place_is_not_shown() {
        let toml = toml_error("session = \"hunter2, \\\", expected\"\nlisten = \"[::]:443\"");
        let json = json_error(r#"{"session": [{"id": "a", "port": "hunter2"}]}"#);

        assert_eq!(
            toml,
            "sample.toml: line 1, column 11: `session`: a list is expected, not text in quotes"
        );
        assert!(
            json.ends_with("a whole number is expected, not text in quotes"),
            "{json}"
        );
    }

    #[test]
    fn what_is_expected_is_said_in_words_of_the_file() {
        for (text, told) in [
            (
                "[session]\nid = \"a\"",
                "a list is expected, not a table; a table of which",
            ),
            (
                "listen = \"x\"",
                "`listen`: an address with its port is expected",
            ),
            ("listen = [1]", "`listen`: "),
            (
                "[[session]]\nid = 1",
                "`id`: text in quotes is expected, not integer `1`",
            ),
        ] {
            let error = toml_error(text);
            assert!(error.contains(told), "{error}");
        }
        assert!(
            json_error("[]").ends_with("an object is expected"),
            "{}",
            json_error("[]")
        );
    }

    #[test]
    fn a_missing_key_and_broken_syntax_are_placed() {
        assert_eq!(
            toml_error(""),
            "sample.toml: line 1, column 1: `listen` is missing"
        );
        assert!(toml_error("listen = \"[::]:443\"\nb = [").starts_with("sample.toml: line 2, "));
        assert!(json_error("{\n,").starts_with("sample.json: line 2, column 1: "));
    }

    #[test]
    fn a_file_that_is_absent_or_too_large_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large.toml");
        let absent = load_toml::<Sample>(&path).unwrap_err().to_string();
        std::fs::write(&path, "#".repeat((1 << 20) + 1)).unwrap();
        let large = load_toml::<Sample>(&path).unwrap_err().to_string();

        assert!(
            absent.contains("large.toml: No such file") && absent.contains("--config"),
            "{absent}"
        );
        assert!(
            large.contains("large.toml: larger than 1048576 bytes"),
            "{large}"
        );
    }

    #[test]
    fn what_is_right_loads() {
        let text = "listen = \"[::]:443\"\n[[session]]\nid = \"a\"\nprotocol = \"tcp\"\nport = 22";
        let sample: Sample = parse_toml(text, Path::new("sample.toml")).unwrap();
        assert_eq!(sample.session.len(), 1);
    }
}
