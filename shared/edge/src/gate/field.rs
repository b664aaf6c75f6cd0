//! One header or trailer field of HTTP/1.1, read strictly.

use super::Bad;

/// A field as it stands in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) name: &'a [u8],
    /// Without the white space around it.
    pub(super) value: &'a [u8],
}

impl<'a> Field<'a> {
    /// Reads one line without its CR LF (RFC 9112 §5).
    pub(super) fn parse(line: &'a [u8]) -> Result<Self, Bad> {
        if line
            .first()
            .is_some_and(|first| matches!(first, b' ' | b'\t'))
        {
            return Err(Bad::Folded);
        }
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .ok_or(Bad::FieldName)?;
        let (name, rest) = line.split_at(colon);
        check_name(name)?;
        let value = rest.get(1..).unwrap_or_default();
        if value.iter().any(|byte| is_control(*byte)) {
            return Err(Bad::FieldValue);
        }
        Ok(Self {
            name,
            value: trim(value),
        })
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The members of a comma-separated list, without the empty ones (RFC 9110 §5.6.1).
    pub(super) fn members(&self) -> impl Iterator<Item = &'a [u8]> {
        self.value
            .split(|byte| *byte == b',')
            .map(trim)
            .filter(|member| !member.is_empty())
    }
}

fn check_name(name: &[u8]) -> Result<(), Bad> {
    if name.contains(&b'_') {
        return Err(Bad::Underscore);
    }
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(Bad::FieldName);
    }
    Ok(())
}

/// A character of a token (RFC 9110 §5.6.2).
pub(super) const fn is_token(byte: u8) -> bool {
    matches!(byte,
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`'
        | b'|' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z')
}

/// A character that no field value may have; horizontal tab may stand in one.
pub(super) const fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}
