//! Parameters in a request's target, in the form of HTML forms (WHATWG URL §5).

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Parameters of a request; further ones are left out.
const MOST: usize = 64;

/// `path` with `parameters` behind it, encoded.
#[must_use]
pub fn query(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut target = path.to_owned();
    for (place, (name, value)) in parameters.iter().enumerate() {
        target.push(if place == 0 { '?' } else { '&' });
        encode(name, &mut target);
        target.push('=');
        encode(value, &mut target);
    }
    target
}

fn encode(text: &str, to: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) {
            to.push(char::from(byte));
        } else {
            // a String takes everything
            let _always_fits = write!(to, "%{byte:02X}");
        }
    }
}

pub(super) fn parse(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .take(MOST)
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after
            .first_chunk()
            .and_then(escaped_byte)
            .filter(|_| *first == b'%');
        let (byte, used) = match (first, escaped) {
            (_, Some(byte)) => (byte, 2),
            (b'+', None) => (b' ', 0),
            (other, None) => (*other, 0),
        };
        bytes.push(byte);
        rest = after.get(used..).unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn escaped_byte(digits: &[u8; 2]) -> Option<u8> {
    let digits = str::from_utf8(digits).ok()?;
    digits
        .bytes()
        .all(|digit| digit.is_ascii_hexdigit())
        .then_some(())?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameters_are_decoded_and_broken_ones_kept_as_they_are() {
        let expected = [("a", "x y&"), ("b", ""), ("c", "%zz%4"), ("d", "\u{fffd}")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));

        assert_eq!(
            parse("a=old&a=x+y%26&&b&c=%zz%4&d=%ff"),
            BTreeMap::from(expected)
        );
    }

    #[test]
    fn parameters_are_bounded() {
        let many: String = (0..MOST + 10).map(|n| format!("{n}=1&")).collect();
        assert_eq!(parse(&many).len(), MOST);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(name: String, value: String) {
            let target = query("/relays", &[("node", "n1"), (&name, &value)]);
            prop_assert!(target.parse::<http::Uri>().is_ok());
            let (path, query) = target.split_once('?').unwrap();
            prop_assert_eq!(path, "/relays");
            let parsed = parse(query);
            prop_assert_eq!(parsed.get(&name), Some(&value));
        }
    }
}
