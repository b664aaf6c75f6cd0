//! Cookies of ours among those of the sessions.

use http::header::{COOKIE, HeaderMap, HeaderValue};

/// Takes the cookies whose names are ours out of a request whose cookies stand in one line; their names and values.
pub(crate) fn take(
    headers: &mut HeaderMap,
    is_ours: impl Fn(&[u8]) -> bool,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let Some(line) = headers.get(COOKIE).cloned() else {
        return Vec::new();
    };
    let (ours, others): (Vec<&[u8]>, Vec<&[u8]>) = line
        .as_bytes()
        .split(|byte| *byte == b';')
        .partition(|pair| is_ours(name_of(pair)));
    if ours.is_empty() {
        return Vec::new();
    }
    headers.remove(COOKIE);
    let rest: Vec<&[u8]> = others
        .into_iter()
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
        .collect();
    if let Ok(rest) = HeaderValue::from_bytes(&rest.join(&b"; "[..]))
        && !rest.is_empty()
    {
        headers.insert(COOKIE, rest);
    }
    let named = |pair: &[u8]| (name_of(pair).to_vec(), value_of(pair).to_vec());
    ours.into_iter().map(named).collect()
}

/// The name of a `name=value` pair.
pub(crate) fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|byte| *byte == b'=')
        .next()
        .unwrap_or(pair)
        .trim_ascii()
}

/// The name under which a client that keeps this pair may send it back: one without a name is sent as its value alone
/// (RFC 6265bis §5.8.3), which may look like a pair.
pub(crate) fn name_sent_back(pair: &[u8]) -> &[u8] {
    let mut named = pair.trim_ascii();
    while let Some(rest) = named.strip_prefix(b"=") {
        named = rest.trim_ascii();
    }
    name_of(named)
}

fn value_of(pair: &[u8]) -> &[u8] {
    let start = pair
        .iter()
        .position(|byte| *byte == b'=')
        .map_or(pair.len(), |at| at + 1);
    pair.get(start..).unwrap_or_default().trim_ascii()
}
