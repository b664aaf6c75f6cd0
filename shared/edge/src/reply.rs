//! The answers that the front gives itself: static pages that reflect nothing of the request.

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, LOCATION, REFERRER_POLICY, RETRY_AFTER, SEC_WEBSOCKET_VERSION, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};
use sallyport_wire::{Code, SessionId};

use crate::fields::list_items;
use crate::forwarded::REQUEST_ID;
use crate::opener::{Denial, Page};
use crate::request::RequestError;
use crate::route::RouteError;

const STYLE: &str = include_str!("reply.css");

/// Nothing is loaded, run, framed or sent; the one style sheet is known by its hash (CSP 3 §2.3).
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// How a client wants to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Html,
    Json,
    Plain,
}

impl Format {
    /// HTML for whoever names `text/html`, JSON for whoever names `application/json` before it, else plain text.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        list_items(headers, &ACCEPT)
            .filter_map(|item| match item.split(';').next()?.trim() {
                "text/html" | "application/xhtml+xml" => Some(Self::Html),
                "application/json" => Some(Self::Json),
                _ => None,
            })
            .next()
            .unwrap_or(Self::Plain)
    }
}

/// Why a client does not get what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What the client hears.
    pub(crate) code: Code,
    /// The status, where it is not the code's own.
    pub(crate) status: Option<StatusCode>,
    /// The session, where the client may hear its name.
    pub(crate) session: Option<SessionId>,
    /// When to try again.
    pub(crate) retry_after: Option<Duration>,
    /// For the log only.
    pub(crate) cause: String,
}

impl Failure {
    pub(crate) fn new(code: Code, cause: impl Into<String>) -> Self {
        Self {
            code,
            status: None,
            session: None,
            retry_after: None,
            cause: cause.into(),
        }
    }

    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self {
            status: Some(status),
            ..self
        }
    }

    /// Names the session, unless the code says that there is none or that a stranger may not know.
    pub(crate) fn about(self, session: &SessionId) -> Self {
        let secret = matches!(
            self.code,
            Code::UnknownSession
                | Code::LoginRequired
                | Code::Unauthorised
                | Code::Forbidden
                | Code::BadRequest
        );
        Self {
            session: (!secret).then(|| session.clone()),
            ..self
        }
    }

    /// The status that the client gets.
    pub(crate) fn status(&self) -> StatusCode {
        let own = StatusCode::from_u16(self.code.status()).ok();
        self.status
            .or(own)
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn message(&self) -> String {
        match &self.session {
            Some(session) => format!("session {session}: {}", self.code.text()),
            None => self.code.text().to_owned(),
        }
    }
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Self {
        let Denial {
            code,
            session,
            retry_after,
            cause,
            way: _,
        } = denial;
        let retry_after = retry_after.or_else(|| default_retry(code));
        Self {
            code,
            status: None,
            session,
            retry_after,
            cause,
        }
    }
}

/// Refusals that pass by themselves carry a time even where nobody knows a better one.
pub(crate) fn default_retry(code: Code) -> Option<Duration> {
    matches!(
        code,
        Code::NoRelay
            | Code::HomeLost
            | Code::TunnelLost
            | Code::Draining
            | Code::Limit
            | Code::Superseded
    )
    .then_some(Duration::from_secs(5))
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let (code, status) = match error {
            RequestError::Malformed(_) => (Code::BadRequest, None),
            RequestError::Method => (Code::BadRequest, Some(StatusCode::METHOD_NOT_ALLOWED)),
            RequestError::TooLarge => (
                Code::BadRequest,
                Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            ),
            RequestError::Misdirected => (Code::Misdirected, None),
            RequestError::WebSocketVersion => {
                (Code::BadRequest, Some(StatusCode::UPGRADE_REQUIRED))
            }
            RequestError::Protocol => (Code::BadRequest, Some(StatusCode::NOT_IMPLEMENTED)),
        };
        Self {
            status,
            ..Self::new(code, error.to_string())
        }
    }
}

impl From<RouteError> for Failure {
    fn from(error: RouteError) -> Self {
        let code = match error {
            RouteError::Host => Code::Misdirected,
            RouteError::Unknown => Code::UnknownSession,
            RouteError::Ambiguous => Code::BadRequest,
        };
        Self::new(code, error.to_string())
    }
}

