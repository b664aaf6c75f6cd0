//! Someone who writes the tunnel's first message by hand, with whatever credentials a test likes.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::{Bytes, BytesMut};
use sallyport_wire::message::{Hello, Reply, ReplyKind};
use sallyport_wire::{Code, MAX_HELLO, frame};
use serde_json::{Value, json};

use crate::raw::Raw;
use crate::site::Gateway;
use crate::wait::BOUND;

/// A TLS connection with the tunnel's ALPN, and what is needed to forge a Hello on it.
#[derive(Debug)]
pub struct Stranger {
    raw: Raw,
    /// JOSE header of the token.
    pub header: Value,
    /// Claims of the token.
    pub claims: Value,
    /// Secret that signs it, decoded.
    pub secret: Vec<u8>,
    /// Node name of the Hello.
    pub node: String,
    node_key: Vec<u8>,
}

impl Stranger {
    /// Connects, with credentials that would do: the gateway's own first key, a fresh node key.
    ///
    /// # Panics
    /// If the gateway does not listen or its gateway.json is not there.
    #[must_use]
    pub fn connect(gateway: &Gateway, node: &str) -> Self {
        Self::connect_with(gateway, &gateway.path().join("gateway.json"), node)
    }

    /// The same with the first key of another file.
    ///
    /// # Panics
    /// If the gateway does not listen or the file is not there.
    #[must_use]
    pub fn connect_with(gateway: &Gateway, file: &Path, node: &str) -> Self {
        let raw = Raw::connect(gateway.address(Ipv4Addr::LOCALHOST.into()), "sallyport/1");
        let text = std::fs::read(file).expect("the file is there");
        let file: Value = serde_json::from_slice(&text).expect("JSON");
        let key = |field: &str| {
            file.pointer(&format!("/keys/0/{field}"))
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let now = now();
        let id: [u8; 16] = aws_lc_rs::rand::generate(&SystemRandom::new())
            .expect("randomness")
            .expose();
        let claims = json!({
            "iss": node, "aud": gateway.url(), "iat": now, "exp": now + 60,
            "jti": BASE64.encode(id), "cb": BASE64.encode(raw.binding()),
        });
        let node_key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("randomness");
        Self {
            header: json!({"alg": "HS256", "kid": key("kid"), "typ": "JWT"}),
            claims,
            secret: BASE64.decode(key("secret")).expect("base64url"),
            node: node.to_owned(),
            node_key: node_key.as_ref().to_vec(),
            raw,
        }
    }

    /// The token as its fields say.
    #[must_use]
    pub fn token(&self) -> String {
        let part = |value: &Value| BASE64.encode(value.to_string());
        let signed = format!("{}.{}", part(&self.header), part(&self.claims));
        let tag = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, &self.secret),
            signed.as_bytes(),
        );
        format!("{signed}.{}", BASE64.encode(tag))
    }

    /// Sends the Hello and returns what came back: a code, `None` for a welcome.
    #[must_use]
    pub fn hello(self) -> Option<Code> {
        let token = self.token();
        self.hello_with(token)
    }

    /// Sends the Hello with a token from elsewhere.
    #[must_use]
    pub fn hello_with(self, token: String) -> Option<Code> {
        let mut answer = BytesMut::from(&self.answer(token)[..]);
        match decoded(&mut answer) {
            Some(ReplyKind::Refused(refused)) => Some(Code::from_number(refused.code)),
            Some(ReplyKind::Welcome(_)) | None => None,
        }
    }

    /// Sends the Hello with a token and returns the reply, byte for byte.
    ///
    /// # Panics
    /// If the gateway answers nothing that is a reply.
    #[must_use]
    pub fn answer(mut self, token: String) -> Vec<u8> {
        let pair = Ed25519KeyPair::from_pkcs8(&self.node_key).expect("our own key");
        let proof = Bytes::copy_from_slice(pair.sign(token.as_bytes()).as_ref());
        let hello = Hello {
            oldest: 1,
            newest: 1,
            node: self.node.clone(),
            generation: 1,
            token,
            node_key: Bytes::copy_from_slice(pair.public_key().as_ref()),
            proof,
            ..Hello::default()
        };
        self.raw
            .send(&frame::encode(&hello, MAX_HELLO).expect("it fits"));
        let mut got = Vec::new();
        let until = std::time::Instant::now() + BOUND;
        while decoded(&mut BytesMut::from(&got[..])).is_none() {
            assert!(std::time::Instant::now() < until, "no answer to the hello");
            let (bytes, closed) = self.raw.read_to_close(Duration::from_millis(50));
            got.extend_from_slice(&bytes);
            assert!(!closed || !bytes.is_empty(), "closed without an answer");
        }
        got
    }
}

fn decoded(bytes: &mut BytesMut) -> Option<ReplyKind> {
    let reply: Option<Reply> = frame::decode(bytes, MAX_HELLO).expect("a reply");
    reply?.kind
}

/// Seconds since 1970.
///
/// # Panics
/// If the clock stands before that.
#[must_use]
pub fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    i64::try_from(since.as_secs()).expect("before the end of time")
}
