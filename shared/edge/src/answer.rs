//! What of a session's answer reaches the client.
//!
//! A session may speak for itself and for nobody else: not for the domain above it, not for other sessions, and not
//! for the gateway. `Location` is left alone: a session whose prefix is taken off learns it from `X-Forwarded-Prefix` and
//! has to use it.

use std::borrow::Cow;

use http::header::{
    ALT_SVC, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SET_COOKIE,
    STRICT_TRANSPORT_SECURITY, TRANSFER_ENCODING,
};
use http::{StatusCode, response};

use crate::{affinity, cookies, credential, fields};

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
const SERVICE_WORKER_ALLOWED: HeaderName = HeaderName::from_static("service-worker-allowed");
const PUBLIC_KEY_PINS: HeaderName = HeaderName::from_static("public-key-pins");

/// What a session may clear that is its origin's own; cookies are shared with other hosts of the domain
/// (Clear Site Data §3.1).
const CLEARABLE: [&str; 3] = ["\"cache\"", "\"storage\"", "\"executionContexts\""];

/// An answer that is malformed or would mislead the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadAnswer(&'static str);

/// Checks an answer's head and removes what the session may not say. `prefix` is the path below which the session
/// lives on an origin that it shares; none if its origin is its own.
pub(crate) fn filter(head: &mut response::Parts, prefix: Option<&str>) -> Result<(), BadAnswer> {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(BadAnswer(
            "the session switched protocols without being asked",
        ));
    }
    if head.headers.contains_key(CONTENT_LENGTH) && head.headers.contains_key(TRANSFER_ENCODING) {
        return Err(BadAnswer(
            "the session's answer has Content-Length and Transfer-Encoding",
        ));
    }
    filter_fields(&mut head.headers, prefix);
    Ok(())
}

/// The part of [`filter`] that also holds for the answer to an upgrade.
pub(crate) fn filter_fields(headers: &mut HeaderMap, prefix: Option<&str>) {
    fields::strip_answer(headers);
    headers.remove(ALT_SVC);
    headers.remove(PUBLIC_KEY_PINS);
    filter_cookies(headers, prefix);
    filter_security(headers, prefix.is_some());
    filter_clearing(headers, prefix.is_some());
    filter_workers(headers, prefix);
}

/// Cookies are for the answering host alone, there for what is below `prefix`, and never ours.
fn filter_cookies(headers: &mut HeaderMap, prefix: Option<&str>) {
    let given: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().cloned().collect();
    headers.remove(SET_COOKIE);
    for cookie in given {
        let mut parts = cookie.as_bytes().split(|byte| *byte == b';');
        let pair = parts.next().unwrap_or_default();
        if is_ours(cookies::name_sent_back(pair)) {
            continue;
        }
        let is_domain = |part: &[u8]| cookies::name_of(part).eq_ignore_ascii_case(b"domain");
        let moved = |part: &[u8]| prefix.and_then(|prefix| below(prefix, part));
        if !parts
            .clone()
            .any(|part| is_domain(part) || moved(part).is_some())
        {
            headers.append(SET_COOKIE, cookie);
            continue;
        }
        let kept: Vec<Cow<'_, [u8]>> = std::iter::once(pair.into())
            .chain(
                parts
                    .filter(|part| !is_domain(part))
                    .map(|part| moved(part).map_or(Cow::Borrowed(part), Cow::Owned)),
            )
            .collect();
        if let Ok(cookie) = HeaderValue::from_bytes(&kept.join(&b';')) {
            headers.append(SET_COOKIE, cookie);
        }
    }
}

fn is_ours(name: &[u8]) -> bool {
    credential::is_our_name(name) || affinity::is_our_name(name)
}

/// The attribute in place of a `Path` that leads outside `prefix`. One that is no path means the folder of the request
/// (RFC 6265 §5.2.4), which is inside.
fn below(prefix: &str, attribute: &[u8]) -> Option<Vec<u8>> {
    let equals = attribute.iter().position(|byte| *byte == b'=')?;
    let (name, value) = attribute.split_at_checked(equals)?;
    let path = value.get(1..)?.trim_ascii();
    if !name.trim_ascii().eq_ignore_ascii_case(b"path") || !path.starts_with(b"/") {
        return None;
    }
    let inside = path.strip_prefix(prefix.as_bytes());
    if inside.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")) {
        return None;
    }
    Some([b" Path=", prefix.as_bytes(), path].concat())
}

/// HSTS (RFC 6797) is the gateway's on a shared origin; on an origin of its own a session speaks without its
/// subdomains.
fn filter_security(headers: &mut HeaderMap, shared: bool) {
    let Some(given) = headers
        .remove(STRICT_TRANSPORT_SECURITY)
        .filter(|_| !shared)
    else {
        return;
    };
    let kept: Vec<&str> = given
        .to_str()
        .unwrap_or_default()
        .split(';')
        .map(str::trim)
        .filter(|part| part.len() >= "max-age".len())
        .filter(|part| {
            part.split('=')
                .next()
                .is_some_and(|name| name.trim().eq_ignore_ascii_case("max-age"))
        })
        .collect();
    if let [age] = kept.as_slice()
        && let Ok(value) = HeaderValue::from_str(age)
    {
        headers.insert(STRICT_TRANSPORT_SECURITY, value);
    }
}

