//! Why something was refused: one table of number, public words, fault and HTTP status.

use std::fmt;

/// Whose fault a refusal is: it decides who is told what, and at which log level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The one who asked: a browser, a desktop client, or a relay that dials.
    Asker,
    /// The relay or its node.
    Relay,
    /// The session's own program.
    Session,
    /// The gateway.
    Gateway,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal, $text:literal, $blame:ident, $status:literal;)*) => {
        /// Why a tunnel, a claim or a stream was refused or reset.
        ///
        /// Numbers are part of the protocol and never change their meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The number that goes over the tunnel.
            #[must_use]
            pub const fn number(self) -> u32 {
                match self { $(Self::$name => $number,)* }
            }

            /// The code for a number from the tunnel; an unknown one is [`Code::Internal`].
            #[must_use]
            pub const fn from_number(number: u32) -> Self {
                match number { $($number => Self::$name,)* _ => Self::Internal }
            }

            /// The word for logs, metrics and JSON, in snake case.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// What the outside may hear.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whose fault it is.
            #[must_use]
            pub const fn blame(self) -> Blame {
                match self { $(Self::$name => Blame::$blame,)* }
            }

            /// The HTTP status that a client of the front gets.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

codes! {
    /// Nothing wrong: an orderly end.
    Closed = 0, "closed", "closed", Asker, 500;
    /// The one answer to every stranger, whatever was wrong with the credentials.
    Unauthorised = 1, "unauthorised", "not authorised", Asker, 401;
    /// No common protocol version, or a required feature that the other side lacks.
    Incompatible = 2, "incompatible", "no common protocol version", Asker, 505;
    /// The token's time differs from the gateway's by more than the leeway.
    ClockSkew = 3, "clock_skew", "the clocks differ too much", Asker, 401;
    /// The node's name is bound to another node key.
    NameTaken = 4, "name_taken", "that node name belongs to another node key", Asker, 403;
    /// A newer generation of the same node is connected.
    Superseded = 5, "superseded", "a newer process of this node is connected", Relay, 503;
    /// The key's scope does not allow this node, session or port.
    OutOfScope = 6, "out_of_scope", "outside this key's scope", Relay, 403;
    /// The session is at home on another node that is alive.
    HomeTaken = 7, "home_taken", "that session is at home on another node", Relay, 409;
    /// The other side broke the protocol.
    Protocol = 8, "protocol", "protocol error", Asker, 400;
    /// A limit was reached: streams, bytes, rate.
    Limit = 9, "limit", "a limit was reached, try again later", Asker, 503;
    /// The process is draining and takes nothing new.
    Draining = 10, "draining", "draining, try again", Gateway, 503;
    /// A deadline passed before anything useful came.
    TooSlow = 11, "too_slow", "the session did not answer in time", Session, 504;
    /// No session of that name.
    UnknownSession = 12, "unknown_session", "no such session", Asker, 404;
    /// No relay is connected that could serve it.
    NoRelay = 13, "no_relay", "no relay is connected", Relay, 503;
    /// The session's home was lost a short while ago and may come back.
    HomeLost = 14, "home_lost", "the session's node is not connected, try again", Relay, 503;
    /// The session's program does not answer its health check.
    SessionDown = 15, "session_down", "the session is down", Session, 503;
    /// The session's program refused the connection, or broke it before it answered.
    SessionRefused = 16, "session_refused", "the session refused the connection", Session, 502;
    /// The relay wants a login before it lets anyone through.
    LoginRequired = 17, "login_required", "log in first", Asker, 401;
    /// Known who it is, and not allowed.
    Forbidden = 18, "forbidden", "not allowed", Asker, 403;
    /// The tunnel was lost under the stream.
    TunnelLost = 19, "tunnel_lost", "the connection to the session was lost, try again", Relay, 503;
    /// The client went away or stopped reading.
    ClientGone = 20, "client_gone", "the client went away", Asker, 499;
    /// Something unexpected on our side; the log says what.
    Internal = 21, "internal", "internal error", Gateway, 500;
    /// The request is ambiguous or malformed.
    BadRequest = 22, "bad_request", "bad request", Asker, 400;
    /// The request's name does not belong to the connection it came on.
    Misdirected = 23, "misdirected", "this name is served elsewhere", Asker, 421;
    /// No bytes for too long on a stream that was open.
    Idle = 24, "idle", "closed after being idle", Asker, 408;
    /// The answer of the session is malformed or would mislead the client.
    BadAnswer = 25, "bad_answer", "the session's answer was malformed", Session, 502;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A code as an error, so that it can travel inside a [`std::io::Error`] of a stream and be found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("refused: {}", .0.text())]
pub struct Refusal(pub Code);

impl Refusal {
    /// Finds a refusal in an error or in any of its causes, also inside [`std::io::Error`].
    #[must_use]
    pub fn in_chain(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(*found);
            }
            let inner = error
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::get_ref);
            if let Some(inner) = inner {
                return Self::in_chain(inner);
            }
            next = error.source();
        }
        None
    }
}

impl From<Refusal> for std::io::Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(std::io::ErrorKind::ConnectionReset, refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_read_back() {
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), *code);
        }
        assert_eq!(Code::from_number(9_999), Code::Internal);
    }

    #[test]
    fn a_refusal_is_found_under_an_io_error() {
        let error = std::io::Error::from(Refusal(Code::SessionRefused));

        assert_eq!(
            Refusal::in_chain(&error),
            Some(Refusal(Code::SessionRefused))
        );
        assert_eq!(Refusal::in_chain(&std::io::Error::other("else")), None);
    }
}
