//! What a TLS ClientHello asks for, read before anything is decided.
//!
//! The bytes are only looked at: whoever ends the TLS gets every one of them, as the client sent it.

use std::net::IpAddr;

/// The two things of a ClientHello that choose what happens to the connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// Server name (RFC 6066 §3), in lower case and without a trailing dot; none if there is none,
    /// or if it is an address, which the RFC does not allow.
    pub sni: Option<String>,
    /// Protocols offered (RFC 7301), in the client's order.
    pub alpn: Vec<Vec<u8>>,
}

impl Hello {
    /// Whether the client offers this protocol.
    #[must_use]
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.alpn.iter().any(|offered| offered == protocol)
    }
}

/// Why some bytes are no ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The first bytes are not a TLS record with a handshake message.
    #[error("not TLS")]
    NotTls,
    /// TLS, but the message is malformed.
    #[error("malformed ClientHello")]
    Malformed,
    /// The message or its records are larger than allowed.
    #[error("ClientHello too large")]
    TooLarge,
}

const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
/// Most bytes of a record (RFC 8446 §5.1).
const RECORD_BYTES: usize = 1 << 14;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// Reads a ClientHello from pieces of any size; each byte is looked at once.
///
/// The message may be spread over any number of records (RFC 8446 §5.1).
#[derive(Debug)]
pub struct Peek {
    header: Vec<u8>,
    record_left: usize,
    message: Vec<u8>,
    seen: usize,
    most: usize,
}

impl Peek {
    /// A peek that gives up on messages beyond `most` bytes, or twice that with record headers.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self {
            header: Vec::new(),
            record_left: 0,
            message: Vec::new(),
            seen: 0,
            most,
        }
    }

    /// Looks at the next bytes of the connection; gives the hello once it is complete.
    ///
    /// # Errors
    /// When the bytes so far cannot begin a ClientHello within the limit.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<Option<Hello>, HelloError> {
        while !bytes.is_empty() {
            let used = if self.record_left == 0 {
                self.record_header(bytes)?
            } else {
                self.fragment(bytes)?
            };
            self.seen += used;
            bytes = bytes.get(used..).unwrap_or_default();
            if let Some(body) = self.body()? {
                return parse(body).ok_or(HelloError::Malformed).map(Some);
            }
            if self.seen > self.most.saturating_mul(2) {
                return Err(HelloError::TooLarge);
            }
        }
        Ok(None)
    }

    fn record_header(&mut self, bytes: &[u8]) -> Result<usize, HelloError> {
        let used = bytes.len().min(RECORD_HEADER - self.header.len());
        self.header
            .extend_from_slice(bytes.get(..used).unwrap_or_default());
        let fault = if self.message.is_empty() {
            HelloError::NotTls
        } else {
            HelloError::Malformed
        };
        match self.header.as_slice() {
            [] | [HANDSHAKE] | [HANDSHAKE, 3] | [HANDSHAKE, 3, _] | [HANDSHAKE, 3, _, _] => {}
            [HANDSHAKE, 3, _, high, low] => {
                self.record_left = usize::from(u16::from_be_bytes([*high, *low]));
                if !(1..=RECORD_BYTES).contains(&self.record_left) {
                    return Err(fault);
                }
                self.header.clear();
            }
            _ => return Err(fault),
        }
        Ok(used)
    }

    fn fragment(&mut self, bytes: &[u8]) -> Result<usize, HelloError> {
        let used = bytes.len().min(self.record_left);
        self.message
            .extend_from_slice(bytes.get(..used).unwrap_or_default());
        self.record_left -= used;
        if self
            .message
            .first()
            .is_some_and(|kind| *kind != CLIENT_HELLO)
        {
            return Err(HelloError::NotTls);
        }
        Ok(used)
    }

    /// The body of the message, once it is complete.
    fn body(&self) -> Result<Option<&[u8]>, HelloError> {
        let [_, l2, l1, l0, body @ ..] = self.message.as_slice() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes([0, *l2, *l1, *l0])).unwrap_or(usize::MAX);
        if length.saturating_add(MESSAGE_HEADER) > self.most {
            return Err(HelloError::TooLarge);
        }
        Ok(body.get(..length))
    }
}

/// Reads the body of a ClientHello (RFC 8446 §4.1.2); nothing if it is malformed.
fn parse(body: &[u8]) -> Option<Hello> {
    let mut rest = Reader(body);
    rest.take(2 + 32)?; // version and random
    rest.vector8()?; // session id
    rest.vector16()?; // cipher suites
    rest.vector8()?; // compression methods
    let mut hello = Hello::default();
    if rest.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(rest.vector16()?);
    if !rest.0.is_empty() {
        return None;
    }
    let (mut named, mut negotiates) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector16()?;
        match kind {
            SERVER_NAME if !std::mem::replace(&mut named, true) => hello.sni = server_name(data)?,
            ALPN if !std::mem::replace(&mut negotiates, true) => hello.alpn = protocols(data)?,
            SERVER_NAME | ALPN => return None,
            _ => {}
        }
    }
    Some(hello)
}

