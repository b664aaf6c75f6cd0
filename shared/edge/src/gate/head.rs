//! The head of a request of HTTP/1.1, checked before any other parser sees it.
//!
//! hyper repairs or ignores some things that another program behind us would take literally. What
//! passes here can be read in one way only, so that it does not matter who reads it.

use super::Bad;
use super::field::{Field, is_token};
use crate::host::Host;
use crate::limits::Limits;

/// How the bytes after a head are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes; more than 0.
    Length(u64),
    /// Chunks and trailers (RFC 9112 §7.1).
    Chunked,
}

/// What a valid head says about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Bytes of the head with its empty line.
    pub length: usize,
    /// The body that follows.
    pub framing: Framing,
    /// Whether the client asks for a WebSocket (RFC 6455 §4.1).
    pub upgrade: bool,
}

/// Methods that are served: RFC 9110, PATCH, QUERY, and WebDAV with its extensions.
const METHODS: &[&str] = &[
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "QUERY",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "ACL",
    "BIND",
    "UNBIND",
    "REBIND",
    "MKCALENDAR",
    "MKREDIRECTREF",
    "UPDATEREDIRECTREF",
    "ORDERPATCH",
    "VERSION-CONTROL",
    "CHECKOUT",
    "CHECKIN",
    "UNCHECKOUT",
    "MKWORKSPACE",
    "UPDATE",
    "LABEL",
    "MERGE",
    "BASELINE-CONTROL",
    "MKACTIVITY",
    "LINK",
    "UNLINK",
];

/// The longest method, with room for one that is not served to be named so.
const METHOD_BYTES: usize = 32;

/// Finds the end of a head in bytes that arrive in pieces, and refuses early what cannot become one.
#[derive(Debug)]
pub(super) struct HeadScan {
    seen: usize,
    line_start: usize,
    first_line_done: bool,
}

impl HeadScan {
    pub(super) const fn new() -> Self {
        Self {
            seen: 0,
            line_start: 0,
            first_line_done: false,
        }
    }

    /// Looks at what is new in `bytes`, which begins with the head; gives the length of the head
    /// once its empty line is there.
    pub(super) fn scan(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Bad> {
        loop {
            let new = bytes.get(self.seen..).unwrap_or_default();
            let after_cr = self.seen > 0 && bytes.get(self.seen - 1) == Some(&b'\r');
            let plain = if after_cr { 0 } else { plain_run(new) };
            if plain > 0 {
                self.seen += plain;
                self.check_room(bytes, limits)?;
            }
            let Some(byte) = new.get(plain) else {
                return Ok(None);
            };
            self.seen += 1;
            match (byte, after_cr) {
                (b'\n', true) => {
                    if let Some(length) = self.line(bytes, limits)? {
                        return Ok(Some(length));
                    }
                }
                (b'\n', false) | (_, true) => return Err(Bad::Ending),
                (0, _) => return Err(Bad::Control),
                _ => self.check_room(bytes, limits)?,
            }
        }
    }

    /// A line is complete: `seen` stands behind its LF.
    fn line(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Bad> {
        let line = bytes
            .get(self.line_start..self.seen - 2)
            .unwrap_or_default();
        self.line_start = self.seen;
        if !self.first_line_done {
            RequestLine::parse(line, limits)?;
            self.first_line_done = true;
            return Ok(None);
        }
        if self.seen > limits.head_bytes {
            return Err(Bad::HeadTooLarge);
        }
        Ok(line.is_empty().then_some(self.seen))
    }

    /// Whether what was seen of a line fits. Of two limits the one that comes first is told.
    fn check_room(&self, bytes: &[u8], limits: &Limits) -> Result<(), Bad> {
        if !self.first_line_done {
            return check_request_line_so_far(bytes, self.seen - self.line_start, limits);
        }
        let (field, head) = (self.line_start + limits.field_bytes + 2, limits.head_bytes);
        if self.seen <= field.min(head) {
            return Ok(());
        }
        Err(if field <= head {
            Bad::FieldTooLarge
        } else {
            Bad::HeadTooLarge
        })
    }
}

/// How many bytes come before one that ends a line or must not be there.
fn plain_run(bytes: &[u8]) -> usize {
    let special = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
    bytes.iter().position(special).unwrap_or(bytes.len())
}

fn check_request_line_so_far(bytes: &[u8], length: usize, limits: &Limits) -> Result<(), Bad> {
    let so_far = bytes
        .get(..length.min(METHOD_BYTES + 1))
        .unwrap_or_default();
    let method = so_far
        .split(|byte| *byte == b' ')
        .next()
        .unwrap_or_default();
    if method.len() > METHOD_BYTES || !method.iter().all(|byte| is_token(*byte) || *byte == b'\r') {
        return Err(Bad::Line);
    }
    if length > METHOD_BYTES + limits.target_bytes + " HTTP/1.1 ".len() {
        return Err(Bad::TargetTooLong);
    }
    Ok(())
}

/// Checks a whole head, from the request line to the empty line.
///
/// # Errors
/// The first [`Bad`] thing in it. Bytes after the empty line are not looked at; a head without one
/// is [`Bad::Line`].
pub fn validate_head(raw: &[u8], limits: &Limits) -> Result<HeadShape, Bad> {
    let length = HeadScan::new().scan(raw, limits)?.ok_or(Bad::Line)?;
    validate_scanned(raw, length, limits)
}

/// As [`validate_head`], for a head that [`HeadScan`] has found the end of.
pub(super) fn validate_scanned(
    raw: &[u8],
    length: usize,
    limits: &Limits,
) -> Result<HeadShape, Bad> {
    let mut lines = Lines(raw.get(..length).unwrap_or_default());
    let line = RequestLine::parse(lines.next().ok_or(Bad::Line)?, limits)?;
    let mut facts = Facts::default();
    for text in lines.take_while(|text| !text.is_empty()) {
        facts.count += 1;
        if facts.count > limits.fields {
            return Err(Bad::TooManyFields);
        }
        if text.len() > limits.field_bytes {
            return Err(Bad::FieldTooLarge);
        }
        facts.note(Field::parse(text)?)?;
    }
    facts.check_host(&line)?;
    let framing = facts.framing(&line)?;
    Ok(HeadShape {
        length,
        framing,
        upgrade: facts.upgrade(&line, framing)?,
    })
}

/// The lines of a head whose line ends are known to be CR LF.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let line = self.0.get(..end.checked_sub(1)?)?;
        self.0 = self.0.get(end + 1..)?;
        Some(line)
    }
}

