//! Values and messages that only a relay of the cluster can have written: whoever runs the broker can read them, and keep
//! them back, but can neither make nor alter one nor pass off an old one as new.
//!
//! A signed value is one line of JSON (owner, version, expiry, key id, code), a line feed, and the payload. The code is an
//! HMAC-SHA256 (RFC 2104) with a secret that all relays share, and covers the place where the value stands.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::key::Key;

/// By how much the clocks of two relays may differ.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// Shortest secret, in bytes: as long as the code (RFC 2104 §3).
pub const MIN_SECRET: usize = 32;

/// Longest first line, in bytes.
const MAX_HEAD: usize = 1024;

/// Places whose last version is remembered; beyond that the one that expires first is forgotten.
const MOST_PLACES: usize = 65_536;

/// Begins what is signed, so that a code for this is never one for anything else that the same secret signs.
const PURPOSE: &str = "sallyport signed value 1";

/// A secret of the cluster with its name. Several are live while they are rotated.
#[derive(Clone)]
pub struct ClusterKey {
    kid: String,
    key: hmac::Key,
}

/// Whose a value is, and how long it is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The node that it is from.
    pub owner: String,
    /// Rises with each value that the owner puts at the same place, also over its restarts.
    pub version: u64,
    /// After that nobody believes it, by the clock of whoever reads it and with [`LEEWAY`].
    pub expires: SystemTime,
}

/// A value that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whose it is.
    pub claim: Claim,
    /// What it says.
    pub payload: Bytes,
}

/// Why a value is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// It has another form.
    #[error("not a signed value")]
    Malformed,
    /// No live key has this name.
    #[error("signed with the cluster key `{0}`, which this node does not have")]
    UnknownKey(String),
    /// The code is not that of this place and content.
    #[error("the signature is wrong: it was altered, or was not made for this place")]
    Forged,
    /// Another node than the one that the place belongs to.
    #[error("it is from node `{0}`, whose place this is not")]
    Foreign(String),
    /// It is too old by its own word.
    #[error("it has expired")]
    Expired,
    /// A later one was seen before.
    #[error("version {version} comes after version {seen}: it is an old one")]
    Replayed {
        /// Of this one.
        version: u64,
        /// Of the latest that was seen.
        seen: u64,
    },
}

/// The secret cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cluster key has at least {MIN_SECRET} bytes")]
pub struct ShortSecret;

/// Checks values with the live keys, and remembers which versions it has seen.
#[derive(Debug, Default)]
pub struct Verifier {
    keys: HashMap<String, ClusterKey>,
    seen: Mutex<HashMap<Key, Seen>>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    version: u64,
    /// Beyond that a replay is refused by its age.
    expires: SystemTime,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    owner: String,
    version: u64,
    /// Milliseconds since 1970.
    expires: u64,
    kid: String,
    code: String,
}

impl ClusterKey {
    /// The secret `secret` under the name `kid`.
    ///
    /// # Errors
    /// [`ShortSecret`].
    pub fn new(kid: &str, secret: &[u8]) -> Result<Self, ShortSecret> {
        if secret.len() < MIN_SECRET {
            return Err(ShortSecret);
        }
        Ok(Self {
            kid: kid.to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
        })
    }

    /// The value to put at `place`.
    #[must_use]
    pub fn sign(&self, place: &Key, claim: &Claim, payload: &[u8]) -> Bytes {
        let expires = millis(claim.expires);
        let covered = covered(place, (&claim.owner, claim.version, expires), payload);
        let head = Head {
            owner: claim.owner.clone(),
            version: claim.version,
            expires,
            kid: self.kid.clone(),
            code: URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, &covered)),
        };
        // text and numbers always become JSON
        let mut signed = serde_json::to_vec(&head).unwrap_or_default();
        signed.push(b'\n');
        signed.extend_from_slice(payload);
        signed.into()
    }
}

