//! One request as one canonical value, which is what gets routed, logged and sent on.

use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, TE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Version};

use crate::affinity::{self, Shown};
use crate::credential::{self, Credential};
use crate::fields::{self, list_items, single};
use crate::forwarded::Origin;
use crate::host::{Host, HostName};
use crate::path::Path;
use crate::websocket::{self, Handshake, HandshakeError};
use crate::{ClientInfo, Limits};

/// A request that can be read in one way only. Its headers are those that belong to the session: end-to-end fields of
/// the client, without our credentials and without what only we may say.
#[derive(Debug, Clone)]
pub struct Canonical {
    /// The method; of an extended CONNECT (RFC 8441) it is GET.
    pub method: Method,
    /// The host that was asked for.
    pub host: Host,
    /// Path and query.
    pub path: Path,
    /// The client's end-to-end header fields.
    pub headers: HeaderMap,
    /// Where the request came from.
    pub origin: Origin,
    /// What the client shows to be let in.
    pub credential: Credential,
    /// What the client shows to meet the same member of a pool again.
    pub affinity: Shown,
    /// How long the body is.
    pub body: Framing,
    /// Names that the client announced for its trailers.
    pub trailers: Vec<HeaderName>,
    /// Whether the client takes trailers after the answer.
    pub takes_trailers: bool,
    /// Whether the client waits for `100 Continue` (RFC 9110 §10.1.1).
    pub expects: bool,
    /// The WebSocket that the client asks for.
    pub websocket: Option<Handshake>,
}

/// How long a request's body is (RFC 9112 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// That many bytes.
    Length(u64),
    /// As many as come: chunked, or HTTP/2 without `content-length`.
    Open,
}

/// A request that is refused before it is routed. The texts are for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Malformed, or open to two readings.
    #[error("{0}")]
    Malformed(&'static str),
    /// A method that a reverse proxy does not serve.
    #[error("the method is CONNECT or TRACE")]
    Method,
    /// The header fields exceed a limit.
    #[error("too many or too large header fields")]
    TooLarge,
    /// The name belongs to another connection (RFC 9110 §7.4).
    #[error("the host differs from the name of the TLS handshake")]
    Misdirected,
    /// A WebSocket of another version than 13 (RFC 6455 §4.4).
    #[error("the WebSocket version is not 13")]
    WebSocketVersion,
    /// An extended CONNECT for something that is not `websocket`.
    #[error("the protocol of an extended CONNECT is not websocket")]
    Protocol,
}

impl From<HandshakeError> for RequestError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Malformed(why) => Self::Malformed(why),
            HandshakeError::Version => Self::WebSocketVersion,
        }
    }
}

impl Canonical {
    /// Checks a request that hyper has parsed and puts it in canonical form. `bodiless` says whether its message ended
    /// with its head.
    ///
    /// # Errors
    /// [`RequestError`]; nothing of the request may then reach a session.
    pub fn from_head(
        head: &Parts,
        bodiless: bool,
        client: &ClientInfo,
        limits: &Limits,
    ) -> Result<Self, RequestError> {
        let extended = extended_connect(head)?;
        if head.method == Method::TRACE || head.method == Method::CONNECT && !extended {
            return Err(RequestError::Method);
        }
        let mut headers = head.headers.clone();
        fields::join_cookies(&mut headers);
        check_fields(head.version, &headers, limits)?;
        let host = host(head, client)?;
        let path = path(head, limits)?;
        let body = framing(head, bodiless)?;
        let websocket = websocket::asked(head, extended, body == Framing::None || extended)?;
        let credential = credential::take(&mut headers)
            .map_err(|_bad| RequestError::Malformed("the credential is too long or not ASCII"))?;
        let affinity = affinity::take(&mut headers);
        let trailers = fields::trailer_names(&headers);
        let takes_trailers = head.version == Version::HTTP_2
            || list_items(&headers, &TE).any(|item| item.eq_ignore_ascii_case("trailers"));
        let expects = take_expect(&mut headers, head.version, body)?;
        fields::strip_request(&mut headers);
        Ok(Self {
            method: if extended {
                Method::GET
            } else {
                head.method.clone()
            },
            host,
            path,
            headers,
            origin: Origin::of(head, client).map_err(|_unreadable| {
                RequestError::Malformed("the client's address is unreadable")
            })?,
            credential,
            affinity,
            body,
            trailers,
            takes_trailers,
            expects,
            websocket,
        })
    }
}

/// Whether this is an extended CONNECT (RFC 8441 §4) for a WebSocket.
fn extended_connect(head: &Parts) -> Result<bool, RequestError> {
    match head.extensions.get::<hyper::ext::Protocol>() {
        None => Ok(false),
        Some(protocol) if head.method == Method::CONNECT && protocol.as_str() == "websocket" => {
            Ok(true)
        }
        Some(_) => Err(RequestError::Protocol),
    }
}