/// The request line (RFC 9112 §3).
struct RequestLine<'a> {
    method: &'a [u8],
    /// Of a target in absolute form.
    authority: Option<&'a [u8]>,
    version_one_one: bool,
}

impl<'a> RequestLine<'a> {
    fn parse(line: &'a [u8], limits: &Limits) -> Result<Self, Bad> {
        let mut parts = line.split(|byte| *byte == b' ');
        let (method, target, version) = (parts.next(), parts.next(), parts.next());
        let method = method.unwrap_or_default();
        if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) || parts.next().is_some()
        {
            return Err(Bad::Line);
        }
        let target = target
            .filter(|target| !target.is_empty())
            .ok_or(Bad::Line)?;
        let version_one_one = check_version(version.ok_or(Bad::Version)?)?;
        if !METHODS.iter().any(|known| known.as_bytes() == method) {
            return Err(Bad::Method);
        }
        if target.len() > limits.target_bytes {
            return Err(Bad::TargetTooLong);
        }
        let authority = check_target(target, method)?;
        Ok(Self {
            method,
            authority,
            version_one_one,
        })
    }
}

fn check_version(version: &[u8]) -> Result<bool, Bad> {
    match version {
        b"HTTP/1.1" => Ok(true),
        b"HTTP/1.0" => Ok(false),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Bad::Version)
        }
        _ => Err(Bad::Line),
    }
}

/// Gives the authority of a target in absolute form.
fn check_target<'a>(target: &'a [u8], method: &[u8]) -> Result<Option<&'a [u8]>, Bad> {
    if target == b"*" {
        return if method == b"OPTIONS" {
            Ok(None)
        } else {
            Err(Bad::Target)
        };
    }
    let (authority, rest) = split_target(target)?;
    let path = rest.split(|byte| *byte == b'?').next().unwrap_or_default();
    let strange = |byte: &u8| !byte.is_ascii_graphic() || matches!(byte, b'#' | b'<' | b'>');
    if rest.iter().any(strange) || path.contains(&b'\\') {
        return Err(Bad::Target);
    }
    // hyper will read it with this parser: what it cannot read must not get that far.
    http::Uri::try_from(target).map_err(|_unreadable| Bad::Target)?;
    Ok(authority)
}

