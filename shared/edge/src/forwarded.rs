//! What a session is told about where a request came from.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use crate::ClientInfo;
use crate::fields::list_items;
use crate::host::Host;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What `Forwarded` needs for one hop and a usual host.
const FORWARDED_ROOM: usize = 96;

/// Header field with the id of a request, towards session and client.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Where a request came from: over which hops, and whether encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Addresses from the client to the last hop before us. A trusted proxy's word is taken for those before it; of
    /// all others only the connection's own end counts.
    hops: Vec<IpAddr>,
    /// The scheme that the client used.
    proto: &'static str,
}

impl Origin {
    /// What a request's connection says, and a trusted proxy's `X-Forwarded-For` and `X-Forwarded-Proto`. Behind a
    /// PROXY header these are the client's own words and count for nothing.
    ///
    /// # Errors
    /// [`Unreadable`] if a trusted proxy names a client that is no address: to take its own instead would let that
    /// client in as the proxy.
    pub fn of(head: &Parts, client: &ClientInfo) -> Result<Self, Unreadable> {
        let own = if client.tls.is_empty() {
            "http"
        } else {
            "https"
        };
        let direct = client.address.ip().to_canonical();
        if !client.trusted || client.peer != client.address {
            return Ok(Self {
                hops: vec![direct],
                proto: own,
            });
        }
        let mut hops = told_hops(&head.headers);
        if hops.is_empty() && head.headers.contains_key(FORWARDED_FOR) {
            return Err(Unreadable);
        }
        hops.push(direct);
        Ok(Self {
            hops,
            proto: told_proto(&head.headers).unwrap_or(own),
        })
    }

    /// The client's address: the first hop, or the one nearest to it that can be believed.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        // With one trusted proxy in front, the last address that it told is the one that it saw itself.
        self.hops
            .iter()
            .rev()
            .nth(1)
            .or_else(|| self.hops.first())
            .copied()
    }

    /// Sets all that a session is told: `X-Forwarded-For`, `-Proto`, `-Host`, `-Prefix`, `Forwarded` (RFC 7239),
    /// `X-Real-IP` and `X-Request-Id`. `prefix` is what was taken off the path.
    pub(crate) fn write(
        &self,
        headers: &mut HeaderMap,
        host: &Host,
        prefix: Option<&str>,
        request_id: &str,
    ) {
        let hops: Vec<String> = self.hops.iter().map(IpAddr::to_string).collect();
        // The same place as in `client`.
        let client = hops.iter().rev().nth(1).or_else(|| hops.first());
        set(headers, REAL_IP, client.map_or("", String::as_str));
        set(headers, FORWARDED, &self.forwarded(&hops, host));
        set(headers, FORWARDED_FOR, &hops.join(", "));
        set(headers, FORWARDED_PROTO, self.proto);
        set(headers, FORWARDED_HOST, host.as_str());
        set(headers, REQUEST_ID, request_id);
        if let Some(prefix) = prefix {
            set(headers, FORWARDED_PREFIX, prefix);
        }
    }

    fn forwarded(&self, hops: &[String], host: &Host) -> String {
        let mut text = String::with_capacity(FORWARDED_ROOM);
        for (hop, shown) in self.hops.iter().zip(hops) {
            let start = if text.is_empty() { "" } else { ", " };
            let (open, close) = if hop.is_ipv6() {
                ("\"[", "]\"")
            } else {
                ("", "")
            };
            text.extend([start, "for=", open, shown, close]);
        }
        text.extend([";host=\"", host.as_str(), "\";proto=", self.proto]);
        text
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// A trusted proxy's `X-Forwarded-For` does not end with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a trusted proxy's X-Forwarded-For does not end with an address")]
pub struct Unreadable;

/// The addresses that a proxy told, from the first one after the last that is none. What is not text is none either.
fn told_hops(headers: &HeaderMap) -> Vec<IpAddr> {
    let lines = headers.get_all(FORWARDED_FOR);
    let items = lines
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let told: Vec<Option<IpAddr>> = items
        .map(|item| address(std::str::from_utf8(item).ok()?.trim()))
        .collect();
    let valid = told.iter().rev().map_while(|hop| *hop).count();
    told.into_iter()
        .flatten()
        .rev()
        .take(valid)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect()
}

fn address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let address: Option<IpAddr> = bare.parse().ok();
    address
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .map(|ip| ip.to_canonical())
}

