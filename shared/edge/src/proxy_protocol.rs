//! The PROXY protocol, versions 1 and 2: who a proxied connection is really from.
//!
//! A header is believed only from peers that the configuration trusts; from anybody else its bytes
//! are garbage in place of TLS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use sallyport_ops::listen::canonical;

/// Both ends of the connection that a proxy accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

/// Which form to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The text line.
    One,
    /// The binary header.
    Two,
}

/// A header that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the header; what follows belongs to the client.
    pub length: usize,
    /// None where the proxy speaks for itself (`LOCAL`) or does not know (`UNKNOWN`).
    pub addresses: Option<Addresses>,
}

/// Why some bytes are no PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// They begin as something else.
    #[error("no PROXY header")]
    Absent,
    /// They begin as a header and go wrong.
    #[error("malformed PROXY header")]
    Malformed,
}

/// Most bytes of a header of version 1, and of the addresses and extensions of version 2 that we
/// look through.
const LINE_BYTES: usize = 107;
const EXTENSION_BYTES: usize = 2_048;

/// Most bytes of a header of either version.
pub const MOST_BYTES: usize = V2_FIXED + EXTENSION_BYTES;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// Reads a header from the first bytes of a connection; nothing while it is not complete.
///
/// # Errors
/// When the bytes do not begin a header, or begin a malformed one.
pub fn read(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    if begins(bytes, V1) {
        return read_line(bytes);
    }
    if begins(bytes, V2) {
        return read_binary(bytes);
    }
    Err(ProxyError::Absent)
}

/// Whether `bytes` and `start` agree as far as both go.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    bytes
        .iter()
        .zip(start)
        .all(|(byte, expected)| byte == expected)
}

fn read_line(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    let Some(end) = bytes
        .iter()
        .take(LINE_BYTES)
        .position(|byte| *byte == b'\n')
    else {
        return if bytes.len() < LINE_BYTES {
            Ok(None)
        } else {
            Err(ProxyError::Malformed)
        };
    };
    let line = bytes.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    let line = line
        .and_then(|line| std::str::from_utf8(line).ok())
        .ok_or(ProxyError::Malformed)?;
    let addresses = parse_line(line).ok_or(ProxyError::Malformed)?;
    Ok(Some(Header {
        length: end + 1,
        addresses,
    }))
}

/// The outer nothing means malformed.
fn parse_line(line: &str) -> Option<Option<Addresses>> {
    let rest = line.strip_prefix("PROXY ")?;
    if rest == "UNKNOWN" || rest.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let parts: Vec<&str> = rest.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = parts.as_slice() else {
        return None;
    };
    let address = |text: &str| -> Option<IpAddr> {
        match *family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let source = SocketAddr::new(address(source)?, parse_port(source_port)?);
    let destination = SocketAddr::new(address(destination)?, parse_port(destination_port)?);
    Some(Some(
        Addresses {
            source,
            destination,
        }
        .canonical(),
    ))
}

fn parse_port(text: &str) -> Option<u16> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

fn read_binary(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED) else {
        return Ok(None);
    };
    let [.., command, family, high, low] = fixed else {
        return Ok(None);
    };
    let extra = usize::from(u16::from_be_bytes([*high, *low]));
    if extra > EXTENSION_BYTES {
        return Err(ProxyError::Malformed);
    }
    let Some(rest) = rest.get(..extra) else {
        return Ok(None);
    };
    let addresses = match *command {
        LOCAL => None,
        PROXY => parse_binary(*family, rest).ok_or(ProxyError::Malformed)?,
        _ => return Err(ProxyError::Malformed),
    };
    Ok(Some(Header {
        length: V2_FIXED + extra,
        addresses,
    }))
}

/// The outer nothing means malformed.
fn parse_binary(family: u8, rest: &[u8]) -> Option<Option<Addresses>> {
    const UNSPECIFIED: u8 = 0x00;
    const UNIX: [u8; 2] = [0x31, 0x32];
    let (source, destination, ports) = match family {
        0x11 | 0x12 => {
            let (ends, rest) = rest.split_first_chunk::<8>()?;
            let [a, b, c, d, e, f, g, h] = *ends;
            (IpAddr::from([a, b, c, d]), IpAddr::from([e, f, g, h]), rest)
        }
        0x21 | 0x22 => {
            let (source, rest) = rest.split_first_chunk::<16>()?;
            let (destination, rest) = rest.split_first_chunk::<16>()?;
            (IpAddr::from(*source), IpAddr::from(*destination), rest)
        }
        _ if family == UNSPECIFIED || UNIX.contains(&family) => return Some(None),
        _ => return None,
    };
    let [s1, s0, d1, d0] = *ports.first_chunk::<4>()?;
    let source = SocketAddr::new(source, u16::from_be_bytes([s1, s0]));
    let destination = SocketAddr::new(destination, u16::from_be_bytes([d1, d0]));
    Some(Some(
        Addresses {
            source,
            destination,
        }
        .canonical(),
    ))
}

/// Writes the header that goes in front of a stream between these two ends.
#[must_use]
pub fn write(version: Version, addresses: Addresses) -> Vec<u8> {
    let ends = addresses.of_one_family();
    match version {
        Version::One => write_line(ends),
        Version::Two => write_binary(ends),
    }
}

