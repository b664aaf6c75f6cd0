//! How long a stream may be quiet, stuck or half gone.

use std::time::Duration;

/// Deadlines of one stream. `None` switches one off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// No byte in either direction for so long ends the stream. Default: 1 h.
    pub idle: Option<Duration>,
    /// Once neither side has more to send, what is still held must be delivered and closed within
    /// this time. A stream with only one side finished is not hurried. Default: 30 s.
    pub closing: Option<Duration>,
    /// A side that is offered bytes and takes none for so long is given up. Default: 60 s.
    pub write_stall: Option<Duration>,
    /// The codes that aborts carry.
    pub codes: Codes,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_secs(3_600)),
            closing: Some(Duration::from_secs(30)),
            write_stall: Some(Duration::from_secs(60)),
            codes: Codes::default(),
        }
    }
}

/// What a side is told by [`Abort::abort`](crate::Abort::abort) when the stream ends early.
///
/// The defaults are the numbers of `wire::Code` with the same meaning, which never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codes {
    /// The client broke off, or stopped reading. Default: 20, `ClientGone`.
    pub client_gone: u32,
    /// The session broke off, or stopped reading. Default: 16, `SessionRefused`.
    pub session_gone: u32,
    /// Nothing happened for too long. Default: 24, `Idle`.
    pub idle: u32,
    /// This process gave the stream up before its end. Default: 10, `Draining`.
    pub stopped: u32,
}

impl Default for Codes {
    fn default() -> Self {
        Self {
            client_gone: 20,
            session_gone: 16,
            idle: 24,
            stopped: 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use sallyport_wire::Code;

    use super::*;

    #[test]
    fn the_codes_are_those_of_the_tunnel() {
        let tunnel = Codes {
            client_gone: Code::ClientGone.number(),
            session_gone: Code::SessionRefused.number(),
            idle: Code::Idle.number(),
            stopped: Code::Draining.number(),
        };
        assert_eq!(Codes::default(), tunnel);
    }
}
