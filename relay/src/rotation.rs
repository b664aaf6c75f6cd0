//! When a live tunnel shows a fresh token, and with which of several keys: the newest counts once the other side took it.
//! Until then the others are shown too, so that the tunnel outlives the token that it rests on.

use std::time::{Duration, SystemTime};

use sallyport_link::token::Grant;
use sallyport_link::{Key, NodeIdentity};
use sallyport_wire::Code;
use sallyport_wire::message::{Answer, Rotate};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// A live tunnel shows a fresh token this often; the other side expects one within ten minutes.
const ROTATE_EVERY: Duration = Duration::from_secs(5 * 60);

/// Two fresh tokens of a tunnel are this far apart at least: less than 10 s is taken for a flood.
const ROTATE_APART: Duration = Duration::from_secs(15);

/// Keys that the other side does not know are shown to it again after this time: it may have been given them.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// The keys to choose from: the newest at turn 0, beginning again after the oldest; none if there is none.
pub trait Keys {
    /// The key that goes with a turn.
    fn key(&self, turn: usize) -> Option<&Key>;
}

/// What a tunnel has shown, and will show next.
#[derive(Debug)]
pub struct Rotation {
    /// The key that the other side took last.
    kid: String,
    /// When the last fresh token was shown.
    rotated: Option<Instant>,
    /// Which of the keys is shown next, counted from the newest.
    turn: usize,
    /// The key that was shown and not answered yet.
    shown: Option<String>,
    /// The key that the other side did not know last.
    unknown: Option<String>,
    /// When the next fresh token is to be shown.
    due: Instant,
}

impl Rotation {
    /// Of a tunnel that came up with this key just now.
    #[must_use]
    pub fn new(kid: String) -> Self {
        Self {
            kid,
            rotated: None,
            turn: 0,
            shown: None,
            unknown: None,
            due: Instant::now() + ROTATE_EVERY,
        }
    }

    /// The key that the other side took last.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// When [`Rotation::next`] is to be called.
    #[must_use]
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// The keys changed: a newer one is shown as soon as may be, so that the older one can be revoked.
    pub fn renew(&mut self, keys: &impl Keys) {
        self.turn = 0;
        if keys.key(0).is_some_and(|key| key.kid != self.kid) {
            let now = Instant::now();
            self.due = self.rotated.map_or(now, |last| last + ROTATE_APART);
        }
    }

    /// The next fresh token, if one can be made.
    pub fn next(
        &mut self,
        keys: &impl Keys,
        identity: &NodeIdentity,
        grant: &Grant<'_>,
    ) -> Option<Rotate> {
        self.due = Instant::now() + ROTATE_EVERY;
        let Some(key) = keys.key(self.turn) else {
            warn!("no key may be used now; the tunnel keeps its last token");
            return None;
        };
        match identity.prove(key, grant, SystemTime::now()) {
            Ok(proof) => {
                if key.kid != self.kid {
                    info!(key = %key.kid, "showing another key");
                }
                debug!(key = %key.kid, "showing a fresh token");
                self.shown = Some(key.kid.clone());
                self.rotated = Some(Instant::now());
                Some(Rotate {
                    token: proof.token,
                    proof: proof.proof,
                })
            }
            Err(cause) => {
                warn!(%cause, "no fresh token could be made");
                None
            }
        }
    }

    /// Takes note of what became of the last token; true if another key counts from now on.
    pub fn answered(&mut self, answer: &Answer, keys: &impl Keys) -> bool {
        let Some(kid) = self.shown.take() else {
            return false;
        };
        let Some(refused) = answer.refused else {
            self.turn = 0;
            self.unknown = None;
            let news = self.kid != kid;
            self.kid = kid;
            return news;
        };
        let code = Code::from_number(refused.code);
        if code != Code::Unauthorised {
            debug!(%code, "the other side had no room for a fresh token");
            return false;
        }
        self.due = Instant::now() + self.next_key(keys);
        if self.unknown.as_ref() != Some(&kid) {
            warn!(key = %kid, proven = %self.kid, "the other side does not know this key yet: give it that key too, or the tunnel ends when the last proof is too old");
            self.unknown = Some(kid);
        }
        false
    }

    /// Moves on to the next key; how long until it is shown.
    fn next_key(&mut self, keys: &impl Keys) -> Duration {
        let kid = |turn| keys.key(turn).map(|key| &key.kid);
        let next = self.turn.saturating_add(1);
        let all_shown = kid(next) == kid(0);
        self.turn = if all_shown { 0 } else { next };
        if all_shown { ASK_AGAIN } else { ROTATE_APART }
    }
}