fn split_target(target: &[u8]) -> Result<(Option<&[u8]>, &[u8]), Bad> {
    if target.first() == Some(&b'/') {
        return Ok((None, target));
    }
    let colon = target
        .iter()
        .position(|byte| *byte == b':')
        .ok_or(Bad::Target)?;
    let (scheme, rest) = target.split_at(colon);
    let known = scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https");
    let rest = rest
        .strip_prefix(b"://")
        .filter(|_| known)
        .ok_or(Bad::Target)?;
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() {
        Err(Bad::Target)
    } else {
        Ok((Some(authority), path))
    }
}

/// What the fields say about routing and framing.
#[derive(Default)]
struct Facts<'a> {
    count: usize,
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    websocket: bool,
    connection_upgrade: bool,
    expect: bool,
}

impl<'a> Facts<'a> {
    fn note(&mut self, field: Field<'a>) -> Result<(), Bad> {
        if field.is("host") {
            return set_once(&mut self.host, field.value, Bad::Host);
        }
        if field.is("content-length") {
            return set_once(&mut self.length, parse_length(field.value)?, Bad::Length);
        }
        if field.is("transfer-encoding") {
            let chunked = field.value.eq_ignore_ascii_case(b"chunked");
            return set_flag(&mut self.chunked, chunked, Bad::Encoding);
        }
        if field.is("connection") {
            return self.note_connection(field);
        }
        if field.is("upgrade") {
            let websocket = field.value.eq_ignore_ascii_case(b"websocket");
            return set_flag(&mut self.websocket, websocket, Bad::Upgrade);
        }
        if field.is("expect") {
            let asks = field.value.eq_ignore_ascii_case(b"100-continue");
            return set_flag(&mut self.expect, asks, Bad::Expect);
        }
        if field.is("http2-settings") {
            Err(Bad::Upgrade)
        } else {
            Ok(())
        }
    }

    fn note_connection(&mut self, field: Field<'a>) -> Result<(), Bad> {
        const MUST_STAY: [&str; 3] = ["host", "content-length", "transfer-encoding"];
        for member in field.members() {
            if MUST_STAY
                .iter()
                .any(|name| member.eq_ignore_ascii_case(name.as_bytes()))
            {
                return Err(Bad::Connection);
            }
            self.connection_upgrade |= member.eq_ignore_ascii_case(b"upgrade");
        }
        Ok(())
    }

    fn check_host(&self, line: &RequestLine<'_>) -> Result<(), Bad> {
        let host = parse_host(self.host.ok_or(Bad::Host)?).ok_or(Bad::Host)?;
        match line.authority {
            Some(authority) if parse_host(authority) != Some(host) => Err(Bad::HostMismatch),
            _ => Ok(()),
        }
    }

    fn framing(&self, line: &RequestLine<'_>) -> Result<Framing, Bad> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Bad::LengthAndEncoding),
            (None, true) if !line.version_one_one => Err(Bad::Encoding),
            (None, true) => Ok(Framing::Chunked),
            (None | Some(0), false) => Ok(Framing::None),
            (Some(length), false) => Ok(Framing::Length(length)),
        }
    }

    fn upgrade(&self, line: &RequestLine<'_>, framing: Framing) -> Result<bool, Bad> {
        let proper = line.method == b"GET"
            && line.version_one_one
            && self.connection_upgrade
            && framing == Framing::None;
        if self.websocket && !proper {
            Err(Bad::Upgrade)
        } else {
            Ok(self.websocket)
        }
    }
}

fn parse_host(bytes: &[u8]) -> Option<Host> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn set_once<T>(place: &mut Option<T>, value: T, twice: Bad) -> Result<(), Bad> {
    if place.replace(value).is_some() {
        Err(twice)
    } else {
        Ok(())
    }
}

fn set_flag(place: &mut bool, good: bool, bad: Bad) -> Result<(), Bad> {
    if *place || !good {
        return Err(bad);
    }
    *place = true;
    Ok(())
}

/// Digits only, without a sign or leading zeros, and small enough for any signed counter.
fn parse_length(value: &[u8]) -> Result<u64, Bad> {
    let plain = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let padded = value.len() > 1 && value.first() == Some(&b'0');
    let text = std::str::from_utf8(value).map_err(|_not_text| Bad::Length)?;
    let length: u64 = text.parse().map_err(|_not_a_number| Bad::Length)?;
    if plain && !padded && i64::try_from(length).is_ok() {
        Ok(length)
    } else {
        Err(Bad::Length)
    }
}
