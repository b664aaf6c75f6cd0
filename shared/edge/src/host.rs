//! The name that a client asked for, in one canonical form.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Most characters of a DNS name (RFC 1035 §2.3.4).
const NAME_MAX: usize = 253;

/// Most characters of one label of it.
const LABEL_MAX: usize = 63;

/// Host and port as in a `Host` header or `:authority` (RFC 9110 §7.2): lower case, no trailing dot, IPv6 in its
/// canonical text (RFC 5952), no user information.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    name: HostName,
    port: Option<u16>,
    text: String,
}

/// A host without its port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostName {
    /// A DNS name in lower case.
    Dns(String),
    /// An address; IPv6 stands in brackets as text.
    Ip(IpAddr),
}

/// Text that is no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HostError(&'static str);

impl Host {
    /// The host without its port.
    #[must_use]
    pub const fn name(&self) -> &HostName {
        &self.name
    }

    /// The port, if one was written.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// Both as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inner, after) = rest
                    .split_once(']')
                    .ok_or(HostError("the host has an open bracket"))?;
                let address: Ipv6Addr = inner
                    .parse()
                    .map_err(|_| HostError("the host has no IPv6 address in its brackets"))?;
                (HostName::Ip(address.into()), port_after(after)?)
            }
            None => {
                let end = text.find(':').unwrap_or(text.len());
                let (name, after) = text.split_at(end);
                (name.parse()?, port_after(after)?)
            }
        };
        let text = match port {
            Some(port) => format!("{name}:{port}"),
            None => name.to_string(),
        };
        Ok(Self { name, port, text })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for HostName {
    type Err = HostError;

    /// A DNS name or an address, with or without brackets, and no port.
    fn from_str(text: &str) -> Result<Self, HostError> {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(address) = bare.parse::<Ipv6Addr>() {
            return Ok(Self::Ip(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(HostError("the host is empty or too long"));
        }
        if !name.split('.').all(is_label) {
            return Err(HostError("the host is no DNS name"));
        }
        // A name whose last label is a number is an address in one of its old forms; only the plain one is taken.
        let last = name.rsplit('.').next().unwrap_or(name);
        if is_number(last) {
            return name
                .parse::<Ipv4Addr>()
                .map(|address| Self::Ip(address.into()))
                .map_err(|_| HostError("the host is no plain IPv4 address"));
        }
        Ok(Self::Dns(name.to_ascii_lowercase()))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(address)) => address.fmt(f),
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

fn port_after(text: &str) -> Result<Option<u16>, HostError> {
    let Some(digits) = text.strip_prefix(':') else {
        return if text.is_empty() {
            Ok(None)
        } else {
            Err(HostError("the host goes on after its bracket"))
        };
    };
    let plain = digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse::<u16>() {
        Ok(port) if plain && port != 0 => Ok(Some(port)),
        _ => Err(HostError("the host's port is no port")),
    }
}

fn is_label(label: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=LABEL_MAX).contains(&label.len())
        && label.bytes().all(plain)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_number(label: &str) -> bool {
    let hex = label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"))
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex || label.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_have_one_form() {
        for (given, canonical) in [
            ("Example.ORG", "example.org"),
            ("example.org.", "example.org"),
            ("example.org.:8443", "example.org:8443"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]", "[::1]"),
            ("[2001:DB8:0:0::1]:443", "[2001:db8::1]:443"),
        ] {
            let host: Host = given.parse().expect(given);
            assert_eq!(host.to_string(), canonical);
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bad in [
            "",
            ".",
            "a..b",
            "a b",
            "a/b",
            "a@b",
            "a,b",
            "a%2eb",
            "a\\b",
            "a#b",
            "a?b",
            "ä.example",
            "[::1",
            "::1",
            "[::1]x",
            "[fe80::1%25eth0]",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:80:80",
            "a:08080808",
            "-a.example",
            "127.1",
            "2130706433",
            "0x7f.0x1",
            "1.2.3.4.5",
            "a_b",
        ] {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
        assert!("a".repeat(64).parse::<Host>().is_err());
        assert!("a.".repeat(127).parse::<Host>().is_ok());
        assert!("a.".repeat(128).parse::<Host>().is_err());
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent(text in "[a-zA-Z0-9.:\\[\\]@/%_-]{0,40}") {
            if let Ok(host) = text.parse::<Host>() {
                prop_assert_eq!(host.to_string().parse::<Host>(), Ok(host));
            }
        }
    }
}
