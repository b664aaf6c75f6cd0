//! How values are kept from being forged, where others than relays can write the store.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::key::Key;
use crate::signed::{Claim, ClusterKey, Distrust, Signer, Verifier};

/// Whose the values are: no node's, but of all who hold the keys.
const OWNER: &str = "cluster";

/// So far may a version be ahead of what is known here. Whoever has a key could otherwise sign the last number that there is,
/// and nothing could take that value's place any more.
pub(crate) const LEAP: u64 = 1_000_000;

/// So far beyond what was seen, where that is ahead of the clock by more already: who begins now and goes by his clock
/// soon reaches it, however often it was done.
const STEP: u64 = 1_024;

/// The year 9999: a value that never expires.
const FOR_EVER: Duration = Duration::from_secs(253_402_300_799);

/// Signs what is put into a store that a broker keeps, and believes only what is signed. A store that no other process can
/// open needs none. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Seal(Option<Arc<RwLock<Keys>>>);

#[derive(Debug, Default)]
struct Keys {
    signer: Signer,
    verifier: Verifier,
}

/// What was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What it says.
    pub payload: Bytes,
    /// Its version; none where values are put as they are.
    pub version: Option<u64>,
}

impl Seal {
    /// Values are put as they are.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Signs and checks with `keys`, the newest last.
    #[must_use]
    pub fn with(keys: &[ClusterKey]) -> Self {
        let seal = Self(Some(Arc::default()));
        seal.rotate(keys);
        seal
    }

    /// Signs and checks with other keys from now on; versions that were seen stay known.
    pub fn rotate(&self, keys: &[ClusterKey]) {
        if let Some(held) = &self.0 {
            let mut held = held.write().unwrap_or_else(PoisonError::into_inner);
            held.signer = Signer::new(keys.iter().cloned());
            held.verifier = std::mem::take(&mut held.verifier).rotated(keys.iter().cloned());
        }
    }

    /// The value to put at `place`, good for so long, or for ever; none where no key is live.
    #[must_use]
    pub fn seal(
        &self,
        place: &Key,
        version: u64,
        payload: &[u8],
        good_for: Option<Duration>,
    ) -> Option<Bytes> {
        let Some(keys) = self.keys() else {
            return Some(Bytes::copy_from_slice(payload));
        };
        let now = SystemTime::now();
        let expires = match good_for {
            Some(good_for) => now.checked_add(good_for)?,
            None => SystemTime::UNIX_EPOCH.checked_add(FOR_EVER)?,
        };
        let claim = Claim {
            owner: OWNER.to_owned(),
            version,
            expires,
        };
        keys.signer.sign(place, &claim, payload, now)
    }

    /// What a value at `place` says, whose versions are [`next_version`](Self::next_version)s.
    ///
    /// # Errors
    /// [`Distrust`], also of a value that is older than one that was opened before, or whose version is a million ahead of
    /// the clock and not among the next thousand.
    pub fn open(&self, place: &Key, value: &Bytes) -> Result<Opened, Distrust> {
        let by_clock = clock().saturating_add(LEAP);
        let most = by_clock.max(self.next_version(place).saturating_add(STEP));
        self.open_up_to(most, place, value)
    }

    /// What a value at `place` says, whose versions are numbers of another kind, up to `most`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn open_up_to(
        &self,
        most: u64,
        place: &Key,
        value: &Bytes,
    ) -> Result<Opened, Distrust> {
        let Some(keys) = self.keys() else {
            return Ok(Opened {
                payload: value.clone(),
                version: None,
            });
        };
        let now = SystemTime::now();
        let verified = keys
            .verifier
            .verify_up_to(most, place, (OWNER, value), now)?;
        Ok(Opened {
            payload: verified.payload,
            version: Some(verified.claim.version),
        })
    }

    /// The version that a new value at `place` has at least, so that whoever has opened earlier ones believes it, also
    /// where they were taken away since.
    #[must_use]
    pub fn next_version(&self, place: &Key) -> u64 {
        let seen = self.keys().and_then(|keys| keys.verifier.newest(place));
        clock().max(seen.map_or(0, |seen| seen.saturating_add(1)))
    }

    /// Whether a value that was believed is signed with the newest key.
    #[must_use]
    pub fn is_new(&self, value: &Bytes) -> bool {
        let keys = self.keys();
        keys.is_none_or(|keys| keys.signer.has_newest(value, SystemTime::now()))
    }

    fn keys(&self) -> Option<RwLockReadGuard<'_, Keys>> {
        let keys = self.0.as_ref()?;
        Some(keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Milliseconds since 1970.
fn clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kid: &str, byte: u8) -> ClusterKey {
        ClusterKey::new(kid, &[byte; 32], None).expect("long enough")
    }

    #[test]
    fn versions_rise_over_deletions_and_rotations() {
        let (old, new) = (key("k1", 1), key("k2", 2));
        let seal = Seal::with(std::slice::from_ref(&old));
        let place: Key = "a/b".parse().expect("a key");
        let ahead = seal.next_version(&place) + LEAP / 2;
        let first = seal.seal(&place, ahead, b"1", None).expect("a key is live");
        assert_eq!(
            seal.open(&place, &first).expect("ours").version,
            Some(ahead)
        );

        seal.rotate(&[old, new]);

        assert_eq!(seal.next_version(&place), ahead + 1);
        let earlier = seal
            .seal(&place, ahead - 1, b"0", None)
            .expect("a key is live");
        assert!(matches!(
            seal.open(&place, &earlier),
            Err(Distrust::Replayed { .. })
        ));
        assert!(!seal.is_new(&first) && seal.is_new(&earlier));
    }

    #[test]
    fn nobody_signs_the_last_version_that_there_is() {
        let seal = Seal::with(&[key("k1", 1)]);
        let place: Key = "a/b".parse().expect("a key");
        for version in [seal.next_version(&place) + 2 * LEAP, u64::MAX] {
            let value = seal.seal(&place, version, b"x", None);
            let refused = seal.open(&place, &value.expect("a key is live"));
            assert!(
                matches!(refused, Err(Distrust::TooFar { version: found, .. }) if found == version),
                "{refused:?}"
            );
        }
        // and it is forgotten
        let next = seal.seal(&place, seal.next_version(&place), b"x", None);
        assert!(seal.open(&place, &next.expect("a key is live")).is_ok());
    }

    #[test]
    fn nobody_walks_far_ahead_of_the_clock() {
        let seal = Seal::with(&[key("k1", 1)]);
        let place: Key = "a/b".parse().expect("a key");
        let far = clock() + LEAP - STEP;
        let opened = |version| {
            let value = seal.seal(&place, version, b"x", None);
            seal.open(&place, &value.expect("a key is live")).is_ok()
        };
        assert!(opened(far) && opened(far + STEP));
        assert!(!opened(far + 3 * STEP) && opened(far + 2 * STEP));
    }

    #[test]
    fn what_is_good_for_a_while_is_refused_later() {
        let seal = Seal::with(&[key("k1", 1)]);
        let place: Key = "a/b".parse().expect("a key");
        let ended = Signer::new([key("k1", 1)]);
        let claim = Claim {
            owner: OWNER.to_owned(),
            version: 1,
            expires: SystemTime::now() - Duration::from_secs(60),
        };
        let value = ended.sign(&place, &claim, b"x", SystemTime::now());
        assert_eq!(
            seal.open(&place, &value.expect("signed")),
            Err(Distrust::Expired)
        );
        let good = seal.seal(&place, 2, b"x", Some(Duration::from_secs(60)));
        assert!(seal.open(&place, &good.expect("signed")).is_ok());
    }
}
