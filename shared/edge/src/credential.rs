//! What a client shows to be let in. It is for the relay only; the session never sees it.

use std::fmt;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use crate::cookies;

/// Name of our login cookie.
pub const COOKIE_NAME: &str = "__Host-sallyport";

/// How our tokens begin, after `Bearer` (RFC 6750 §2.1).
pub const TOKEN_START: &str = "sp_";

/// Most bytes of a credential; it has to fit a stream's head.
const CREDENTIAL_MAX: usize = 4 * 1024;

/// A login cookie's value or a bearer token of ours; empty for none.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credential(String);

impl Credential {
    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "none"
        } else {
            "[redacted]"
        })
    }
}

/// A credential that is too long or not ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadCredential;

/// Takes our cookie and our token out of a request whose cookies stand in one line. A token is preferred.
pub(crate) fn take(headers: &mut HeaderMap) -> Result<Credential, BadCredential> {
    let token = take_token(headers);
    let cookie = take_cookie(headers);
    let Some(secret) = token.or(cookie) else {
        return Ok(Credential::default());
    };
    if secret.len() > CREDENTIAL_MAX || !secret.iter().all(u8::is_ascii_graphic) {
        return Err(BadCredential);
    }
    String::from_utf8(secret)
        .map(Credential)
        .map_err(|_| BadCredential)
}

fn take_token(headers: &mut HeaderMap) -> Option<Vec<u8>> {
    let values: Vec<HeaderValue> = headers.get_all(AUTHORIZATION).iter().cloned().collect();
    let token = values.iter().find_map(our_token)?.to_vec();
    headers.remove(AUTHORIZATION);
    for value in values
        .into_iter()
        .filter(|value| our_token(value).is_none())
    {
        headers.append(AUTHORIZATION, value);
    }
    Some(token)
}

fn our_token(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, rest) = value.as_bytes().split_at_checked("Bearer ".len())?;
    let token = rest.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && token.starts_with(TOKEN_START.as_bytes()))
        .then_some(token)
}

fn take_cookie(headers: &mut HeaderMap) -> Option<Vec<u8>> {
    let ours = cookies::take(headers, is_our_name);
    ours.into_iter().next().map(|(_name, value)| value)
}

/// Whether a cookie's name is ours, in any case: some programs compare without it.
pub(crate) fn is_our_name(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(COOKIE_NAME.as_bytes())
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;

    fn taken(cookie: Option<&str>, authorization: Option<&str>) -> (String, HeaderMap) {
        let mut headers = HeaderMap::new();
        if let Some(cookie) = cookie {
            headers.insert(COOKIE, cookie.parse().expect("a value"));
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.parse().expect("a value"));
        }
        let credential = take(&mut headers).expect("a credential");
        (credential.expose().to_owned(), headers)
    }

    #[test]
    fn our_cookie_is_taken_and_the_others_stay() {
        let (secret, rest) = taken(
            Some("a=1; __Host-sallyport=abc=; b=2; __host-SALLYPORT=x"),
            None,
        );
        assert_eq!(secret, "abc=");
        assert_eq!(
            rest.get(COOKIE).map(HeaderValue::as_bytes),
            Some(&b"a=1; b=2"[..])
        );

        let (secret, rest) = taken(Some("__Host-sallyport=abc"), None);
        assert_eq!(secret, "abc");
        assert!(rest.is_empty());

        let (secret, rest) = taken(Some("a=1;b=2"), None);
        assert_eq!(secret, "");
        assert_eq!(
            rest.get(COOKIE).map(HeaderValue::as_bytes),
            Some(&b"a=1;b=2"[..])
        );
    }

    #[test]
    fn our_token_is_taken_and_the_applications_stays() {
        let (secret, rest) = taken(Some("__Host-sallyport=abc"), Some("bearer sp_1"));
        assert_eq!(secret, "sp_1");
        assert!(rest.is_empty());

        let (secret, rest) = taken(None, Some("Bearer xyz"));
        assert_eq!(secret, "");
        assert!(rest.contains_key(AUTHORIZATION));
    }

    #[test]
    fn the_limit_is_reached_and_nothing_is_shown() {
        let mut headers = HeaderMap::new();
        let long = format!("Bearer sp_{}", "x".repeat(CREDENTIAL_MAX));
        headers.insert(AUTHORIZATION, long.parse().expect("a value"));
        assert_eq!(take(&mut headers), Err(BadCredential));

        assert_eq!(
            format!("{:?}", Credential("secret".to_owned())),
            "[redacted]"
        );
    }
}
