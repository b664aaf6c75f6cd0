//! Where a chunked body ends, followed byte by byte (RFC 9112 §7.1).

use super::Bad;
use super::field::{Field, is_control};
use crate::limits::Limits;

/// Hex digits of a chunk size: enough for any chunk, too few to overflow.
const SIZE_DIGITS: u8 = 15;
/// Bytes of the extensions of one chunk; nobody uses them but to confuse parsers.
const EXTENSION_BYTES: usize = 256;
/// Bytes of all extensions of one body.
const EXTENSION_BYTES_IN_ALL: usize = 4_096;

/// Fields that frame, route or authorise a request and so may not come after it (RFC 9110 §6.5.1).
const NOT_TRAILERS: &[&str] = &[
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "max-forwards",
    "origin",
    "pragma",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-real-ip",
];
const NOT_TRAILER_PREFIXES: &[&str] = &["proxy-", "sec-", "x-forwarded-"];

/// Follows one chunked body.
#[derive(Debug)]
pub(super) struct Chunks {
    state: State,
    /// Bytes of extensions so far.
    extensions: usize,
    /// The trailer line that is under way.
    line: Vec<u8>,
    trailer_bytes_left: usize,
    trailer_fields_left: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Size { digits: u8, value: u64 },
    Extension { bytes: usize, value: u64 },
    SizeEnd { value: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailer,
    TrailerEnd,
    Done,
}

/// How much of some bytes belongs to the body, and whether the body ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Followed {
    pub(super) bytes: usize,
    pub(super) done: bool,
}

impl Chunks {
    pub(super) const fn new(limits: &Limits) -> Self {
        Self {
            state: State::START,
            extensions: 0,
            line: Vec::new(),
            trailer_bytes_left: limits.trailer_bytes,
            trailer_fields_left: limits.trailer_fields,
        }
    }

    /// Goes over the next bytes of the connection.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<Followed, Bad> {
        let mut at = 0;
        while let (Some(byte), false) = (bytes.get(at), matches!(self.state, State::Done)) {
            if let State::Data { left } = self.state {
                let here = bytes.len() - at;
                let skipped = usize::try_from(left).map_or(here, |left| left.min(here));
                at += skipped;
                self.state = State::data(left - skipped as u64);
            } else {
                self.state = self.step(*byte)?;
                at += 1;
            }
        }
        Ok(Followed {
            bytes: at,
            done: matches!(self.state, State::Done),
        })
    }

    fn step(&mut self, byte: u8) -> Result<State, Bad> {
        match self.state {
            State::Size { digits, value } => size(byte, digits, value),
            State::Extension { bytes, value } => self.extension(byte, bytes, value),
            State::SizeEnd { value: 0 } if byte == b'\n' => Ok(State::Trailer),
            State::SizeEnd { value } if byte == b'\n' => Ok(State::Data { left: value }),
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => Ok(State::START),
            State::Trailer => self.trailer(byte),
            State::TrailerEnd if byte == b'\n' => self.trailer_line(),
            State::SizeEnd { .. } | State::DataCr | State::DataLf | State::TrailerEnd => {
                Err(Bad::Chunk)
            }
            State::Data { .. } | State::Done => Ok(self.state),
        }
    }

    fn extension(&mut self, byte: u8, bytes: usize, value: u64) -> Result<State, Bad> {
        if byte == b'\r' {
            return Ok(State::SizeEnd { value });
        }
        self.extensions += 1;
        if is_control(byte) || bytes == EXTENSION_BYTES || self.extensions > EXTENSION_BYTES_IN_ALL
        {
            return Err(Bad::Chunk);
        }
        Ok(State::Extension {
            bytes: bytes + 1,
            value,
        })
    }

    fn trailer(&mut self, byte: u8) -> Result<State, Bad> {
        if byte == b'\r' {
            return Ok(State::TrailerEnd);
        }
        if byte == b'\n' {
            return Err(Bad::Ending);
        }
        self.trailer_bytes_left = self
            .trailer_bytes_left
            .checked_sub(1)
            .ok_or(Bad::TrailersTooLarge)?;
        self.line.push(byte);
        Ok(State::Trailer)
    }

    fn trailer_line(&mut self) -> Result<State, Bad> {
        if self.line.is_empty() {
            return Ok(State::Done);
        }
        self.trailer_fields_left = self
            .trailer_fields_left
            .checked_sub(1)
            .ok_or(Bad::TrailersTooLarge)?;
        check_trailer(&Field::parse(&self.line)?)?;
        self.line.clear();
        Ok(State::Trailer)
    }
}

impl State {
    const START: Self = Self::Size {
        digits: 0,
        value: 0,
    };

    const fn data(left: u64) -> Self {
        if left == 0 {
            Self::DataCr
        } else {
            Self::Data { left }
        }
    }
}

fn size(byte: u8, digits: u8, value: u64) -> Result<State, Bad> {
    match (char::from(byte).to_digit(16), byte) {
        (Some(digit), _) if digits < SIZE_DIGITS => Ok(State::Size {
            digits: digits + 1,
            value: value << 4 | u64::from(digit),
        }),
        (None, b'\r') if digits > 0 => Ok(State::SizeEnd { value }),
        (None, b';') if digits > 0 => Ok(State::Extension { bytes: 0, value }),
        _ => Err(Bad::Chunk),
    }
}

