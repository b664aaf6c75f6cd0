//! Framing: a message is its length as a big-endian `u16`, then its protobuf bytes, under a hard limit.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Most bytes of a [`crate::message::Hello`] or [`crate::message::Reply`].
pub const MAX_HELLO: usize = 8 * 1024;

/// Most bytes of a [`crate::message::Head`] or [`crate::message::Answer`].
pub const MAX_HEAD: usize = 8 * 1024;

/// Most bytes of a [`crate::message::Control`] message.
pub const MAX_CONTROL: usize = 60 * 1024;

const PREFIX: usize = 2;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than the limit for this message.
    #[error("a message of {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Bytes announced or needed.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Not the protobuf that it should be.
    #[error("a malformed message: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// Encodes a message with its length in front.
///
/// # Errors
/// [`FrameError::TooLong`] if it does not fit `max`.
pub fn encode(message: &impl Message, max: usize) -> Result<Bytes, FrameError> {
    let len = message.encoded_len();
    let prefix = u16::try_from(len)
        .ok()
        .filter(|_| len <= max)
        .ok_or(FrameError::TooLong { len, max })?;
    let mut out = BytesMut::with_capacity(len.saturating_add(PREFIX));
    out.put_u16(prefix);
    message.encode_raw(&mut out);
    Ok(out.freeze())
}

/// Takes one whole message off the front of `buffer`, or `None` if more bytes are needed.
///
/// # Errors
/// [`FrameError`] if the message is over `max` or is not one; the connection is then beyond repair.
pub fn decode<M: Message + Default>(
    buffer: &mut BytesMut,
    max: usize,
) -> Result<Option<M>, FrameError> {
    let Some(prefix) = buffer.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes(*prefix));
    if len > max {
        return Err(FrameError::TooLong { len, max });
    }
    if buffer.len() < len.saturating_add(PREFIX) {
        buffer.reserve(len.saturating_add(PREFIX).saturating_sub(buffer.len()));
        return Ok(None);
    }
    buffer.advance(PREFIX);
    let body = buffer.split_to(len);
    Ok(Some(M::decode(body.freeze())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Control, ControlKind, Head, Ping};

    #[test]
    fn a_message_arrives_byte_by_byte() {
        let sent = Control {
            kind: Some(ControlKind::Ping(Ping { number: 7 })),
        };
        let bytes = encode(&sent, MAX_CONTROL).expect("it fits");
        let mut buffer = BytesMut::new();

        for (place, byte) in bytes.iter().enumerate() {
            buffer.put_u8(*byte);
            let got: Option<Control> = decode(&mut buffer, MAX_CONTROL).expect("well-formed");
            assert_eq!(got.is_some(), place + 1 == bytes.len());
        }
    }

    #[test]
    fn limits_hold_on_both_sides() {
        let head = Head {
            credential: "x".repeat(MAX_HEAD),
            ..Head::default()
        };
        assert!(matches!(
            encode(&head, MAX_HEAD),
            Err(FrameError::TooLong { .. })
        ));

        let mut long = BytesMut::from(&[0xff, 0xff, 0][..]);
        assert!(matches!(
            decode::<Head>(&mut long, MAX_HEAD),
            Err(FrameError::TooLong { .. })
        ));
    }
}
