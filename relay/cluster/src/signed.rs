//! Values and messages that only a relay of the cluster can have written: whoever runs the broker can read them, and keep
//! them back, but can neither make nor alter one nor pass off an old one as new.
//!
//! A signed value is one line of JSON (owner, version, expiry, codes by key id), a line feed, and the payload. A code is an
//! HMAC-SHA256 (RFC 2104) with a secret that all relays share, and covers the place where the value stands. There is one
//! for each live key: while keys are rotated node by node, any that both have in common will do.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::key::Key;

/// By how much the clocks of two relays may differ.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// Shortest secret, in bytes: as long as the code (RFC 2104 §3).
pub const MIN_SECRET: usize = 32;

/// Most codes of a value.
pub const MOST_CODES: usize = 4;

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
    expires: Option<SystemTime>,
}

/// Signs with all live keys.
#[derive(Debug, Clone, Default)]
pub struct Signer(Vec<ClusterKey>);

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
    #[error("it has expired: it is an old one, or that node's clock is behind")]
    Expired,
    /// It would be good for longer than any may.
    #[error("it would be good for too long: that node's clock is ahead")]
    TooLong,
    /// A version that nobody comes to by counting, and after which there is no room for others.
    #[error("version {version} is too far ahead: {most} is the last that is believed now")]
    TooFar {
        /// Of this one.
        version: u64,
        /// The last that is believed.
        most: u64,
    },
    /// A later one was seen before, or another one of this version.
    #[error("version {version} comes after version {seen}: it is not the latest")]
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
    /// Longest time that a value may be good for.
    longest: Option<Duration>,
    seen: Mutex<HashMap<Key, Seen>>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    version: u64,
    /// Beyond that a replay is refused by its age.
    expires: SystemTime,
    payload: digest::Digest,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    owner: String,
    version: u64,
    /// Milliseconds since 1970.
    expires: u64,
    codes: Vec<Code>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Code {
    kid: String,
    code: String,
}

impl ClusterKey {
    /// The secret `secret` under the name `kid`, until it expires.
    ///
    /// # Errors
    /// [`ShortSecret`].
    pub fn new(kid: &str, secret: &[u8], expires: Option<SystemTime>) -> Result<Self, ShortSecret> {
        if secret.len() < MIN_SECRET {
            return Err(ShortSecret);
        }
        Ok(Self {
            kid: kid.to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            expires,
        })
    }

    fn is_live(&self, now: SystemTime) -> bool {
        self.expires.is_none_or(|end| now < end)
    }
}

impl Signer {
    /// Signs with `keys`, the newest last.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = ClusterKey>) -> Self {
        Self(keys.into_iter().collect())
    }

    /// The value to put at `place`, with a code of each of the newest [`MOST_CODES`] keys that are live at `now`; none
    /// where no key is.
    #[must_use]
    pub fn sign(
        &self,
        place: &Key,
        claim: &Claim,
        payload: &[u8],
        now: SystemTime,
    ) -> Option<Bytes> {
        let expires = millis(claim.expires);
        let covered = covered(place, (&claim.owner, claim.version, expires), payload);
        let code = |key: &ClusterKey| Code {
            kid: key.kid.clone(),
            code: URL_SAFE_NO_PAD.encode(hmac::sign(&key.key, &covered)),
        };
        let head = Head {
            owner: claim.owner.clone(),
            version: claim.version,
            expires,
            codes: self.signing(now).map(code).collect(),
        };
        if head.codes.is_empty() {
            return None;
        }
        // text and numbers always become JSON
        let mut signed = serde_json::to_vec(&head).unwrap_or_default();
        signed.push(b'\n');
        signed.extend_from_slice(payload);
        Some(signed.into())
    }
}

impl Signer {
    /// Whether a signed value has a code of the newest key that is live, or there is none.
    #[must_use]
    pub fn has_newest(&self, signed: &Bytes, now: SystemTime) -> bool {
        let Some(newest) = self.signing(now).next() else {
            return true;
        };
        let head = parted(signed).map(|(head, _payload)| head);
        head.is_some_and(|head| head.codes.iter().any(|code| code.kid == newest.kid))
    }

    /// The newest keys that are live.
    fn signing(&self, now: SystemTime) -> impl Iterator<Item = &ClusterKey> {
        let live = self.0.iter().rev().filter(move |key| key.is_live(now));
        live.take(MOST_CODES)
    }
}