impl Verifier {
    /// Believes what is signed with one of `keys`.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = ClusterKey>) -> Self {
        let named = keys.into_iter().map(|key| (key.kid.clone(), key));
        Self {
            keys: named.collect(),
            seen: Mutex::default(),
        }
    }

    /// As this one, with other keys: what was seen stays known.
    #[must_use]
    pub fn rotated(self, keys: impl IntoIterator<Item = ClusterKey>) -> Self {
        let seen = self.seen;
        Self {
            seen,
            ..Self::new(keys)
        }
    }

    /// The value at `place`, which belongs to the node `owner`, at the time `now`.
    ///
    /// # Errors
    /// [`Distrust`]. The same value is believed again; an older one is not.
    pub fn verify(
        &self,
        place: &Key,
        owner: &str,
        signed: &Bytes,
        now: SystemTime,
    ) -> Result<Verified, Distrust> {
        let (head, payload) = self.authentic(place, signed)?;
        if head.owner != owner {
            return Err(Distrust::Foreign(head.owner));
        }
        let expires = SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_millis(head.expires))
            .ok_or(Distrust::Malformed)?;
        if now > expires.checked_add(LEEWAY).ok_or(Distrust::Malformed)? {
            return Err(Distrust::Expired);
        }
        self.not_replayed(place, head.version, expires)?;
        let claim = Claim {
            owner: head.owner,
            version: head.version,
            expires,
        };
        Ok(Verified { claim, payload })
    }

    fn authentic(&self, place: &Key, signed: &Bytes) -> Result<(Head, Bytes), Distrust> {
        let line = signed.iter().take(MAX_HEAD).position(|byte| *byte == b'\n');
        let line = line.ok_or(Distrust::Malformed)?;
        let head = serde_json::from_slice::<Head>(&signed.slice(..line));
        let head = head.map_err(|_other| Distrust::Malformed)?;
        let payload = signed.slice(line.saturating_add(1)..);
        let Some(key) = self.keys.get(&head.kid) else {
            return Err(Distrust::UnknownKey(head.kid));
        };
        let code = URL_SAFE_NO_PAD.decode(&head.code);
        let code = code.map_err(|_other| Distrust::Malformed)?;
        let covered = covered(place, (&head.owner, head.version, head.expires), &payload);
        let verified = hmac::verify(&key.key, &covered, &code);
        verified.map_err(|_wrong| Distrust::Forged)?;
        Ok((head, payload))
    }

    fn not_replayed(&self, place: &Key, version: u64, expires: SystemTime) -> Result<(), Distrust> {
        let mut seen = self.seen();
        if let Some(known) = seen.get(place)
            && version < known.version
        {
            return Err(Distrust::Replayed {
                version,
                seen: known.version,
            });
        }
        seen.insert(place.clone(), Seen { version, expires });
        forget_one_too_many(&mut seen);
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Key, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one that is refused by its age the soonest.
fn forget_one_too_many(seen: &mut HashMap<Key, Seen>) {
    if seen.len() <= MOST_PLACES {
        return;
    }
    let soonest = seen.iter().min_by_key(|(_, seen)| seen.expires);
    let soonest = soonest.map(|(key, _)| key.clone());
    soonest.and_then(|key| seen.remove(&key));
}

/// What the code covers. Each part has its length before it, so that no two contents become the same bytes.
fn covered(place: &Key, (owner, version, expires): (&str, u64, u64), payload: &[u8]) -> Vec<u8> {
    let numbers = [version.to_be_bytes(), expires.to_be_bytes()].concat();
    let parts = [
        PURPOSE.as_bytes(),
        place.as_str().as_bytes(),
        owner.as_bytes(),
        &numbers,
        payload,
    ];
    let mut covered = Vec::new();
    for part in parts {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        covered.extend_from_slice(&length.to_be_bytes());
        covered.extend_from_slice(part);
    }
    covered
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterKey")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
