//! The opening handshake of a WebSocket (RFC 6455 §4, RFC 8441).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{Method, StatusCode, Version};

use crate::fields::{list_items, single};

/// Joined to the key before hashing (RFC 6455 §1.3).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes of a key before its encoding.
const KEY_LEN: usize = 16;

/// A WebSocket that a client asks for in an acceptable way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// `Sec-WebSocket-Key` towards the session: the client's over HTTP/1.1, one of ours over HTTP/2, which has none.
    key: HeaderValue,
}

/// A handshake that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeError {
    Malformed(&'static str),
    Version,
}

/// The WebSocket that a request asks for; `None` if it asks for none. Any other `Upgrade` is not taken up, which a
/// server may do (RFC 9110 §7.8).
pub(crate) fn asked(
    head: &Parts,
    extended: bool,
    bodiless: bool,
) -> Result<Option<Handshake>, HandshakeError> {
    if extended {
        version(&head.headers)?;
        return own_key().map(|key| Some(Handshake { key }));
    }
    if head.version == Version::HTTP_2 || !list_items(&head.headers, &UPGRADE).any(is_websocket) {
        return Ok(None);
    }
    if list_items(&head.headers, &UPGRADE).count() != 1 {
        return Err(HandshakeError::Malformed(
            "an upgrade to websocket or something else",
        ));
    }
    let connection =
        list_items(&head.headers, &CONNECTION).any(|item| item.eq_ignore_ascii_case("upgrade"));
    if head.method != Method::GET || head.version != Version::HTTP_11 || !connection || !bodiless {
        return Err(HandshakeError::Malformed(
            "an upgrade to websocket that is no plain GET",
        ));
    }
    version(&head.headers)?;
    client_key(&head.headers).map(|key| Some(Handshake { key }))
}

fn is_websocket(item: &str) -> bool {
    item.eq_ignore_ascii_case("websocket")
}

fn version(headers: &HeaderMap) -> Result<(), HandshakeError> {
    match single(headers, &SEC_WEBSOCKET_VERSION) {
        Ok(Some(value)) if value.as_bytes() == b"13" => Ok(()),
        Ok(_) | Err(_) => Err(HandshakeError::Version),
    }
}

fn client_key(headers: &HeaderMap) -> Result<HeaderValue, HandshakeError> {
    match single(headers, &SEC_WEBSOCKET_KEY) {
        Ok(Some(key))
            if STANDARD
                .decode(key.as_bytes())
                .is_ok_and(|key| key.len() == KEY_LEN) =>
        {
            Ok(key.clone())
        }
        Ok(_) | Err(_) => Err(HandshakeError::Malformed(
            "a websocket key that is not 16 bytes",
        )),
    }
}

fn own_key() -> Result<HeaderValue, HandshakeError> {
    let mut key = [0; KEY_LEN];
    rand::fill(&mut key).map_err(|_| HandshakeError::Malformed("no randomness"))?;
    HeaderValue::try_from(STANDARD.encode(key)).map_err(|_| HandshakeError::Malformed("no key"))
}

impl Handshake {
    /// Writes the fields of the handshake into a request to the session, in place of any that are there.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_KEY, self.key.clone());
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }

    /// Whether an answer of status 101 really takes the WebSocket up (RFC 6455 §4.1, steps 1 to 4).
    pub(crate) fn is_taken_up(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let upgrade = list_items(headers, &UPGRADE).map(is_websocket).eq([true]);
        let connection =
            list_items(headers, &CONNECTION).any(|item| item.eq_ignore_ascii_case("upgrade"));
        let accept = matches!(single(headers, &SEC_WEBSOCKET_ACCEPT), Ok(Some(value)) if *value == self.accept());
        status == StatusCode::SWITCHING_PROTOCOLS && upgrade && connection && accept
    }

    fn accept(&self) -> String {
        let mut text = self.key.as_bytes().to_vec();
        text.extend_from_slice(MAGIC.as_bytes());
        STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text))
    }
}