fn filter_clearing(headers: &mut HeaderMap, shared: bool) {
    let kept: Vec<&str> = fields::list_items(headers, &CLEAR_SITE_DATA)
        .filter(|item| !shared && CLEARABLE.contains(item))
        .collect();
    let value = HeaderValue::from_str(&kept.join(", "))
        .ok()
        .filter(|_| !kept.is_empty());
    headers.remove(CLEAR_SITE_DATA);
    if let Some(value) = value {
        headers.insert(CLEAR_SITE_DATA, value);
    }
}

/// A service worker stays below the session's prefix (Service Workers §7).
fn filter_workers(headers: &mut HeaderMap, prefix: Option<&str>) {
    let Some(prefix) = prefix else {
        return;
    };
    let inside = |value: &HeaderValue| {
        let scope = value.to_str().unwrap_or_default();
        let rest = scope
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix('/'));
        rest.is_some_and(|rest| {
            !rest.contains(['\\', '%']) && rest.split('/').all(|part| part != "..")
        })
    };
    if !headers.get_all(&SERVICE_WORKER_ALLOWED).iter().all(inside) {
        headers.remove(SERVICE_WORKER_ALLOWED);
    }
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    const PATH: Option<&str> = Some("/s/web");
    const HOST: Option<&str> = None;

    fn filtered(mode: Option<&str>, name: &'static str, value: &'static str) -> Vec<String> {
        let mut head = Response::builder()
            .header(name, value)
            .body(())
            .expect("a response")
            .into_parts()
            .0;
        filter(&mut head, mode).expect("an answer");
        head.headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().expect("text").to_owned())
            .collect()
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "it is a table")]
    fn a_session_speaks_for_itself_only() {
        for (mode, name, given, kept) in [
            (
                PATH,
                "set-cookie",
                "a=1; Path=/; Secure",
                Some("a=1; Path=/s/web/; Secure"),
            ),
            (
                PATH,
                "set-cookie",
                "a=1; Domain=x; path = /s/keep ; Path=/s/webx",
                Some("a=1; Path=/s/web/s/keep; Path=/s/web/s/webx"),
            ),
            (
                PATH,
                "set-cookie",
                "a=1;Path=/s/web",
                Some("a=1;Path=/s/web"),
            ),
            (
                PATH,
                "set-cookie",
                "a=1; Path=/s/web/app; HttpOnly",
                Some("a=1; Path=/s/web/app; HttpOnly"),
            ),
            (
                PATH,
                "set-cookie",
                "a=1; Path=; Path",
                Some("a=1; Path=; Path"),
            ),
            (HOST, "set-cookie", "a=1; Path=/", Some("a=1; Path=/")),
            (
                HOST,
                "set-cookie",
                "a=1; Domain=example.org; Path=/",
                Some("a=1; Path=/"),
            ),
            (HOST, "set-cookie", "a=1;domain = .example.org", Some("a=1")),
            (
                HOST,
                "set-cookie",
                "__Host-sallyport=x; Secure; Path=/",
                None,
            ),
            (PATH, "set-cookie", " __HOST-Sallyport =x", None),
            (
                HOST,
                "set-cookie",
                "=__Host-sallyport=x; Secure; Path=/",
                None,
            ),
            (
                PATH,
                "set-cookie",
                "__Secure-sallyport-pool=x; Secure",
                None,
            ),
            (
                HOST,
                "set-cookie",
                "= =__host-Sallyport-pool=x; Path=/",
                None,
            ),
            (
                HOST,
                "set-cookie",
                "=nameless; Path=/",
                Some("=nameless; Path=/"),
            ),
            (
                HOST,
                "strict-transport-security",
                "max-age=9; includeSubDomains; preload",
                Some("max-age=9"),
            ),
            (PATH, "strict-transport-security", "max-age=0", None),
            (HOST, "strict-transport-security", "includeSubDomains", None),
            (
                HOST,
                "clear-site-data",
                "\"cache\", \"cookies\", \"storage\"",
                Some("\"cache\", \"storage\""),
            ),
            (HOST, "clear-site-data", "\"*\"", None),
            (PATH, "clear-site-data", "\"cache\"", None),
            (PATH, "service-worker-allowed", "/", None),
            (PATH, "service-worker-allowed", "/s/webx/", None),
            (PATH, "service-worker-allowed", "/s/web/../other/", None),
            (PATH, "service-worker-allowed", "/s/web/%2e%2e/", None),
            (
                PATH,
                "service-worker-allowed",
                "/s/web/app/",
                Some("/s/web/app/"),
            ),
            (HOST, "service-worker-allowed", "/", Some("/")),
            (HOST, "alt-svc", "h3=\":443\"", None),
            (HOST, "proxy-authenticate", "Basic", None),
            (HOST, "keep-alive", "timeout=5", None),
            (
                HOST,
                "location",
                "https://elsewhere.example/",
                Some("https://elsewhere.example/"),
            ),
            (HOST, "server", "app/1", Some("app/1")),
        ] {
            let expected: Vec<String> = kept.into_iter().map(str::to_owned).collect();
            assert_eq!(
                filtered(mode, name, given),
                expected,
                "{mode:?} {name}: {given}"
            );
        }
    }

    #[test]
    fn a_misleading_answer_is_refused() {
        let both = Response::builder()
            .header("content-length", "3")
            .header("transfer-encoding", "chunked")
            .body(())
            .expect("a response");
        assert!(filter(&mut both.into_parts().0, PATH).is_err());

        let switched = Response::builder()
            .status(101)
            .body(())
            .expect("a response");
        assert!(filter(&mut switched.into_parts().0, PATH).is_err());
    }
}