/// The answer that tells a client of a failure.
pub(crate) fn failure(failure: &Failure, format: Format, request_id: &str) -> Response<Bytes> {
    let status = failure.status();
    let (media, body) = match format {
        Format::Html => (
            "text/html; charset=utf-8",
            html(failure, status, request_id),
        ),
        Format::Json => ("application/json", json(failure, request_id)),
        Format::Plain => {
            let message = failure.message();
            (
                "text/plain; charset=utf-8",
                format!("{} {message}\nrequest {request_id}\n", status.as_u16()),
            )
        }
    };
    let mut response = plain(status, media, body.into());
    let headers = response.headers_mut();
    if let Some(wait) = failure.retry_after {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    match status {
        StatusCode::UNAUTHORIZED => set(headers, WWW_AUTHENTICATE, "Bearer"),
        StatusCode::METHOD_NOT_ALLOWED => set(headers, ALLOW, "GET, HEAD"),
        StatusCode::UPGRADE_REQUIRED => set(headers, SEC_WEBSOCKET_VERSION, "13"),
        _ => {}
    }
    response
}

/// A page of the front's host.
pub(crate) fn page(page: Page) -> Response<Bytes> {
    plain(page.status, page.content_type, page.body)
}

/// Sends the client to `location`, a relative reference (RFC 9110 §10.2.2), with its method kept (§15.4.9).
pub(crate) fn redirect(location: &str) -> Response<Bytes> {
    let mut response = plain(
        StatusCode::PERMANENT_REDIRECT,
        "text/plain; charset=utf-8",
        Bytes::new(),
    );
    set(response.headers_mut(), LOCATION, location);
    response
}

/// Sends a browser to `location` this time (RFC 9110 §15.4.8): what it keeps is the address that it asked for.
pub(crate) fn elsewhere(location: &str) -> Response<Bytes> {
    let mut response = plain(
        StatusCode::TEMPORARY_REDIRECT,
        "text/plain; charset=utf-8",
        Bytes::new(),
    );
    set(response.headers_mut(), LOCATION, location);
    response
}

/// What every answer of the front itself says.
pub(crate) fn guard(headers: &mut HeaderMap) {
    set(headers, CACHE_CONTROL, "no-store");
    set(headers, X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, REFERRER_POLICY, "no-referrer");
    set(headers, CONTENT_SECURITY_POLICY, &POLICY);
}

fn plain(status: StatusCode, media: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    set(headers, CONTENT_TYPE, media);
    guard(headers);
    response
}

/// Sets the request's id, so that a client can quote it.
pub(crate) fn tell_request_id(headers: &mut HeaderMap, request_id: &str) {
    set(headers, REQUEST_ID, request_id);
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// Words, session ids and request ids need no escaping.
fn json(failure: &Failure, request_id: &str) -> String {
    let session = failure.session.as_ref().map_or(String::new(), |session| {
        format!(",\"session\":\"{session}\"")
    });
    format!(
        "{{\"error\":{{\"name\":\"{}\",\"message\":\"{}\"{session}}},\"request_id\":\"{request_id}\"}}\n",
        failure.code.word(),
        failure.message(),
    )
}

fn html(failure: &Failure, status: StatusCode, request_id: &str) -> String {
    let title = status.canonical_reason().unwrap_or("Error");
    let message = failure.message();
    let number = status.as_u16();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"robots\" content=\"noindex\"><title>{number} {title}</title><style>{STYLE}</style></head>\
         <body><main><p class=\"number\">{number}</p><h1>{title}</h1><p>{message}</p>\
         <p class=\"id\">request <code>{request_id}</code></p></main></body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down() -> Failure {
        let session: SessionId = "notebook".parse().expect("an id");
        Failure {
            retry_after: Some(Duration::from_millis(1_500)),
            ..Failure::new(Code::SessionDown, "10.0.0.7:8888 refused").about(&session)
        }
    }

    fn text(response: &Response<Bytes>) -> &str {
        std::str::from_utf8(response.body()).expect("text")
    }

    #[test]
    fn each_client_is_told_in_its_own_way() {
        for (accept, format) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Html),
            ("application/json", Format::Json),
            ("application/json;q=0.9, text/html", Format::Json),
            ("*/*", Format::Plain),
            ("", Format::Plain),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(accept).expect("a value"));
            assert_eq!(Format::of(&headers), format, "{accept}");
        }
    }

    #[test]
    fn a_page_names_session_and_request_and_keeps_the_cause() {
        for format in [Format::Html, Format::Json, Format::Plain] {
            let response = failure(&down(), format, "r1");
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[RETRY_AFTER], "2");
            let text = text(&response);
            assert!(
                text.contains("notebook")
                    && text.contains("r1")
                    && text.contains("the session is down"),
                "{text}"
            );
            assert!(!text.contains("10.0.0.7"), "{text}");
        }
        let response = failure(&down(), Format::Json, "r1");
        let expected = "{\"error\":{\"name\":\"session_down\",\"message\":\"session notebook: the session is down\",\
                        \"session\":\"notebook\"},\"request_id\":\"r1\"}\n";
        assert_eq!(text(&response), expected);
    }

    #[test]
    fn strangers_hear_no_names() {
        let session: SessionId = "secret".parse().expect("an id");
        for code in [Code::UnknownSession, Code::LoginRequired, Code::Forbidden] {
            let response = failure(&Failure::new(code, "").about(&session), Format::Html, "r1");
            assert!(!text(&response).contains("secret"));
        }
        let response = failure(&Failure::new(Code::LoginRequired, ""), Format::Plain, "r1");
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
    }

    #[test]
    fn the_policy_allows_the_style_and_nothing_else() {
        let response = failure(&down(), Format::Html, "r1");
        let policy = response.headers()[CONTENT_SECURITY_POLICY]
            .to_str()
            .expect("text");
        let page = text(&response);
        let (_, rest) = page.split_once("<style>").expect("a style");
        let (style, _) = rest.split_once("</style>").expect("its end");
        let hash = STANDARD.encode(digest(&SHA256, style.as_bytes()));
        assert!(
            policy.contains(&format!("'sha256-{hash}'"))
                && policy.starts_with("default-src 'none'")
        );
        assert!(!page.contains("<script") && !page.contains("style="));
    }

    #[test]
    fn every_code_has_a_status() {
        for code in Code::ALL {
            assert_eq!(Failure::new(*code, "").status().as_u16(), code.status());
        }
    }
}
