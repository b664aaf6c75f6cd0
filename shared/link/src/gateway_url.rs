//! The URL of a gateway: what relays dial, what tokens are made for and what browsers open.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};

/// The port that a URL without one means.
pub const DEFAULT_PORT: u16 = 443;

/// `https://HOST[:PORT]`, held in one canonical form so that two spellings of it compare equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GatewayUrl {
    host: Host,
    port: u16,
}

/// The host of a [`GatewayUrl`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A DNS name in lower case, without a dot at its end.
    Name(String),
    /// An address; IPv6 stands in brackets in the URL.
    Address(IpAddr),
}

/// Text that is no gateway URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` is no gateway URL, which looks like https://gw.example.org or https://[2001:db8::1]:8443: {fault}"
)]
pub struct GatewayUrlError {
    found: String,
    fault: &'static str,
}

impl GatewayUrl {
    /// The host, for certificates and name resolution.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The port, tcp and udp alike.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The `aud` of tokens for this gateway: the canonical URL.
    #[must_use]
    pub fn audience(&self) -> String {
        self.to_string()
    }

    /// The socket address, where the host is an address and needs no resolving.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Address(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }

    /// The name that the gateway's certificate is checked for.
    #[must_use]
    pub fn server_name(&self) -> Option<ServerName<'static>> {
        match &self.host {
            Host::Address(ip) => Some(ServerName::IpAddress((*ip).into())),
            Host::Name(name) => ServerName::try_from(name.clone()).ok(),
        }
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            DEFAULT_PORT => write!(f, "https://{}", self.host),
            port => write!(f, "https://{}:{port}", self.host),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Address(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

impl FromStr for GatewayUrl {
    type Err = GatewayUrlError;

    fn from_str(text: &str) -> Result<Self, GatewayUrlError> {
        parse(text).map_err(|fault| GatewayUrlError {
            found: text
                .chars()
                .take(128)
                .flat_map(char::escape_default)
                .collect(),
            fault,
        })
    }
}

impl TryFrom<String> for GatewayUrl {
    type Error = GatewayUrlError;

    fn try_from(text: String) -> Result<Self, GatewayUrlError> {
        text.parse()
    }
}

impl From<GatewayUrl> for String {
    fn from(url: GatewayUrl) -> Self {
        url.to_string()
    }
}

fn parse(text: &str) -> Result<GatewayUrl, &'static str> {
    let scheme = text.get(..8).filter(|s| s.eq_ignore_ascii_case("https://"));
    let rest = scheme.map_or("", |_| text.get(8..).unwrap_or(""));
    if scheme.is_none() {
        return Err("it starts with https://");
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@', '\\']) {
        return Err("it has a host and a port, nothing else");
    }
    let (host, port) = split_port(rest)?;
    let port = port.map_or(Ok(DEFAULT_PORT), parse_port)?;
    let host = parse_host(host)?;
    Ok(GatewayUrl { host, port })
}

/// Splits `host:port`, `[v6]:port`, `host` or `[v6]`; brackets stay with the host.
fn split_port(text: &str) -> Result<(&str, Option<&str>), &'static str> {
    let end = text.find(']').map_or(0, |at| at + 1);
    let (bracketed, tail) = text.split_at_checked(end).unwrap_or(("", text));
    match (bracketed.is_empty(), tail.split_once(':')) {
        (false, None) if !tail.is_empty() => Err("nothing but a port follows the bracket"),
        (false, Some((gap, _))) if !gap.is_empty() => Err("nothing but a port follows the bracket"),
        (false, Some((_, port))) => Ok((bracketed, Some(port))),
        (false, None) => Ok((bracketed, None)),
        (true, Some((host, port))) => Ok((host, Some(port))),
        (true, None) => Ok((tail, None)),
    }
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err("the port is a number from 1 to 65535"),
    }
}

fn parse_host(text: &str) -> Result<Host, &'static str> {
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        let v6: Result<Ipv6Addr, _> = inner.parse();
        return v6
            .map(|ip| Host::Address(ip.into()))
            .map_err(|_not_v6| "brackets hold an IPv6 address");
    }
    if let Ok(v4) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Address(v4.into()));
    }
    let name = text.to_ascii_lowercase();
    if is_dns_name(&name) {
        return Ok(Host::Name(name));
    }
    Err("the host is a DNS name or an address (IPv6 in brackets)")
}

/// A host name (RFC 1123 §2.1) of at most 253 characters. A last label of digits alone would be a
/// half-written IPv4 address, which resolvers read in surprising ways.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let edges = !label.starts_with('-') && !label.ends_with('-');
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && edges
    };
    let last = name.rsplit('.').next().unwrap_or("");
    let number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    name.len() <= 253 && name.split('.').all(label) && !number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<GatewayUrl>().expect(text).to_string()
    }

    #[test]
    fn spellings_of_one_gateway_are_equal() {
        assert_eq!(
            canonical("https://GW.example.org:443/"),
            "https://gw.example.org"
        );
        assert_eq!(canonical("HTTPS://gw:8443"), "https://gw:8443");
        assert_eq!(canonical("https://10.0.0.1"), "https://10.0.0.1");
        assert_eq!(
            canonical("https://[2001:DB8:0::1]:444"),
            "https://[2001:db8::1]:444"
        );
        assert_eq!(canonical("https://[::1]"), "https://[::1]");
    }

    #[test]
    fn what_is_no_gateway_url_is_refused() {
        let bad = [
            "",
            "https://",
            "http://gw",
            "gw",
            "https://gw/path",
            "https://gw//",
            "https://u@gw",
            "https://gw:0",
            "https://gw:65536",
            "https://gw:",
            "https://gw:+1",
            "https://gw?x",
            "https://gw#f",
            "https://[::1",
            "https://[::1]x",
            "https://[::1]x:1",
            "https://::1",
            "https://[127.0.0.1]",
            "https://127.1",
            "https://0x7f.1",
            "https://a..b",
            "https://-a",
            "https://gw.",
            "https://g_w",
            "https://gw:1:2",
            "https://gw example",
            "https://ä",
            "https://[fe80::1%25eth0]",
        ];
        for text in bad {
            assert!(text.parse::<GatewayUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_parts_serve_dialling() {
        let url: GatewayUrl = "https://[::1]:444".parse().expect("a URL");

        assert_eq!(
            url.address(),
            Some("[::1]:444".parse().expect("an address"))
        );
        assert_eq!(url.audience(), "https://[::1]:444");
        assert!(url.server_name().is_some());
    }
}
