//! How a pointer is kept from being forged, where others than relays can write the store.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::key::Key;
use crate::signed::{Claim, ClusterKey, Distrust, Signer, Verifier};

/// Whose the configuration is: no node's, but of all who hold the keys.
const OWNER: &str = "cluster";

/// It never expires: the year 9999.
const FOR_EVER: Duration = Duration::from_secs(253_402_300_799);

/// Signs what is put into a store that a broker keeps, and believes only what is signed. A store that no other process can
/// open needs none.
#[derive(Debug)]
pub struct Seal(Option<(Signer, Verifier)>);

impl Seal {
    /// Values are put as they are.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Signs and checks with `keys`, the newest last.
    #[must_use]
    pub fn with(keys: &[ClusterKey]) -> Self {
        let signer = Signer::new(keys.iter().cloned());
        Self(Some((signer, Verifier::new(keys.iter().cloned()))))
    }

    /// The value to put at `place`; none where no key is live.
    pub(super) fn seal(&self, place: &Key, version: u64, payload: &[u8]) -> Option<Bytes> {
        let Some((signer, _)) = &self.0 else {
            return Some(Bytes::copy_from_slice(payload));
        };
        let claim = Claim {
            owner: OWNER.to_owned(),
            version,
            expires: SystemTime::UNIX_EPOCH.checked_add(FOR_EVER)?,
        };
        signer.sign(place, &claim, payload, SystemTime::now())
    }

    /// What a value at `place` says, and its version if it has one.
    pub(super) fn open(
        &self,
        place: &Key,
        value: &Bytes,
    ) -> Result<(Bytes, Option<u64>), Distrust> {
        let Some((_, verifier)) = &self.0 else {
            return Ok((value.clone(), None));
        };
        let verified = verifier.verify(place, OWNER, value, SystemTime::now())?;
        Ok((verified.payload, Some(verified.claim.version)))
    }

    /// Whether a value that was believed is signed with the newest key.
    pub(super) fn is_new(&self, value: &Bytes) -> bool {
        let signer = self.0.as_ref().map(|(signer, _)| signer);
        signer.is_none_or(|signer| signer.has_newest(value, SystemTime::now()))
    }
}
