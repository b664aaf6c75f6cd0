//! HTTP/2 frames written by hand (RFC 9113 §4), so that a test can send what no client would.

/// The client's connection preface with empty settings.
#[must_use]
pub fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes
}

/// A frame.
///
/// # Panics
/// If the payload is longer than a frame can be.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = vec![len[1], len[2], len[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block without compression (RFC 7541 §6.2.2).
///
/// # Panics
/// If a name or value is 127 bytes or longer.
#[must_use]
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let len = u8::try_from(text.len())
            .ok()
            .filter(|len| *len < 127)
            .expect("short");
        [&[len], text.as_bytes()].concat()
    };
    fields
        .iter()
        .flat_map(|(name, value)| [vec![0], text(name), text(value)].concat())
        .collect()
}

/// HEADERS frames' flag: nothing follows on the stream.
pub const END_STREAM: u8 = 1;

/// HEADERS frames' flag: the block is whole.
pub const END_HEADERS: u8 = 4;

/// A whole request without a body, unless `flags` leaves out [`END_STREAM`].
#[must_use]
pub fn request(method: &str, path: &str, authority: &str, flags: u8) -> Vec<u8> {
    request_on(1, (method, path), authority, flags)
}

/// As [`request`], on another stream than the first.
#[must_use]
pub fn request_on(
    stream: u32,
    (method, path): (&str, &str),
    authority: &str,
    flags: u8,
) -> Vec<u8> {
    let fields = [
        (":method", method),
        (":scheme", "https"),
        (":path", path),
        (":authority", authority),
    ];
    frame(1, flags, stream, &block(&fields))
}

/// A frame that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type (RFC 9113 §6).
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// The rest of it.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM, or of GOAWAY.
    #[must_use]
    pub fn error(&self) -> Option<u32> {
        let code = match self.kind {
            3 => self.payload.get(..4)?,
            7 => self.payload.get(4..8)?,
            _ => return None,
        };
        Some(u32::from_be_bytes(*code.first_chunk()?))
    }
}

/// The whole frames at the front of some bytes, and the bytes behind them.
#[must_use]
pub fn parse(mut bytes: &[u8]) -> (Vec<Frame>, &[u8]) {
    let mut frames = Vec::new();
    while let Some(([l2, l1, l0, kind, flags, s3, s2, s1, s0], behind)) = bytes.split_first_chunk()
    {
        let length = u32::from_be_bytes([0, *l2, *l1, *l0]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some((payload, rest)) = behind.split_at_checked(length) else {
            break;
        };
        frames.push(Frame {
            kind: *kind,
            flags: *flags,
            stream: u32::from_be_bytes([*s3, *s2, *s1, *s0]),
            payload: payload.to_vec(),
        });
        bytes = rest;
    }
    (frames, bytes)
}
