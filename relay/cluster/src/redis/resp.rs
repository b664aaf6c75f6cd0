//! The protocol of Redis, version 2: commands are lists of words, replies come in their order.
//!
//! Of our own, because it is small: a reply has a bound here, and nobody else's code decides when a connection is made
//! anew or a command sent twice.

use bytes::{Buf as _, Bytes, BytesMut};

/// Longest line, in bytes: a length, a status or an error.
const MOST_LINE: usize = 16 << 10;

/// Deepest list within lists.
const MOST_DEEP: usize = 4;

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Status(String),
    Error(String),
    Number(i64),
    Bytes(Bytes),
    Nothing,
    List(Vec<Self>),
}

/// What is there does not speak the protocol, or says more than fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotRedis {
    #[error("what answers there is no Redis server")]
    Other,
    #[error("a reply of more than {0} bytes")]
    TooLong(usize),
}

impl Reply {
    /// Itself; or, for an error, what the server says about it.
    pub(super) fn accepted(self) -> Result<Self, String> {
        if let Self::Error(text) = self {
            return Err(text);
        }
        Ok(self)
    }
}

/// A command as it is sent.
pub(super) fn command(words: &[&[u8]]) -> Vec<u8> {
    let length = words.iter().map(|word| word.len().saturating_add(24));
    let mut sent = Vec::with_capacity(length.sum::<usize>().saturating_add(24));
    head(&mut sent, b'*', words.len());
    for word in words {
        head(&mut sent, b'$', word.len());
        sent.extend_from_slice(word);
        sent.extend_from_slice(b"\r\n");
    }
    sent
}

fn head(sent: &mut Vec<u8>, kind: u8, length: usize) {
    sent.push(kind);
    sent.extend_from_slice(length.to_string().as_bytes());
    sent.extend_from_slice(b"\r\n");
}

/// Takes the first reply of at most `most` bytes off `buffer`; none while it is not whole.
pub(super) fn take(buffer: &mut BytesMut, most: usize) -> Result<Option<Reply>, NotRedis> {
    let Some(length) = length(buffer, 0, 0)? else {
        return if buffer.len() > most {
            Err(NotRedis::TooLong(most))
        } else {
            Ok(None)
        };
    };
    if length > most {
        return Err(NotRedis::TooLong(most));
    }
    let mut whole = buffer.split_to(length);
    read(&mut whole).map(Some)
}

/// Where the reply that begins at `from` ends; none while that is not known.
fn length(buffer: &[u8], from: usize, deep: usize) -> Result<Option<usize>, NotRedis> {
    let Some((kind, line, mut end)) = line(buffer, from)? else {
        return Ok(None);
    };
    match kind {
        b'+' | b'-' | b':' => {}
        b'$' => {
            let bytes = count(line)?.map_or(0, |bytes| bytes.saturating_add(2));
            end = end.saturating_add(bytes);
        }
        b'*' if deep < MOST_DEEP => {
            for _ in 0..count(line)?.unwrap_or(0) {
                match length(buffer, end, deep.saturating_add(1))? {
                    Some(next) => end = next,
                    None => return Ok(None),
                }
            }
        }
        _ => return Err(NotRedis::Other),
    }
    Ok((end <= buffer.len()).then_some(end))
}

/// The kind and the text of a line, and where the next one begins.
type Line<'b> = (u8, &'b [u8], usize);

/// The line that begins at `from`; none while it is not whole.
fn line(buffer: &[u8], from: usize) -> Result<Option<Line<'_>>, NotRedis> {
    let rest = buffer.get(from..).unwrap_or_default();
    let found = rest
        .windows(2)
        .take(MOST_LINE)
        .position(|end| end == b"\r\n");
    match (found, rest.split_first()) {
        (Some(end), Some((kind, _))) if end > 0 => {
            let text = rest.get(1..end).unwrap_or_default();
            let next = from.saturating_add(end).saturating_add(2);
            Ok(Some((*kind, text, next)))
        }
        (None, Some((kind, _))) if b"+-:$*".contains(kind) && rest.len() <= MOST_LINE => Ok(None),
        (None, None) => Ok(None),
        _ => Err(NotRedis::Other),
    }
}

/// A length; none for what is not there.
fn count(line: &[u8]) -> Result<Option<usize>, NotRedis> {
    if line == b"-1" {
        return Ok(None);
    }
    let text = std::str::from_utf8(line).map_err(|_other| NotRedis::Other)?;
    text.parse().map(Some).map_err(|_other| NotRedis::Other)
}

