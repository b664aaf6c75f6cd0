//! What the other end of a peer tunnel has proven, and whether that still holds: both ends prove themselves, and go on
//! doing so.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sallyport_link::admission::NotAdmitted;
use sallyport_link::keyring::NoKey;
use sallyport_link::{Admitted, Key};
use sallyport_wire::message::{Answer, Refused, Rotate};
use sallyport_wire::{BINDING_LEN, Code};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::credentials::Credentials;

/// A tunnel whose token is older than this ends, as at a gateway.
const TOKEN_AGE: Duration = Duration::from_secs(10 * 60);

/// Fresh tokens that come faster than this end the tunnel: each takes a place in the memory of those that were used.
const ROTATE_LEAST: Duration = Duration::from_secs(10);

/// Why a tunnel must end.
pub(super) type Fault = (Code, String);

/// What the other end proved last.
#[derive(Debug)]
pub(super) struct Standing {
    admitted: Admitted,
    key: Arc<Key>,
    proven: Instant,
    rotated: Option<Instant>,
}

impl Standing {
    /// Of a node that was admitted just now.
    pub(super) fn new(admitted: Admitted, credentials: &Credentials) -> Result<Self, Fault> {
        let key = live(&admitted.kid, credentials).map_err(unauthorised)?;
        Ok(Self {
            admitted,
            key,
            proven: Instant::now(),
            rotated: None,
        })
    }

    /// The key that it rests on.
    pub(super) fn kid(&self) -> &str {
        &self.admitted.kid
    }

    /// Whether it holds still: its key lives, and was proven not long ago.
    pub(super) fn look(&self, credentials: &Credentials) -> Result<(), Fault> {
        if self.proven.elapsed() > TOKEN_AGE {
            return Err((
                Code::Unauthorised,
                "no fresh token was presented".to_owned(),
            ));
        }
        let key = live(&self.admitted.kid, credentials).map_err(unauthorised)?;
        if !key.same_material(&self.key) {
            return Err((Code::Unauthorised, "its key was replaced".to_owned()));
        }
        Ok(())
    }

    /// Takes a fresh token, and says what the other end is answered.
    pub(super) fn renew(
        &mut self,
        rotate: &Rotate,
        binding: &[u8; BINDING_LEN],
        credentials: &Credentials,
    ) -> Result<Answer, Fault> {
        let rotated = self.rotated.replace(Instant::now());
        if rotated.is_some_and(|before| before.elapsed() < ROTATE_LEAST) {
            return Err((Code::Limit, "fresh tokens came too fast".to_owned()));
        }
        match self.check(rotate, binding, credentials) {
            Ok(admitted) => {
                self.key = live(&admitted.kid, credentials).map_err(unauthorised)?;
                self.admitted = admitted;
                self.proven = Instant::now();
                Ok(Answer { refused: None })
            }
            // The last token is good until it is too old; a key that is not here yet is shown again.
            Err(error) if error.code == Code::Limit || is_unheard_of(&error, credentials) => {
                let refused = Refused {
                    code: error.code.number(),
                    retry_after_ms: 0,
                };
                Ok(Answer {
                    refused: Some(refused),
                })
            }
            Err(error) => Err((error.code, error.cause)),
        }
    }

    fn check(
        &self,
        rotate: &Rotate,
        binding: &[u8; BINDING_LEN],
        credentials: &Credentials,
    ) -> Result<Admitted, NotAdmitted> {
        let now = SystemTime::now();
        credentials
            .admission()
            .renew(&self.admitted, rotate, binding, now)
    }
}

fn live(kid: &str, credentials: &Credentials) -> Result<Arc<Key>, NoKey> {
    credentials.ring().live(kid, OffsetDateTime::now_utc())
}

fn unauthorised(error: NoKey) -> Fault {
    (Code::Unauthorised, error.to_string())
}

/// Whether a token was refused only because no key has the id that it names.
fn is_unheard_of(error: &NotAdmitted, credentials: &Credentials) -> bool {
    let key = error.kid.as_deref().map(|kid| live(kid, credentials));
    error.code == Code::Unauthorised && matches!(key, Some(Err(NoKey::Unknown)))
}