fn check_trailer(field: &Field<'_>) -> Result<(), Bad> {
    let name = field.name.to_ascii_lowercase();
    let named = NOT_TRAILERS.iter().any(|known| known.as_bytes() == name);
    let begun = NOT_TRAILER_PREFIXES
        .iter()
        .any(|prefix| name.starts_with(prefix.as_bytes()));
    if named || begun {
        Err(Bad::Trailer)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn follow(limits: &Limits, bytes: &[u8]) -> Result<Followed, Bad> {
        Chunks::new(limits).follow(bytes)
    }

    fn ends_at(bytes: &[u8]) -> Result<Followed, Bad> {
        follow(&Limits::default(), bytes)
    }

    #[test]
    fn the_end_is_found_and_what_follows_is_left() {
        let body = b"5\r\nhello\r\n0a;q=1\r\n0123456789\r\n0\r\nx-sum: 7\r\n\r\n";
        let mut with_next = body.to_vec();
        with_next.extend_from_slice(b"GET / HTTP/1.1\r\n");

        let expected = Followed {
            bytes: body.len(),
            done: true,
        };
        assert_eq!(ends_at(body), Ok(expected));
        assert_eq!(ends_at(&with_next), Ok(expected));
    }

    #[test]
    fn malformed_chunks_are_refused() {
        let cases: &[&[u8]] = &[
            b"\r\n",
            b";\r\n",
            b" 5\r\n",
            b"5 \r\n",
            b"+5\r\n",
            b"-5\r\n",
            b"0x5\r\n",
            b"g\r\n",
            b"5\n",
            b"5\rx",
            b"5;a\nb",
            b"5;\x00\r\n",
            b"5\r\nhelloX",
            b"5\r\nhello\n",
            b"5\r\nhello\rX",
            b"1000000000000000\r\n",
            b"ffffffffffffffff\r\n",
            b"0\r\nx",
        ];
        for case in &cases[..cases.len() - 1] {
            assert_eq!(ends_at(case), Err(Bad::Chunk), "{}", case.escape_ascii());
        }
        assert_eq!(
            ends_at(cases[cases.len() - 1]),
            Ok(Followed {
                bytes: 4,
                done: false
            })
        );
    }

    #[test]
    fn trailers_may_not_frame_route_or_authorise() {
        for name in NOT_TRAILERS
            .iter()
            .chain(&["X-Forwarded-For", "Proxy-User", "Sec-Fetch-Site"])
        {
            let body = format!("0\r\n{name}: 1\r\n\r\n");
            assert_eq!(ends_at(body.as_bytes()), Err(Bad::Trailer), "{name}");
        }
        assert_eq!(ends_at(b"0\r\nx_y: 1\r\n\r\n"), Err(Bad::Underscore));
        assert_eq!(ends_at(b"0\r\nx : 1\r\n\r\n"), Err(Bad::FieldName));
        assert_eq!(ends_at(b"0\r\n x: 1\r\n\r\n"), Err(Bad::Folded));
        assert_eq!(ends_at(b"0\r\nx: 1\n"), Err(Bad::Ending));
        assert_eq!(ends_at(b"0\r\nx: \x01\r\n\r\n"), Err(Bad::FieldValue));
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let limits = Limits {
            trailer_bytes: 10,
            trailer_fields: 2,
            ..Limits::default()
        };

        let long = format!("1;{}\r\n", "a".repeat(EXTENSION_BYTES + 1));
        assert_eq!(follow(&limits, long.as_bytes()), Err(Bad::Chunk));
        let each = format!("1;{}\r\nx\r\n", "a".repeat(EXTENSION_BYTES));
        assert_eq!(follow(&limits, each.repeat(17).as_bytes()), Err(Bad::Chunk));
        assert!(follow(&limits, each.repeat(16).as_bytes()).is_ok());

        assert!(follow(&limits, b"0\r\na: 1\r\nb: 2\r\n\r\n").is_ok());
        assert_eq!(
            follow(&limits, b"0\r\na:1\r\nb:2\r\nc:3\r\n"),
            Err(Bad::TrailersTooLarge)
        );
        assert_eq!(
            follow(&limits, b"0\r\nabcdef: 123\r\n"),
            Err(Bad::TrailersTooLarge)
        );
    }

    proptest! {
        #[test]
        fn pieces_end_where_the_whole_ends(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..6),
            piece in 1_usize..40,
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");
            let mut follower = Chunks::new(&Limits::default());
            let mut done = false;
            for part in body.chunks(piece) {
                prop_assert!(!done);
                let followed = follower.follow(part).unwrap();
                prop_assert_eq!(followed.bytes, part.len());
                done = followed.done;
            }
            prop_assert!(done);
        }

        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let limits = Limits::default();
            if let Ok(followed) = follow(&limits, &bytes) {
                prop_assert!(followed.bytes <= bytes.len());
            }
        }
    }
}