/// Takes one reply off what is whole. Bytes are copied, so that a short one does not hold all that it came with.
fn read(whole: &mut BytesMut) -> Result<Reply, NotRedis> {
    let Some((kind, text, next)) = line(whole, 0)? else {
        return Err(NotRedis::Other);
    };
    let reply = match kind {
        b'+' => Reply::Status(String::from_utf8_lossy(text).into_owned()),
        b'-' => Reply::Error(String::from_utf8_lossy(text).into_owned()),
        b':' => Reply::Number(number(text)?),
        b'$' | b'*' => {
            let Some(count) = count(text)? else {
                whole.advance(next);
                return Ok(Reply::Nothing);
            };
            whole.advance(next);
            return if kind == b'$' {
                bytes(whole, count)
            } else {
                (0..count)
                    .map(|_| read(whole))
                    .collect::<Result<_, _>>()
                    .map(Reply::List)
            };
        }
        _ => return Err(NotRedis::Other),
    };
    whole.advance(next);
    Ok(reply)
}

fn number(text: &[u8]) -> Result<i64, NotRedis> {
    let text = std::str::from_utf8(text).map_err(|_other| NotRedis::Other)?;
    text.parse().map_err(|_other| NotRedis::Other)
}

fn bytes(whole: &mut BytesMut, count: usize) -> Result<Reply, NotRedis> {
    let end = count.saturating_add(2);
    let (Some(bytes), Some(b"\r\n")) = (whole.get(..count), whole.get(count..end)) else {
        return Err(NotRedis::Other);
    };
    let bytes = Bytes::copy_from_slice(bytes);
    whole.advance(end);
    Ok(Reply::Bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 1 << 20;

    fn written(reply: &Reply, out: &mut Vec<u8>) {
        match reply {
            Reply::Status(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Reply::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
            Reply::Number(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Reply::Nothing => out.extend_from_slice(b"$-1\r\n"),
            Reply::Bytes(bytes) => {
                head(out, b'$', bytes.len());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Reply::List(replies) => {
                head(out, b'*', replies.len());
                for reply in replies {
                    written(reply, out);
                }
            }
        }
    }

    fn reply() -> impl Strategy<Value = Reply> {
        let leaf = prop_oneof![
            "[ -~]{0,20}".prop_map(Reply::Status),
            "[ -~]{0,20}".prop_map(Reply::Error),
            any::<i64>().prop_map(Reply::Number),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Reply::Bytes(bytes.into())),
            Just(Reply::Nothing),
        ];
        leaf.prop_recursive(3, 20, 5, |inner| {
            prop::collection::vec(inner, 0..5).prop_map(Reply::List)
        })
    }

    proptest! {
        #[test]
        fn replies_are_read_however_they_are_cut(replies in prop::collection::vec(reply(), 1..5), step in 1_usize..30) {
            let mut sent = Vec::new();
            replies.iter().for_each(|reply| written(reply, &mut sent));
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for piece in sent.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(reply) = take(&mut buffer, MOST).expect("our own") {
                    found.push(reply);
                }
            }
            prop_assert_eq!(found, replies);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn anything_else_is_refused_or_waited_for(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take(&mut buffer, MOST) {}
        }
    }

    #[test]
    fn what_is_no_redis_server_is_said() {
        let deep = b"*1\r\n".repeat(MOST_DEEP + 1);
        for other in [
            b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(),
            b"INFO {\"server_id\":\"n1\"}",
            b"$x\r\n",
            b"$-2\r\n",
            b"$1\r\nabc",
            b":\r\n",
            b"\r\n",
            &deep,
        ] {
            let taken = take(&mut BytesMut::from(other), MOST);
            assert_eq!(taken, Err(NotRedis::Other), "{other:?}");
        }
    }

    #[test]
    fn a_reply_has_a_bound() {
        let mut whole = BytesMut::from(&b"$20\r\n01234567890123456789\r\n"[..]);
        assert_eq!(take(&mut whole, 16), Err(NotRedis::TooLong(16)));
        let mut begun = BytesMut::from(&b"$2000000\r\n01234567890123456789\r\n"[..]);
        assert_eq!(take(&mut begun, 16), Err(NotRedis::TooLong(16)));
        assert_eq!(take(&mut begun, MOST), Ok(None));
    }

    #[test]
    fn a_command_is_a_list_of_words() {
        assert_eq!(
            command(&[b"GET", b"a\r\n"]),
            b"*2\r\n$3\r\nGET\r\n$3\r\na\r\n\r\n"
        );
    }
}
