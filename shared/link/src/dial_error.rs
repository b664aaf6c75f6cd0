//! Why no tunnel came up: the step that failed, and what to tell whoever has to mend it.

use std::fmt;
use std::io;
use std::time::Duration;

use sallyport_certs::{CertError, PinMismatch};
use sallyport_wire::{Code, FrameError, NodeName};

use crate::proxy_talk::ProxyError;
use crate::quic::EndpointError;

/// The step of dialling that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Name to addresses.
    Dns,
    /// TCP to the gateway or to the proxy.
    Tcp,
    /// The proxy's answer.
    Proxy,
    /// The TLS handshake, pin included.
    Tls,
    /// The QUIC handshake, pin included.
    Quic,
    /// The gateway's answer to the hello.
    Hello,
}

impl Step {
    /// The word for logs and for `doctor`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::Hello => "hello",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Why no tunnel came up.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {cause}{}", other(.also.as_deref()))]
pub struct DialError {
    /// The step that failed.
    pub step: Step,
    /// Why.
    #[source]
    pub cause: Cause,
    /// Why the other transport failed, where both were tried.
    pub also: Option<Box<Self>>,
}

fn other(error: Option<&DialError>) -> String {
    error.map_or_else(String::new, |error| format!(" (and {error})"))
}

/// Why a step of dialling failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The network, the system, or a TLS alert.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The step's deadline passed.
    #[error("no answer within {0:?}")]
    TooSlow(Duration),
    /// The name has no address.
    #[error("the name has no address")]
    NoAddress,
    /// The proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// QUIC cannot go through a proxy.
    #[error("QUIC cannot go through a proxy; choose tls or auto")]
    QuicThroughProxy,
    /// The other side speaks TLS, but not this protocol.
    #[error("what answers there does not speak this protocol")]
    NoGateway,
    /// Our own TLS configuration.
    #[error(transparent)]
    Certificates(#[from] CertError),
    /// Our own QUIC configuration or socket.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// QUIC could not begin.
    #[error(transparent)]
    Connect(#[from] quinn::ConnectError),
    /// The QUIC handshake or connection.
    #[error(transparent)]
    Quic(#[from] quinn::ConnectionError),
    /// No hello could be made.
    #[error("{0}")]
    Introduce(String),
    /// The other node's welcome does not prove that it is that node.
    #[error("the other side did not prove to be node {node}: {cause}")]
    Unproven {
        /// The node that was dialled.
        node: NodeName,
        /// What is wrong, for the log of this side.
        cause: String,
    },
    /// The gateway's answer is none.
    #[error("the answer to the hello: {0}")]
    Answer(#[from] FrameError),
    /// The gateway refused.
    #[error("the other side refused: {}", .code.text())]
    Refused {
        /// Why.
        code: Code,
        /// When to come back, if the gateway said so.
        retry_after: Option<Duration>,
    },
}

impl DialError {
    pub(crate) fn new(step: Step, cause: impl Into<Cause>) -> Self {
        Self {
            step,
            cause: cause.into(),
            also: None,
        }
    }

    /// The gateway's refusal, and when to come back if it said so.
    #[must_use]
    pub const fn refused(&self) -> Option<(Code, Option<Duration>)> {
        if let Cause::Refused { code, retry_after } = self.cause {
            return Some((code, retry_after));
        }
        None
    }

    /// Nobody answered, as where packets are dropped on the way.
    #[must_use]
    pub const fn is_silence(&self) -> bool {
        matches!(
            self.cause,
            Cause::TooSlow(_) | Cause::Quic(quinn::ConnectionError::TimedOut)
        )
    }

    /// The certificate was not believed. QUIC tells so by the number of an alert alone (RFC 8446 §6, RFC 9001 §4.8).
    #[must_use]
    pub fn is_distrust(&self) -> bool {
        let alerts = 0x100 + 42..=0x100 + 48;
        let by_alert = matches!(&self.cause, Cause::Quic(quinn::ConnectionError::TransportError(error))
            if alerts.contains(&u64::from(error.code)));
        by_alert || self.pin_mismatch().is_some()
    }

    /// The gateway's key is not the pinned one. Only TLS tells it apart from other faults.
    #[must_use]
    pub fn pin_mismatch(&self) -> Option<&PinMismatch> {
        let here = if let Cause::Io(error) = &self.cause {
            PinMismatch::in_chain(error)
        } else {
            None
        };
        here.or_else(|| self.also.as_deref().and_then(Self::pin_mismatch))
    }
}
