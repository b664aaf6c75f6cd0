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
    let fields = [
        (":method", method),
        (":scheme", "https"),
        (":path", path),
        (":authority", authority),
    ];
    frame(1, flags, 1, &block(&fields))
}
