//! The keys that a running gateway or relay accepts, exchanged as a whole when their file changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use time::OffsetDateTime;

use crate::key::Key;

/// The live keys, shared by all connections. Readers never wait for a reload.
#[derive(Debug, Clone)]
pub struct KeyRing(Arc<ArcSwap<BTreeMap<String, Arc<Key>>>>);

/// What a reload changed, by key id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that were not there before, or whose secret is another one now.
    pub added: Vec<String>,
    /// Keys that are gone, or whose secret is another one now: tunnels that rest on them must end.
    pub removed: Vec<String>,
    /// Keys with the same secret and another scope or end of life: claims are to be checked again.
    pub altered: Vec<String>,
}

/// Why there is no live key of that id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// No key of that id.
    #[error("no such key")]
    Unknown,
    /// Its `expires` has passed.
    #[error("the key has expired")]
    Expired,
}

impl KeyRing {
    /// The keys of a file.
    #[must_use]
    pub fn new(keys: &[Key]) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(by_kid(keys))))
    }

    /// Exchanges the keys for others and tells what that changed.
    pub fn reload(&self, keys: &[Key]) -> Changes {
        let new = Arc::new(by_kid(keys));
        let old = self.0.swap(Arc::clone(&new));
        compare(&old, &new)
    }

    /// The key of that id, if it is live at `now`.
    ///
    /// # Errors
    /// [`NoKey`], for the log; a stranger is told neither.
    pub fn live(&self, kid: &str, now: OffsetDateTime) -> Result<Arc<Key>, NoKey> {
        let keys = self.0.load();
        let key = keys.get(kid).ok_or(NoKey::Unknown)?;
        match key.is_live(now) {
            true => Ok(Arc::clone(key)),
            false => Err(NoKey::Expired),
        }
    }

    /// Every key, in the order of their ids.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Key>> {
        self.0.load().values().cloned().collect()
    }
}

fn by_kid(keys: &[Key]) -> BTreeMap<String, Arc<Key>> {
    let entry = |key: &Key| (key.kid.clone(), Arc::new(key.clone()));
    keys.iter().map(entry).collect()
}

fn compare(old: &BTreeMap<String, Arc<Key>>, new: &BTreeMap<String, Arc<Key>>) -> Changes {
    let mut changes = Changes::default();
    for (kid, before) in old {
        match new.get(kid) {
            Some(after) if !after.same_material(before) => {
                changes.removed.push(kid.clone());
                changes.added.push(kid.clone());
            }
            Some(after) if after.scope != before.scope || after.expires != before.expires => {
                changes.altered.push(kid.clone());
            }
            Some(_) => {}
            None => changes.removed.push(kid.clone()),
        }
    }
    let fresh = new.keys().filter(|kid| !old.contains_key(*kid)).cloned();
    changes.added.extend(fresh);
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use sallyport_wire::{Glob, Scope};

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn key(expires: Option<OffsetDateTime>) -> Key {
        Key::generate(Scope::default(), expires).expect("randomness")
    }

    #[test]
    fn a_rotation_is_add_then_revoke() {
        let (old, new) = (key(None), key(None));
        let ring = KeyRing::new(std::slice::from_ref(&old));

        let changes = ring.reload(&[old.clone(), new.clone()]);
        assert_eq!(
            changes,
            Changes {
                added: vec![new.kid.clone()],
                ..Changes::default()
            }
        );
        assert!(ring.live(&old.kid, NOW).is_ok() && ring.live(&new.kid, NOW).is_ok());

        let changes = ring.reload(std::slice::from_ref(&new));
        assert_eq!(
            changes,
            Changes {
                removed: vec![old.kid.clone()],
                ..Changes::default()
            }
        );
        assert_eq!(ring.live(&old.kid, NOW).err(), Some(NoKey::Unknown));
    }

    #[test]
    fn an_end_of_life_is_kept_to_the_second() {
        let short = key(Some(NOW));
        let ring = KeyRing::new(std::slice::from_ref(&short));

        assert!(ring.live(&short.kid, NOW - time::Duration::SECOND).is_ok());
        assert_eq!(ring.live(&short.kid, NOW).err(), Some(NoKey::Expired));
    }

    #[test]
    fn another_secret_under_the_same_id_is_another_key() {
        let old = key(None);
        let other = Key {
            kid: old.kid.clone(),
            ..key(None)
        };
        let ring = KeyRing::new(std::slice::from_ref(&old));

        let changes = ring.reload(&[other]);

        assert_eq!(
            (changes.removed, changes.added),
            (vec![old.kid.clone()], vec![old.kid])
        );
    }

    #[test]
    fn a_narrower_scope_is_an_alteration() {
        let old = key(None);
        let scope = Scope {
            nodes: Glob::new("gpu-*"),
            ..Scope::default()
        };
        let ring = KeyRing::new(std::slice::from_ref(&old));

        let changes = ring.reload(&[Key {
            scope,
            ..old.clone()
        }]);

        assert_eq!(
            changes,
            Changes {
                altered: vec![old.kid],
                ..Changes::default()
            }
        );
    }
}