fn write_line(ends: Addresses) -> Vec<u8> {
    let Addresses {
        source,
        destination,
    } = ends;
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!(
        "PROXY {family} {from} {to} {} {}\r\n",
        source.port(),
        destination.port()
    )
    .into_bytes()
}

fn write_binary(ends: Addresses) -> Vec<u8> {
    let (family, length) = if ends.source.is_ipv4() {
        (0x11, 12_u16)
    } else {
        (0x21, 36)
    };
    let mut header = V2.to_vec();
    header.extend_from_slice(&[PROXY, family]);
    header.extend_from_slice(&length.to_be_bytes());
    for address in [ends.source.ip(), ends.destination.ip()] {
        match address {
            IpAddr::V4(address) => header.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => header.extend_from_slice(&address.octets()),
        }
    }
    header.extend_from_slice(&ends.source.port().to_be_bytes());
    header.extend_from_slice(&ends.destination.port().to_be_bytes());
    header
}

impl Addresses {
    /// IPv4 in its own form, also where it came mapped into IPv6.
    fn canonical(self) -> Self {
        Self {
            source: canonical(self.source),
            destination: canonical(self.destination),
        }
    }

    /// The header has one family for both ends: two of IPv4 stay, else IPv4 is mapped into IPv6.
    fn of_one_family(self) -> Self {
        let plain = self.canonical();
        if plain.source.is_ipv4() && plain.destination.is_ipv4() {
            return plain;
        }
        let six = |end: SocketAddr| match end.ip() {
            IpAddr::V4(address) => SocketAddr::new(address.to_ipv6_mapped().into(), end.port()),
            IpAddr::V6(address) => SocketAddr::new(address.into(), end.port()),
        };
        Self {
            source: six(plain.source),
            destination: six(plain.destination),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(source: &str, destination: &str) -> Addresses {
        Addresses {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
        }
    }

    #[test]
    fn both_versions_read_back_what_they_write() {
        let cases = [
            addresses("192.0.2.1:5", "198.51.100.2:443"),
            addresses("[2001:db8::1]:65535", "[2001:db8::2]:1"),
            addresses("192.0.2.1:5", "[2001:db8::2]:443"),
        ];
        for ends in cases {
            for version in [Version::One, Version::Two] {
                let mut bytes = write(version, ends);
                let length = bytes.len();
                bytes.extend_from_slice(b"\x16\x03");
                let expected = Header {
                    length,
                    addresses: Some(ends),
                };
                assert_eq!(read(&bytes), Ok(Some(expected)), "{version:?}");
                for at in 0..length {
                    assert_eq!(read(&bytes[..at]), Ok(None), "{version:?} cut at {at}");
                }
            }
        }
    }

    #[test]
    fn the_written_forms_are_those_of_the_specification() {
        let four = addresses("192.0.2.1:56324", "192.0.2.2:443");
        assert_eq!(
            write(Version::One, four),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n"
        );
        assert_eq!(
            write(Version::Two, four),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\xdc\x04\x01\xbb"
        );
        let mixed = addresses("192.0.2.1:1", "[::1]:2");
        assert_eq!(
            write(Version::One, mixed),
            b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n"
        );
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_gives_no_addresses() {
        let none = |length| {
            Ok(Some(Header {
                length,
                addresses: None,
            }))
        };
        assert_eq!(read(b"PROXY UNKNOWN\r\n"), none(15));
        assert_eq!(read(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\nx"), none(35));
        assert_eq!(read(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"), none(16));
        assert_eq!(read(b"\r\n\r\n\0\r\nQUIT\n\x20\x11\x00\x02ab"), none(18));
        assert_eq!(read(b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x00"), none(16));
    }

    #[test]
    fn extensions_after_the_addresses_are_passed_over() {
        let ends = addresses("192.0.2.1:5", "198.51.100.2:443");
        let mut bytes = write(Version::Two, ends);
        bytes[15] += 4;
        bytes.extend_from_slice(b"\x04\x00\x01xTLS");
        assert_eq!(
            read(&bytes),
            Ok(Some(Header {
                length: 32,
                addresses: Some(ends)
            }))
        );
    }

    #[test]
    fn what_is_no_header_or_a_malformed_one_is_told_apart() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            b"\x16\x03\x01",
            b"PROXZ",
            b"\r\n\r\nQ",
        ] {
            assert_eq!(
                read(bytes),
                Err(ProxyError::Absent),
                "{}",
                bytes.escape_ascii()
            );
        }
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 120]].concat();
        let cases: &[&[u8]] = &[
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 ::1 ::2 1 2\r\n",
            b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY \xff\r\n",
            &long,
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\x00\x0c............",
            b"\r\n\r\n\0\r\nQUIT\n\x22\x11\x00\x0c............",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x41\x00\x0c............",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0b...........",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x08\x01",
        ];
        for case in cases {
            assert_eq!(
                read(case),
                Err(ProxyError::Malformed),
                "{}",
                case.escape_ascii()
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), v2 in any::<bool>()) {
            let start = if v2 { V2 } else { V1 };
            let _any = read(&bytes);
            if let Ok(Some(header)) = read(&[start, &bytes].concat()) {
                prop_assert!(header.length <= start.len() + bytes.len());
            }
        }
    }
}
