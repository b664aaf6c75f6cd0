//! Why a request is refused, and the fixed answer to it.

use std::fmt;

use bytes::Bytes;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $words:literal;)*) => {
        /// What is wrong with a request of HTTP/1.1.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Bad { $($(#[$doc])* $name,)* }

        impl Bad {
            /// Every fault, for tables and tests.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The status that the client gets.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => Status::$status.0,)* }
            }

            const fn reason(self) -> &'static str {
                match self { $(Self::$name => Status::$status.1,)* }
            }

            /// What the log says; nothing of the request is in it.
            #[must_use]
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }
    };
}

/// Status and reason phrase (RFC 9110 §15, RFC 6585).
struct Status(u16, &'static str);

impl Status {
    const BAD_REQUEST: Self = Self(400, "Bad Request");
    const TIMEOUT: Self = Self(408, "Request Timeout");
    const URI_TOO_LONG: Self = Self(414, "URI Too Long");
    const EXPECTATION: Self = Self(417, "Expectation Failed");
    const FIELDS_TOO_LARGE: Self = Self(431, "Request Header Fields Too Large");
    const NOT_IMPLEMENTED: Self = Self(501, "Not Implemented");
    const VERSION: Self = Self(505, "HTTP Version Not Supported");
}

faults! {
    /// The request line is not `method SP target SP version` (RFC 9112 §3).
    Line = BAD_REQUEST, "malformed request line";
    /// A line ends in anything but CR LF, or a CR stands alone (RFC 9112 §2.2).
    Ending = BAD_REQUEST, "bare CR or LF";
    /// NUL or another control character.
    Control = BAD_REQUEST, "control character";
    /// Not HTTP/1.0 or HTTP/1.1; also HTTP/0.9 and the preface of HTTP/2.
    Version = VERSION, "HTTP version other than 1.0 and 1.1";
    /// A method outside the list; also CONNECT and TRACE.
    Method = NOT_IMPLEMENTED, "method is not served";
    /// The target is not in origin form, nor in absolute form of http or https (RFC 9112 §3.2).
    Target = BAD_REQUEST, "malformed request target";
    /// The target is longer than `Limits::target_bytes`.
    TargetTooLong = URI_TOO_LONG, "request target too long";
    /// The head is longer than `Limits::head_bytes`.
    HeadTooLarge = FIELDS_TOO_LARGE, "request head too large";
    /// A field is longer than `Limits::field_bytes`.
    FieldTooLarge = FIELDS_TOO_LARGE, "header field too large";
    /// More fields than `Limits::fields`.
    TooManyFields = FIELDS_TOO_LARGE, "too many header fields";
    /// A field name is not a token, or space stands before the colon (RFC 9112 §5.1).
    FieldName = BAD_REQUEST, "malformed header field name";
    /// A field name with `_`, which some programs take for `-`.
    Underscore = BAD_REQUEST, "underscore in a header field name";
    /// A field value has a control character.
    FieldValue = BAD_REQUEST, "malformed header field value";
    /// A field goes on in the next line (obs-fold, RFC 9112 §5.2).
    Folded = BAD_REQUEST, "folded header field";
    /// Not exactly one Host of the form `name[:port]` (RFC 9112 §3.2).
    Host = BAD_REQUEST, "missing, repeated or malformed Host";
    /// The target names another host than Host, or carries user information.
    HostMismatch = BAD_REQUEST, "target and Host differ";
    /// Content-Length is repeated or not a plain number (RFC 9112 §6.3).
    Length = BAD_REQUEST, "repeated or malformed Content-Length";
    /// Transfer-Encoding is anything but one `chunked` on HTTP/1.1 (RFC 9112 §6.1).
    Encoding = BAD_REQUEST, "Transfer-Encoding other than one chunked";
    /// Content-Length and Transfer-Encoding together (RFC 9112 §6.1).
    LengthAndEncoding = BAD_REQUEST, "Content-Length and Transfer-Encoding";
    /// Connection names a field that frames or routes the request.
    Connection = BAD_REQUEST, "Connection names a field that must stay";
    /// Upgrade to anything but `websocket`, or not as RFC 6455 §4.1 has it.
    Upgrade = BAD_REQUEST, "upgrade that is not served";
    /// Expect other than `100-continue` (RFC 9110 §10.1.1).
    Expect = EXPECTATION, "expectation other than 100-continue";
    /// The chunked body is malformed (RFC 9112 §7.1).
    Chunk = BAD_REQUEST, "malformed chunk";
    /// The trailers are larger than `Limits::trailer_bytes` or `Limits::trailer_fields`.
    TrailersTooLarge = FIELDS_TOO_LARGE, "trailers too large";
    /// A trailer that frames, routes or authorises (RFC 9110 §6.5.1).
    Trailer = BAD_REQUEST, "field that may not be a trailer";
    /// The head did not arrive in time.
    TooSlow = TIMEOUT, "request head too slow";
}

impl Bad {
    /// The answer as bytes. But for its id it is the same for every request with this status, so
    /// that it reflects nothing and tells nothing.
    #[must_use]
    pub fn answer(self, request_id: &str) -> Bytes {
        let (status, reason) = (self.status(), self.reason());
        let body = format!("{status} {reason}\nrequest {request_id}\n");
        let length = body.len();
        Bytes::from(format!(
            "HTTP/1.1 {status} {reason}\r\n\
             content-type: text/plain; charset=utf-8\r\n\
             content-length: {length}\r\n\
             cache-control: no-store\r\n\
             x-request-id: {request_id}\r\n\
             connection: close\r\n\r\n{body}"
        ))
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl std::error::Error for Bad {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_whole_and_closes() {
        for bad in Bad::ALL {
            let answer = String::from_utf8(bad.answer("r1").to_vec()).expect("ASCII");
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");

            assert!(head.starts_with(&format!("HTTP/1.1 {} ", bad.status())));
            assert!(head.contains("\r\nconnection: close"));
            assert!(head.contains("\r\nx-request-id: r1\r\n") && body.contains("request r1\n"));
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
        }
    }
}
