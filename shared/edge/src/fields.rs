//! Header fields: which belong to one hop, which only we may set, and which may come after a body.

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http_body::Frame;

/// Fields of one hop (RFC 9110 §7.6.1), and what HTTP/1.1 upgrades to HTTP/2 used (RFC 7540 §3.2.1).
const HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Beginnings of names that only a gateway may set; a client's are dropped.
const OURS: [&str; 5] = [
    "x-forwarded-",
    "x-sallyport-",
    "x-gw-",
    "x-envoy-",
    "proxy-",
];

/// Names that only a gateway may set.
const OURS_WHOLE: [&str; 8] = [
    "forwarded",
    "via",
    "x-real-ip",
    "x-request-id",
    "x-client-ip",
    "x-original-url",
    "x-rewrite-url",
    "x-original-host",
];

/// Fields that would change the meaning of a message if they came after its body (RFC 9110 §6.5.1).
const NEVER_LAST: [HeaderName; 13] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    COOKIE,
    EXPECT,
    HOST,
    MAX_FORWARDS,
    SET_COOKIE,
    HeaderName::from_static("age"),
    HeaderName::from_static("location"),
];

/// The members of a comma-separated field, over all its lines, trimmed and without the empty ones.
pub(crate) fn list_items<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// The only value of a field; none if it is absent, `Err` if there are several.
pub(crate) fn single<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'h HeaderValue>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(()),
    }
}

/// Puts cookies that HTTP/2 split over several lines into one (RFC 9113 §8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// The names in `Trailer` that may really come after a body.
pub(crate) fn trailer_names(headers: &HeaderMap) -> Vec<HeaderName> {
    list_items(headers, &TRAILER)
        .filter_map(|item| HeaderName::from_bytes(item.as_bytes()).ok())
        .filter(may_be_last)
        .collect()
}

/// A frame of a body as it goes on: its bytes are counted, and what may not be in trailers is gone.
pub(crate) fn onward(frame: Frame<Bytes>, count: impl FnOnce(usize)) -> Frame<Bytes> {
    match frame.into_data() {
        Ok(data) => {
            count(data.len());
            Frame::data(data)
        }
        Err(other) => other.into_trailers().map_or_else(
            |other| other,
            |mut trailers| {
                strip_trailers(&mut trailers);
                Frame::trailers(trailers)
            },
        ),
    }
}

/// Removes from trailers what may not be there: framing, routing, credentials, and what only we may set.
fn strip_trailers(trailers: &mut HeaderMap) {
    retain(trailers, may_be_last);
}

fn may_be_last(name: &HeaderName) -> bool {
    !NEVER_LAST.contains(name) && !HOP_BY_HOP.contains(name) && !is_ours(name)
}

/// Removes the fields of this hop, those that `Connection` names, and `others`.
fn strip_hop_by_hop(headers: &mut HeaderMap, others: impl Fn(&HeaderName) -> bool) {
    let named: Vec<HeaderName> = list_items(headers, &CONNECTION)
        .filter_map(|item| HeaderName::from_bytes(item.as_bytes()).ok())
        .collect();
    retain(headers, |name| {
        !HOP_BY_HOP.contains(name) && !named.contains(name) && !others(name)
    });
}

/// Removes from a client's request all that is not for the session: the fields of this hop, `Host`, and what only we
/// may set. None of these has another spelling, for a name with an underscore has been refused.
///
/// Ours are set after this, so that `Connection` cannot name them.
pub(crate) fn strip_request(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers, |name| *name == HOST || is_ours(name));
}

/// Removes from a session's answer the fields of this hop and all `Proxy-*`.
pub(crate) fn strip_answer(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers, |name| name.as_str().starts_with("proxy-"));
}

fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    OURS_WHOLE.contains(&name) || OURS.iter().any(|start| name.starts_with(start))
}

fn retain(headers: &mut HeaderMap, keep: impl Fn(&HeaderName) -> bool) {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| !keep(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_request_loses_its_hop_and_what_is_ours() {
        let mut given = headers(&[
            ("accept", "*/*"),
            ("connection", "close, X-Custom"),
            ("x-custom", "1"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-anything", "1"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("x-gw-user", "root"),
            ("x-request-id", "1"),
            ("proxy-authorization", "x"),
            ("host", "a"),
            ("http2-settings", "x"),
            ("upgrade", "h2c"),
            ("te", "trailers"),
            ("keep-alive", "5"),
            ("transfer-encoding", "chunked"),
            ("authorization", "Basic x"),
        ]);

        strip_request(&mut given);

        assert_eq!(names(&given), ["accept", "authorization"]);
    }

    #[test]
    fn crumbs_become_one_cookie() {
        let mut given = headers(&[("cookie", "a=1"), ("cookie", "b=2; c=3")]);

        join_cookies(&mut given);

        assert_eq!(
            single(&given, &COOKIE),
            Ok(Some(&HeaderValue::from_static("a=1; b=2; c=3")))
        );
    }

    #[test]
    fn trailers_cannot_smuggle() {
        let mut given = headers(&[
            ("grpc-status", "0"),
            ("content-length", "1"),
            ("transfer-encoding", "chunked"),
            ("x-forwarded-for", "6.6.6.6"),
            ("authorization", "x"),
            ("host", "x"),
        ]);
        strip_trailers(&mut given);
        assert_eq!(names(&given), ["grpc-status"]);

        let announced = headers(&[
            ("trailer", "x-sum, Content-Length"),
            ("trailer", "host,x-two,,"),
        ]);
        assert_eq!(trailer_names(&announced), ["x-sum", "x-two"]);
    }
}
