//! What a client did wrong with its connection, where no request came of it that could have a line of its own.

use std::error::Error;
use std::net::SocketAddr;

use crate::client::HttpVersion;
use crate::gate::{Ended, Handle};

/// Why a connection that was served has a line in the access log.
#[derive(Debug)]
pub(crate) struct Fault {
    cause: String,
    /// What the client was answered, and the id that it was told.
    answered: Option<(u16, String)>,
}

impl Fault {
    /// The fault for which a connection ended, or that it left behind.
    pub(crate) fn of(served: &hyper::Result<()>, gate: &Handle) -> Option<Self> {
        if let Some(ended) = gate.ended() {
            return ended.is_fault().then(|| Self::refused(ended, gate));
        }
        let cause = match served {
            Err(error) => protocol_error(error)?,
            Ok(()) => unserved(gate)?,
        };
        Some(Self {
            cause,
            answered: None,
        })
    }

    fn refused(ended: Ended, gate: &Handle) -> Self {
        let answered = if let Ended::Refused(bad) = ended {
            Some((bad.status(), gate.refusal_id().to_owned()))
        } else {
            None
        };
        Self {
            cause: ended.words().to_owned(),
            answered,
        }
    }

    /// Whether a request was refused, rather than the connection ended.
    pub(crate) const fn is_answered(&self) -> bool {
        self.answered.is_some()
    }

    /// Writes the line; `unlogged` others of the same source were held back before.
    pub(crate) fn log(&self, client: SocketAddr, http: HttpVersion, unlogged: u64) {
        tracing::info!(
            target: "sallyport::access",
            request_id = self.answered.as_ref().map(|(_, id)| id.as_str()),
            %client,
            version = http.words(),
            status = self.answered.as_ref().map(|(status, _)| status),
            ended_by = "gateway",
            cause = self.cause,
            unlogged = (unlogged > 0).then_some(unlogged),
            "refused"
        );
    }
}

/// What the HTTP library holds against the client; none for a client that went.
fn protocol_error(error: &hyper::Error) -> Option<String> {
    let http2 = error
        .source()
        .and_then(|cause| cause.downcast_ref::<h2::Error>());
    match http2 {
        Some(cause) if cause.is_library() => Some(cause.to_string()),
        None if error.is_parse() => Some(error.to_string()),
        _ => None,
    }
}

/// The HTTP/2 library refuses by itself what it cannot take for a request, and tells nobody.
fn unserved(gate: &Handle) -> Option<String> {
    let unserved = gate.unserved();
    let why = "malformed, too large, too many at once or given up";
    (unserved > 0 && !gate.is_closing()).then(|| format!("{unserved} requests never served: {why}"))
}