/// Makes a session's verified answer, which has lost its hop's fields, one for the client: over HTTP/2 it has neither
/// these fields nor an accept key (RFC 8441 §5).
pub(crate) fn confirm(headers: &mut HeaderMap, two: bool) {
    headers.remove(CONTENT_LENGTH);
    if two {
        headers.remove(SEC_WEBSOCKET_ACCEPT);
    } else {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http::header::HeaderName;

    use super::*;

    fn head(lines: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::get("/chat").body(()).expect("a request");
        for (name, value) in lines {
            request
                .headers_mut()
                .append(*name, HeaderValue::from_static(value));
        }
        request.into_parts().0
    }

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn the_answer_of_the_rfc_is_taken() {
        let handshake = asked(&head(&GOOD), false, true)
            .expect("acceptable")
            .expect("a websocket");
        let mut answer = HeaderMap::new();
        answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
        answer.insert(
            SEC_WEBSOCKET_ACCEPT,
            HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        );
        assert!(handshake.is_taken_up(StatusCode::SWITCHING_PROTOCOLS, &answer));
        assert!(!handshake.is_taken_up(StatusCode::OK, &answer));

        for (name, value) in [
            (SEC_WEBSOCKET_ACCEPT, "s3pPLMBiTxaQ9kYGzzhZRbK+xOp="),
            (UPGRADE, "h2c"),
            (CONNECTION, "close"),
        ] {
            let mut wrong = answer.clone();
            wrong.insert(&name, HeaderValue::from_static(value));
            assert!(
                !handshake.is_taken_up(StatusCode::SWITCHING_PROTOCOLS, &wrong),
                "{name}"
            );
            wrong.remove(&name);
            assert!(
                !handshake.is_taken_up(StatusCode::SWITCHING_PROTOCOLS, &wrong),
                "{name}"
            );
        }
    }

    #[test]
    fn only_a_plain_get_is_taken_up() {
        assert_eq!(
            asked(
                &head(&[("connection", "upgrade"), ("upgrade", "h2c")]),
                false,
                true
            ),
            Ok(None)
        );
        assert_eq!(asked(&head(&[]), false, true), Ok(None));
        assert!(asked(&head(&GOOD), false, false).is_err());

        let mut post = head(&GOOD);
        post.method = Method::POST;
        assert!(asked(&post, false, true).is_err());
        let mut old = head(&GOOD);
        old.version = Version::HTTP_10;
        assert!(asked(&old, false, true).is_err());
    }

    #[test]
    fn each_field_of_the_handshake_is_checked() {
        for (name, value, expected) in [
            ("upgrade", "websocket, h2c", HandshakeError::Malformed("")),
            ("connection", "keep-alive", HandshakeError::Malformed("")),
            ("sec-websocket-version", "8", HandshakeError::Version),
            (
                "sec-websocket-key",
                "c2hvcnQ=",
                HandshakeError::Malformed(""),
            ),
            (
                "sec-websocket-key",
                "not base64",
                HandshakeError::Malformed(""),
            ),
        ] {
            let mut wrong = head(&GOOD);
            wrong.headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
            let found = asked(&wrong, false, true).expect_err(value);
            assert_eq!(
                std::mem::discriminant(&found),
                std::mem::discriminant(&expected),
                "{name}: {value}"
            );
        }
        let mut twice = head(&GOOD);
        twice.headers.append(
            SEC_WEBSOCKET_KEY,
            HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
        );
        assert!(asked(&twice, false, true).is_err());
    }

    #[test]
    fn http2_gets_a_key_of_ours() {
        let extended = head(&[("sec-websocket-version", "13")]);
        let one = asked(&extended, true, false)
            .expect("acceptable")
            .expect("a websocket");
        let two = asked(&extended, true, false)
            .expect("acceptable")
            .expect("a websocket");
        assert_ne!(one, two);
    }
}