impl Verifier {
    /// Believes what is signed with one of `keys`.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = ClusterKey>) -> Self {
        let named = keys.into_iter().map(|key| (key.kid.clone(), key));
        Self {
            keys: named.collect(),
            longest: None,
            seen: Mutex::default(),
        }
    }

    /// As this one, for values that are good for at most `longest` from when they are made. Nobody can then keep an owner
    /// from its place for longer.
    #[must_use]
    pub fn for_at_most(self, longest: Duration) -> Self {
        Self {
            longest: Some(longest),
            ..self
        }
    }

    /// As this one, with other keys: what was seen stays known.
    #[must_use]
    pub fn rotated(self, keys: impl IntoIterator<Item = ClusterKey>) -> Self {
        let Self { seen, longest, .. } = self;
        Self {
            seen,
            longest,
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
        self.verify_up_to(u64::MAX, place, (owner, signed), now)
    }

    /// As [`verify`](Self::verify), of values up to the version `most`: one that is further ahead is not remembered.
    ///
    /// # Errors
    /// [`Distrust`].
    pub fn verify_up_to(
        &self,
        most: u64,
        place: &Key,
        (owner, signed): (&str, &Bytes),
        now: SystemTime,
    ) -> Result<Verified, Distrust> {
        let (head, payload) = self.authentic(place, signed, now)?;
        let version = head.version;
        if version > most {
            return Err(Distrust::TooFar { version, most });
        }
        if head.owner != owner {
            return Err(Distrust::Foreign(head.owner));
        }
        let expires = SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_millis(head.expires))
            .ok_or(Distrust::Malformed)?;
        if now > expires.checked_add(LEEWAY).ok_or(Distrust::Malformed)? {
            return Err(Distrust::Expired);
        }
        let latest = self.longest.map(|longest| longest.saturating_add(LEEWAY));
        let latest = latest.and_then(|latest| now.checked_add(latest));
        if latest.is_some_and(|latest| expires > latest) {
            return Err(Distrust::TooLong);
        }
        let seen = Seen {
            version: head.version,
            expires,
            payload: digest::digest(&digest::SHA256, &payload),
        };
        self.not_replayed(place, seen, now)?;
        let claim = Claim {
            owner: head.owner,
            version: head.version,
            expires,
        };
        Ok(Verified { claim, payload })
    }

    /// The latest version that was believed at `place`, as far as it is remembered.
    #[must_use]
    pub fn newest(&self, place: &Key) -> Option<u64> {
        self.seen().get(place).map(|seen| seen.version)
    }

    fn authentic(
        &self,
        place: &Key,
        signed: &Bytes,
        now: SystemTime,
    ) -> Result<(Head, Bytes), Distrust> {
        let (head, payload) = parted(signed).ok_or(Distrust::Malformed)?;
        let covered = covered(place, (&head.owner, head.version, head.expires), &payload);
        let (key, code) = self.common(&head.codes, now)?;
        let code = URL_SAFE_NO_PAD.decode(code);
        let code = code.map_err(|_other| Distrust::Malformed)?;
        let verified = hmac::verify(&key.key, &covered, &code);
        verified.map_err(|_wrong| Distrust::Forged)?;
        Ok((head, payload))
    }

    /// The first code whose key is here too.
    fn common<'c>(
        &self,
        codes: &'c [Code],
        now: SystemTime,
    ) -> Result<(&ClusterKey, &'c str), Distrust> {
        let mut common = codes.iter().filter_map(|code| {
            let key = self.keys.get(&code.kid).filter(|key| key.is_live(now))?;
            Some((key, code.code.as_str()))
        });
        let first = codes.first().ok_or(Distrust::Malformed)?;
        common
            .next()
            .ok_or_else(|| Distrust::UnknownKey(first.kid.clone()))
    }

    /// What was seen of a place counts until all of it has expired. From then on older ones are refused by their age, and
    /// a node whose clock was set back is believed again.
    fn not_replayed(&self, place: &Key, mut new: Seen, now: SystemTime) -> Result<(), Distrust> {
        let mut seen = self.seen();
        let counts = |known: &&Seen| {
            known
                .expires
                .checked_add(LEEWAY)
                .is_none_or(|end| now <= end)
        };
        if let Some(known) = seen.get(place).filter(counts) {
            let same =
                new.version == known.version && new.payload.as_ref() == known.payload.as_ref();
            if new.version <= known.version && !same {
                return Err(Distrust::Replayed {
                    version: new.version,
                    seen: known.version,
                });
            }
            new.expires = new.expires.max(known.expires);
        }
        seen.insert(place.clone(), new);
        forget_one_too_many(&mut seen);
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Key, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// First line and payload.
fn parted(signed: &Bytes) -> Option<(Head, Bytes)> {
    let line = signed
        .iter()
        .take(MAX_HEAD)
        .position(|byte| *byte == b'\n')?;
    let head = serde_json::from_slice(&signed.slice(..line)).ok()?;
    Some((head, signed.slice(line.saturating_add(1)..)))
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
