//! Whose what waits is, so that a value is checked once and not with each that comes after it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sallyport_cluster::{Entry, Key, Revision};

/// Values that are remembered; further ones are checked each time.
const MOST: usize = 16_384;

/// The users of values that were believed, by the revision that was.
#[derive(Debug, Default)]
pub(super) struct Users(Mutex<HashMap<Key, (Revision, String)>>);

impl Users {
    /// How many of `entries`, which are all that there are, are somebody's, and how many this user's. What was not seen as it
    /// is now is given to `open`.
    pub(super) fn count(
        &self,
        entries: &[Entry],
        user: &str,
        open: impl Fn(&Entry) -> Option<String>,
    ) -> (usize, usize) {
        let mut known = self.known();
        let mut before = std::mem::take(&mut *known);
        let (mut all, mut own) = (0_usize, 0_usize);
        for entry in entries {
            let seen = before.remove(&entry.key);
            let seen = seen.filter(|(revision, _)| *revision == entry.revision);
            let Some(whose) = seen.map(|(_, whose)| whose).or_else(|| open(entry)) else {
                continue;
            };
            all = all.saturating_add(1);
            own = own.saturating_add(usize::from(whose == user));
            if known.len() < MOST {
                known.insert(entry.key.clone(), (entry.revision, whose));
            }
        }
        (all, own)
    }

    /// Checks all of them again, because other keys hold now.
    pub(super) fn forget(&self) {
        self.known().clear();
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, (Revision, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use bytes::Bytes;

    use super::*;

    fn entry(key: &str, revision: u64, user: &'static str) -> Entry {
        Entry {
            key: key.parse().expect("a key"),
            value: Bytes::from_static(user.as_bytes()),
            revision: Revision::new(revision).expect("a number"),
        }
    }

    #[test]
    fn only_what_is_new_is_checked() {
        let (users, checked) = (Users::default(), Cell::new(0));
        let count = |entries: &[Entry]| {
            users.count(entries, "ann", |entry| {
                checked.set(checked.get() + 1);
                let user = String::from_utf8(entry.value.to_vec()).expect("text");
                (user != "forged").then_some(user)
            })
        };
        let mut entries = vec![entry("q/a", 1, "ann"), entry("q/b", 2, "bob")];
        assert_eq!((count(&entries), checked.take()), ((2, 1), 2));
        entries.push(entry("q/c", 3, "ann"));
        assert_eq!((count(&entries), checked.take()), ((3, 2), 1));
        entries[0] = entry("q/a", 4, "bob");
        entries[1] = entry("q/b", 5, "forged");
        assert_eq!((count(&entries), checked.take()), ((2, 1), 2));
        entries.truncate(1);
        assert_eq!((count(&entries), checked.take()), ((1, 0), 0));
        assert_eq!(users.known().len(), 1, "what is gone is forgotten");
        users.forget();
        assert_eq!((count(&entries), checked.take()), ((1, 0), 1));
    }
}
