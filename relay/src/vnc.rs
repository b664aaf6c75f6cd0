//! `protocol = "vnc"`: a browser speaks RFB (RFC 6143) inside a WebSocket. The relay ends the WebSocket and
//! joins it to the server's plain port; everything else gets a page that says how to connect.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sallyport_splice::{Duplex, Rewound};
use sallyport_wire::Code;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

mod frames;

use frames::Frames;

/// A request head must be there within this time; also how long a kept connection waits for its next.
const HEAD_WITHIN: Duration = Duration::from_secs(60);

/// Most bytes of a request head. The edge, which wrote it anew, allows no more.
const MAX_HEAD: usize = 64 << 10;

const PAGE: &str = "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width\"><title>A desktop is here</title>\n\
<style>:root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}</style>\n\
<h1>A desktop is here</h1>\n\
<p>This address carries a VNC desktop. Open it with a viewer that runs in the browser, such as noVNC, and give it \
this same address with <code>wss://</code> in front.</p>\n\
<p>An ordinary VNC viewer needs a TCP port of the gateway: ask your administrator for one.</p>\n</html>\n";

/// Serves the HTTP of one stream until a WebSocket was opened in it, or it ends.
///
/// `reach` connects to the RFB server when a WebSocket is asked for, so that a server that is not there is an
/// HTTP error. The WebSocket is then a stream of RFB bytes, to be joined to that connection. `None` means that
/// the client asked for nothing of the kind and has gone.
///
/// # Errors
/// If the client broke off, or its HTTP is malformed.
pub async fn opened<S, U, R>(
    io: S,
    reach: impl Fn() -> R + Send,
) -> Result<Option<(impl Duplex, U)>, hyper::Error>
where
    S: Duplex + 'static,
    U: Send,
    R: Future<Output = Result<U, Code>> + Send,
{
    let (tell, mut upgraded) = mpsc::channel(1);
    let service = service_fn(|mut request: Request<Incoming>| {
        let (tell, reached) = (
            tell.clone(),
            handshake_of(&request).map(|accept| (accept, reach())),
        );
        async move {
            let (accept, reached) = match reached {
                Ok((accept, reached)) => (accept, reached.await),
                Err(answer) => return Ok::<_, Infallible>(*answer),
            };
            let upstream = match reached {
                Ok(upstream) => upstream,
                Err(code) => return Ok(failed(code)),
            };
            let upgrade = hyper::upgrade::on(&mut request);
            Ok(match tell.try_send((upgrade, upstream)) {
                Ok(()) => accept.map(|()| Body::Left(Empty::new())),
                Err(_second) => failed(Code::BadRequest),
            })
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await?;
    let Ok((upgrade, upstream)) = upgraded.try_recv() else {
        return Ok(None);
    };
    let Ok(parts) = upgrade.await?.downcast::<TokioIo<S>>() else {
        return Ok(None);
    };
    let frames = Frames::new(Rewound::new(parts.read_buf, parts.io.into_inner())).await;
    Ok(Some((frames, upstream)))
}

type Body = http_body_util::Either<Empty<Bytes>, Full<Bytes>>;

/// The answer to an opening handshake, or what else the request is answered with.
fn handshake_of(request: &Request<Incoming>) -> Result<Response<()>, Box<Response<Body>>> {
    match handshake(request.method(), request.headers()) {
        Ok(Some(accept)) => Ok(accept),
        Ok(None) if matches!(*request.method(), Method::GET | Method::HEAD) => {
            Err(Box::new(page()))
        }
        Ok(None) => Err(Box::new(plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and WebSocket\n",
        ))),
        Err(fault) => {
            let mut refused = plain(StatusCode::BAD_REQUEST, fault);
            let version = HeaderValue::from_static("13");
            refused
                .headers_mut()
                .insert(header::SEC_WEBSOCKET_VERSION, version);
            Err(Box::new(refused))
        }
    }
}

fn failed(code: Code) -> Response<Body> {
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    plain(status, code.text())
}

/// The answer to an opening handshake (RFC 6455 §4.2.2); `None` if the request is none.
fn handshake(method: &Method, headers: &HeaderMap) -> Result<Option<Response<()>>, &'static str> {
    if !lists(headers, &header::UPGRADE, "websocket") {
        return Ok(None);
    }
    if *method != Method::GET || !lists(headers, &header::CONNECTION, "upgrade") {
        return Err("a WebSocket begins with GET and Connection: Upgrade\n");
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err("only version 13 of WebSocket is spoken\n");
    }
    if !same_origin(headers) {
        return Err("a page of another origin may not open this desktop\n");
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .filter(|key| key.len() == 24);
    let key = key.ok_or("the WebSocket key is missing or malformed\n")?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    let accept = accept.map_err(|_impossible| "the WebSocket key is malformed\n")?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if lists(headers, &header::SEC_WEBSOCKET_PROTOCOL, "binary") {
        fields.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static("binary"),
        );
    }
    Ok(Some(response))
}

/// Whether the page that asks, if a browser names one, is of the host that is asked (RFC 6455 §10.2). Otherwise any
/// page that an allowed person looks at could drive the desktop.
fn same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let page = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    page.zip(host)
        .is_some_and(|((_scheme, page), host)| page.eq_ignore_ascii_case(host))
}

/// Whether a field that is a list of tokens has this one (RFC 9110 §5.6.1).
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

fn page() -> Response<Body> {
    let mut page = plain(StatusCode::OK, PAGE);
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    page.headers_mut().insert(header::CONTENT_TYPE, html);
    page.headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, policy);
    page
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::Right(Full::new(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