fn check_fields(
    version: Version,
    headers: &HeaderMap,
    limits: &Limits,
) -> Result<(), RequestError> {
    let mut bytes = 0;
    for (name, value) in headers {
        let field = name.as_str().len() + value.len();
        bytes += field;
        if field > limits.field_bytes {
            return Err(RequestError::TooLarge);
        }
        if name.as_str().contains('_') {
            return Err(RequestError::Malformed(
                "an underscore in a field's name, which many programs take for a hyphen",
            ));
        }
        if value.as_bytes().trim_ascii().len() != value.len() {
            return Err(RequestError::Malformed(
                "a field's value has space around it",
            ));
        }
    }
    if headers.len() > limits.fields || bytes > limits.head_bytes {
        return Err(RequestError::TooLarge);
    }
    if version == Version::HTTP_2 {
        check_http2(headers)?;
    }
    Ok(())
}

/// Fields that HTTP/2 does not have (RFC 9113 §8.2.2).
fn check_http2(headers: &HeaderMap) -> Result<(), RequestError> {
    let foreign = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ];
    if foreign.iter().any(|name| headers.contains_key(*name)) {
        return Err(RequestError::Malformed("a field of HTTP/1.1 in HTTP/2"));
    }
    if headers
        .get_all(TE)
        .iter()
        .any(|value| value.as_bytes() != b"trailers")
    {
        return Err(RequestError::Malformed(
            "TE is more than trailers in HTTP/2",
        ));
    }
    Ok(())
}

/// The one host that all places name: `Host`, `:authority` or the absolute form, and the TLS handshake.
fn host(head: &Parts, client: &ClientInfo) -> Result<Host, RequestError> {
    let malformed = RequestError::Malformed;
    let field =
        single(&head.headers, &HOST).map_err(|_several| malformed("several Host fields"))?;
    let field = match field {
        Some(value) => {
            let text = value
                .to_str()
                .map_err(|_| malformed("the Host is not ASCII"))?;
            Some(
                text.parse::<Host>()
                    .map_err(|_| malformed("the Host is no host"))?,
            )
        }
        None => None,
    };
    if head
        .uri
        .scheme_str()
        .is_some_and(|scheme| scheme != "https" && scheme != "http")
    {
        return Err(malformed("the scheme is neither https nor http"));
    }
    let authority = match head.uri.authority() {
        Some(authority) => Some(
            authority
                .as_str()
                .parse::<Host>()
                .map_err(|_| malformed("the authority is no host"))?,
        ),
        None => None,
    };
    let host = match (field, authority) {
        (Some(field), Some(authority)) if field != authority => {
            return Err(malformed("Host and authority differ"));
        }
        (Some(host), _) => host,
        (None, Some(host)) if head.version == Version::HTTP_2 => host,
        (None, _) => return Err(malformed("no Host")),
    };
    match &client.sni {
        Some(sni) if *host.name() != HostName::Dns(sni.clone()) => Err(RequestError::Misdirected),
        _ => Ok(host),
    }
}

fn path(head: &Parts, limits: &Limits) -> Result<Path, RequestError> {
    let target = head
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    if target.len() > limits.target_bytes {
        return Err(RequestError::TooLarge);
    }
    Path::parse(target).map_err(|error| RequestError::Malformed(error.why()))
}

fn framing(head: &Parts, bodiless: bool) -> Result<Framing, RequestError> {
    let malformed = RequestError::Malformed;
    let length = single(&head.headers, &CONTENT_LENGTH)
        .map_err(|_several| malformed("several Content-Length"))?;
    let coding = single(&head.headers, &TRANSFER_ENCODING)
        .map_err(|_several| malformed("several Transfer-Encoding"))?;
    match (length, coding) {
        (Some(_), Some(_)) => Err(malformed("Content-Length and Transfer-Encoding")),
        (None, Some(coding)) => {
            let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && head.version == Version::HTTP_11;
            if chunked {
                Ok(Framing::Open)
            } else {
                Err(malformed("a Transfer-Encoding that is not chunked"))
            }
        }
        (Some(length), None) => {
            let digits = length
                .to_str()
                .ok()
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            digits
                .and_then(|text| text.parse().ok())
                .map(Framing::Length)
                .ok_or_else(|| malformed("a Content-Length that is no number"))
        }
        (None, None) if bodiless || head.version != Version::HTTP_2 => Ok(Framing::None),
        (None, None) => Ok(Framing::Open),
    }
}

fn take_expect(
    headers: &mut HeaderMap,
    version: Version,
    body: Framing,
) -> Result<bool, RequestError> {
    let waits = match single(headers, &EXPECT) {
        Ok(None) => false,
        Ok(Some(value)) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => true,
        Ok(Some(_)) | Err(()) => {
            return Err(RequestError::Malformed(
                "an Expect that is not 100-continue",
            ));
        }
    };
    let expects =
        waits && version != Version::HTTP_10 && !matches!(body, Framing::None | Framing::Length(0));
    if !expects {
        headers.remove(EXPECT);
    }
    Ok(expects)
}