fn told_proto(headers: &HeaderMap) -> Option<&'static str> {
    match list_items(headers, &FORWARDED_PROTO).last()? {
        "https" => Some("https"),
        "http" => Some("http"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::client::HttpVersion;

    fn client(peer: &str, address: &str, trusted: bool) -> ClientInfo {
        ClientInfo {
            peer: peer.parse().expect("an address"),
            address: address.parse().expect("an address"),
            local: "192.0.2.1:443".parse().expect("an address"),
            trusted,
            sni: None,
            http: HttpVersion::One,
            tls: "TLSv1.3".to_owned(),
        }
    }

    fn told(client: &ClientInfo, lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut request = Request::get("/").body(()).expect("a request");
        for (name, value) in lines {
            request
                .headers_mut()
                .append(*name, HeaderValue::from_static(value));
        }
        let origin = Origin::of(&request.into_parts().0, client).expect("readable");
        let mut headers = HeaderMap::new();
        let host = "gw.example:8443".parse().expect("a host");
        origin.write(&mut headers, &host, Some("/s/web"), "r1");
        headers
    }

    #[track_caller]
    fn assert_told(headers: &HeaderMap, name: &str, expected: &str) {
        assert_eq!(
            headers.get(name).and_then(|value| value.to_str().ok()),
            Some(expected),
            "{name}"
        );
    }

    #[test]
    fn a_stranger_is_only_what_its_connection_says() {
        let stranger = client("198.51.100.7:1", "198.51.100.7:1", false);
        let headers = told(
            &stranger,
            &[
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-proto", "http"),
            ],
        );

        assert_told(&headers, "x-forwarded-for", "198.51.100.7");
        assert_told(&headers, "x-real-ip", "198.51.100.7");
        assert_told(&headers, "x-forwarded-proto", "https");
        assert_told(&headers, "x-forwarded-host", "gw.example:8443");
        assert_told(&headers, "x-forwarded-prefix", "/s/web");
        assert_told(&headers, "x-request-id", "r1");
        assert_told(
            &headers,
            "forwarded",
            "for=198.51.100.7;host=\"gw.example:8443\";proto=https",
        );
    }

    #[test]
    fn a_trusted_proxy_is_believed_up_to_what_it_cannot_have_checked() {
        let proxy = client("[2001:db8::1]:1", "[2001:db8::1]:1", true);
        let lines = [
            ("x-forwarded-for", "evil, 203.0.113.9, [2001:db8::9]"),
            ("x-forwarded-proto", "http"),
        ];
        let headers = told(&proxy, &lines);

        assert_told(
            &headers,
            "x-forwarded-for",
            "203.0.113.9, 2001:db8::9, 2001:db8::1",
        );
        assert_told(&headers, "x-real-ip", "2001:db8::9");
        assert_told(&headers, "x-forwarded-proto", "http");
        let forwarded = "for=203.0.113.9, for=\"[2001:db8::9]\", for=\"[2001:db8::1]\";host=\"gw.example:8443\";proto=http";
        assert_told(&headers, "forwarded", forwarded);
    }

    #[test]
    fn a_client_that_a_trusted_proxy_names_unreadably_is_not_taken_for_the_proxy() {
        let proxy = client("10.0.0.1:1", "10.0.0.1:1", true);
        let told = |value: &[u8]| {
            let mut request = Request::get("/").body(()).expect("a request");
            let value = HeaderValue::from_bytes(value).expect("a value");
            request.headers_mut().append(FORWARDED_FOR, value);
            Origin::of(&request.into_parts().0, &proxy).map(|origin| origin.client())
        };
        let outsider = Ok(Some("203.0.113.9".parse().expect("an address")));

        assert_eq!(told(b"\xe9, 203.0.113.9"), outsider);
        for unreadable in [
            &b"unknown"[..],
            b"10.0.0.9, _hidden",
            b"10.0.0.9, \xe9",
            b"",
        ] {
            assert_eq!(told(unreadable), Err(Unreadable));
        }
    }

    #[test]
    fn behind_a_proxy_header_the_fields_are_the_clients_own() {
        let behind = client("10.0.0.1:1", "198.51.100.7:1", true);
        let headers = told(&behind, &[("x-forwarded-for", "6.6.6.6")]);

        assert_told(&headers, "x-forwarded-for", "198.51.100.7");
    }
}