/// The one host name of the extension. The outer nothing means malformed.
fn server_name(data: &[u8]) -> Option<Option<String>> {
    const HOST_NAME: u8 = 0;
    let mut whole = Reader(data);
    let mut list = Reader(whole.vector16()?);
    let kind = list.take(1)?;
    let name = std::str::from_utf8(list.vector16()?).ok()?;
    if kind != [HOST_NAME] || !list.0.is_empty() || !whole.0.is_empty() {
        return None;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.parse::<IpAddr>().is_ok() {
        return Some(None);
    }
    is_dns_name(name).then(|| Some(name.to_ascii_lowercase()))
}

fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

fn protocols(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut whole = Reader(data);
    let mut list = Reader(whole.vector16()?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8()?;
        if name.is_empty() {
            return None;
        }
        protocols.push(name.to_vec());
    }
    (whole.0.is_empty() && !protocols.is_empty()).then_some(protocols)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, amount: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(amount)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// Bytes with a length of one byte before them.
    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = *self.take(1)?.first()?;
        self.take(usize::from(length))
    }

    /// Bytes with a length of two bytes before them.
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::client_hello;

    const MOST: usize = 16 << 10;

    fn peek(pieces: &[&[u8]]) -> Result<Option<Hello>, HelloError> {
        let mut peek = Peek::new(MOST);
        for piece in pieces {
            if let Some(hello) = peek.feed(piece)? {
                return Ok(Some(hello));
            }
        }
        Ok(None)
    }

    /// The same message in records of at most `size` bytes.
    fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
        let fragments = hello[RECORD_HEADER..].chunks(size);
        fragments.fold(Vec::new(), |mut out, fragment| {
            out.extend_from_slice(&[HANDSHAKE, 3, 1]);
            out.extend_from_slice(&u16::try_from(fragment.len()).expect("small").to_be_bytes());
            out.extend_from_slice(fragment);
            out
        })
    }

    #[test]
    fn a_hello_split_at_every_offset_is_read() {
        let raw = client_hello(Some("Desk.Example.org"), &[b"h2", b"http/1.1"]);
        let expected = Hello {
            sni: Some("desk.example.org".into()),
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        for at in 0..=raw.len() {
            let (first, second) = raw.split_at(at);
            assert_eq!(
                peek(&[first, second]),
                Ok(Some(expected.clone())),
                "split at {at}"
            );
        }
        let bytes: Vec<&[u8]> = raw.chunks(1).collect();
        assert_eq!(peek(&bytes), Ok(Some(expected)));
    }

    #[test]
    fn a_hello_over_many_records_is_read() {
        let raw = client_hello(Some("desk.example.org"), &[b"sallyport/1"]);
        for size in [1, 2, 3, 5, 64, 200] {
            let hello = peek(&[&in_records(&raw, size)])
                .expect("valid")
                .expect("complete");
            assert_eq!(
                hello.sni.as_deref(),
                Some("desk.example.org"),
                "records of {size}"
            );
            assert!(hello.offers(b"sallyport/1"));
        }
    }

    #[test]
    fn no_name_or_an_address_is_no_name() {
        assert_eq!(
            peek(&[&client_hello(None, &[])]),
            Ok(Some(Hello::default()))
        );
        assert_eq!(server_name(b"\0\x0c\0\0\x09127.0.0.1"), Some(None));
        assert_eq!(server_name(b"\0\x06\0\0\x03a b"), None);
        assert_eq!(server_name(b"\0\x05\0\0\x02a."), Some(Some("a".into())));
    }

    #[test]
    fn what_is_not_tls_is_told_from_the_first_byte_on() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"SSH-2.0-x",
            b"\x80\x2e\x01\x03",
            b"\x17",
            b"\x16\x02",
        ] {
            assert_eq!(
                peek(&[bytes]),
                Err(HelloError::NotTls),
                "{}",
                bytes.escape_ascii()
            );
        }
        assert_eq!(peek(&[b"\x16\x03\x01\x00\x00"]), Err(HelloError::NotTls));
        assert_eq!(peek(&[b"\x16\x03\x01\x40\x01"]), Err(HelloError::NotTls));
        assert_eq!(
            peek(&[b"\x16\x03\x01\x00\x04\x02"]),
            Err(HelloError::NotTls)
        );
    }

    #[test]
    fn limits_are_reached() {
        let announced = [0x16, 3, 1, 0x40, 0, 1, 0, 0x40, 0];
        assert_eq!(peek(&[&announced]), Err(HelloError::TooLarge));
        let drips = [0x16, 3, 1, 0, 1, 1, 0x16, 3, 1, 0, 1, 0];
        let mut peek = Peek::new(8);
        assert_eq!(peek.feed(&drips), Ok(None));
        assert_eq!(peek.feed(&[0x16, 3, 1, 0, 1, 0]), Err(HelloError::TooLarge));
    }

    #[test]
    fn a_malformed_message_is_refused() {
        let mut cut = client_hello(Some("a.example"), &[b"h2"]);
        cut[RECORD_HEADER + 3] = cut[RECORD_HEADER + 3].wrapping_sub(1);
        assert_eq!(peek(&[&cut]), Err(HelloError::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..20)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let _any = peek(&pieces);
        }

        #[test]
        fn a_flipped_hello_never_panics(at in 0_usize..220, bit in 0_u8..8) {
            let mut raw = client_hello(Some("desk.example.org"), &[b"h2"]);
            if let Some(byte) = raw.get_mut(at) {
                *byte ^= 1 << bit;
            }
            let _any = peek(&[&raw]);
        }

        #[test]
        fn any_split_reads_the_same(size in 1_usize..300, piece in 1_usize..300) {
            let raw = in_records(&client_hello(Some("desk.example.org"), &[b"h2"]), size);
            let pieces: Vec<&[u8]> = raw.chunks(piece).collect();
            let hello = peek(&pieces).unwrap().unwrap();
            prop_assert_eq!(hello.sni.as_deref(), Some("desk.example.org"));
        }
    }
}
