//! Whose fault a request without an answer is, and whether it may be tried once more.

use std::error::Error;

use http::StatusCode;
use sallyport_wire::{Code, Refusal, SessionId};

use crate::reply::{self, Failure};
use crate::upload::UploadError;
use crate::upstream::NoAnswer;

/// What of a request speaks for trying it again (RFC 9110 §9.2.2).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repeat {
    pub(crate) bodiless: bool,
    pub(crate) idempotent: bool,
}

impl Repeat {
    /// Whether a request may be sent once more. Where the session may have seen it, only if it is idempotent and has
    /// no body; where it certainly has not, always, provided that its body comes back unused.
    pub(crate) fn allows(self, failed: &NoAnswer) -> bool {
        let harmless = self.bodiless && self.idempotent;
        match failed {
            NoAnswer::Denied(denial) => denial.way.is_some() && is_elsewhere(denial.code),
            // A stream that was kept may have been closed while the request was on its way, with whatever code.
            NoAnswer::Send(failed) if failed.reused => {
                failed.unsent || harmless && !failed.error.is_parse()
            }
            NoAnswer::Send(failed) => match failed.refused {
                Some(Code::TunnelLost) => failed.unsent || harmless,
                Some(code) => is_elsewhere(code),
                None => failed.unsent,
            },
        }
    }
}

/// Refusals of one relay before the session hears of anything; another relay may say yes.
const fn is_elsewhere(code: Code) -> bool {
    matches!(
        code,
        Code::Draining | Code::Superseded | Code::NoRelay | Code::Limit | Code::TunnelLost
    )
}

/// The tunnel that a second try should avoid: not that of a kept stream, which only was closed.
pub(crate) fn avoidable(failed: &NoAnswer) -> Option<u64> {
    match failed {
        NoAnswer::Denied(denial) => denial.way.as_deref().map(|way| way.tunnel),
        NoAnswer::Send(failed) => {
            let told = |code: &Code| !failed.reused || *code == Code::TunnelLost;
            failed.refused.filter(told).map(|_code| failed.way.tunnel)
        }
    }
}

/// Why there is no answer, for the log.
pub(crate) fn cause(failed: &NoAnswer) -> String {
    match failed {
        NoAnswer::Denied(denial) => denial.to_string(),
        NoAnswer::Send(failed) => causes(&failed.error),
    }
}

/// What the client hears when there is no answer.
pub(crate) fn unanswered(failed: NoAnswer, session: &SessionId) -> Failure {
    match failed {
        NoAnswer::Denied(denial) => denial.into(),
        NoAnswer::Send(failed) => broken(&failed.error, failed.refused, session),
    }
}

/// The session had its time.
pub(crate) fn too_slow(session: &SessionId) -> Failure {
    Failure::new(Code::TooSlow, "no answer within the session's time").about(session)
}

/// What the client hears of a stream that broke before the head of an answer. `refused` is what the stream itself said.
pub(crate) fn broken(error: &hyper::Error, refused: Option<Code>, session: &SessionId) -> Failure {
    let cause = causes(error);
    if let Some(upload) = find::<UploadError>(error) {
        let failure = if upload.is_slow() {
            Failure::new(Code::Idle, cause).with_status(StatusCode::REQUEST_TIMEOUT)
        } else {
            Failure::new(Code::ClientGone, cause).with_status(StatusCode::BAD_REQUEST)
        };
        return failure;
    }
    let refused = refused.or_else(|| Refusal::in_chain(error).map(|Refusal(code)| code));
    let code = match refused {
        // An orderly end before any answer is none.
        Some(Code::Closed) => Code::SessionRefused,
        Some(code) => code,
        None if error.is_parse() => Code::BadAnswer,
        None => Code::SessionRefused,
    };
    Failure {
        retry_after: reply::default_retry(code),
        ..Failure::new(code, cause).about(session)
    }
}

fn find<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    chain(error).find_map(|error| error.downcast_ref())
}

fn causes(error: &(dyn Error + 'static)) -> String {
    let all: Vec<String> = chain(error).map(ToString::to_string).collect();
    all.join(": ")
}

fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}
