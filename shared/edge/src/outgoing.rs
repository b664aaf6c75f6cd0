//! A canonical request as a session gets it.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{Method, Request, Uri, Version};
use sallyport_wire::message::Protocol;

use crate::path::Path;
use crate::request::{Canonical, Framing};

/// The head of a request to a session: written anew from the canonical value, never copied from what the client sent.
/// `prefix` is what was taken off the path.
///
/// # Errors
/// `None` only if a checked value did not fit a header or URI after all.
pub(crate) fn head(
    request: &Canonical,
    protocol: Protocol,
    path: &Path,
    prefix: Option<&str>,
    request_id: &str,
) -> Option<Parts> {
    let mut headers = request.headers.clone();
    request
        .origin
        .write(&mut headers, &request.host, prefix, request_id);
    let (version, uri) = match protocol {
        Protocol::H2c => {
            write_two(request, &mut headers);
            (
                Version::HTTP_2,
                format!("http://{}{}", request.host.as_str(), path.target())
                    .parse::<Uri>()
                    .ok()?,
            )
        }
        Protocol::Http | Protocol::Vnc | Protocol::Tcp | Protocol::Tls | Protocol::Udp => {
            headers.insert(HOST, HeaderValue::from_str(request.host.as_str()).ok()?);
            write_one(request, &mut headers);
            (Version::HTTP_11, path.target().parse::<Uri>().ok()?)
        }
    };
    let mut parts = Request::new(()).into_parts().0;
    parts.method = request.method.clone();
    parts.version = version;
    parts.uri = uri;
    parts.headers = headers;
    Some(parts)
}

fn write_two(request: &Canonical, headers: &mut HeaderMap) {
    headers.remove(EXPECT);
    write_length(request, headers);
    write_trailer_names(request, headers);
    if request.takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Framing and trailers are this hop's own (RFC 9112 §6, RFC 9110 §6.5).
fn write_one(request: &Canonical, headers: &mut HeaderMap) {
    write_length(request, headers);
    if request.body == Framing::Open {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        write_trailer_names(request, headers);
    }
    if request.takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

fn write_length(request: &Canonical, headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    let expected = matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
    match request.body {
        Framing::Length(length) => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(length))),
        // Without it some programs answer 411 (RFC 9110 §8.6).
        Framing::None if expected => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(0))),
        Framing::None | Framing::Open => {}
    }
}

fn write_trailer_names(request: &Canonical, headers: &mut HeaderMap) {
    let names: Vec<&str> = request.trailers.iter().map(HeaderName::as_str).collect();
    if !names.is_empty()
        && let Ok(value) = HeaderValue::try_from(names.join(", "))
    {
        headers.insert(TRAILER, value);
    }
}
