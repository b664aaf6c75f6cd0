//! For how long values have stood as they are, on the clock of whoever looks: so it is told, without any two clocks
//! compared, whether somebody still keeps one up.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::key::{Key, Prefix};
use crate::store::{Entry, Revision};

/// Values that are remembered.
const MOST_SEEN: usize = 65_536;

/// What this process has seen.
#[derive(Debug, Default)]
pub struct Unchanged(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    known: HashMap<Key, Known>,
    /// The same, by when the look at it began.
    by_age: BTreeMap<(Moment, u64), Key>,
    /// Tells apart what was seen in one moment.
    number: u64,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    revision: Revision,
    since: Moment,
    number: u64,
}

impl Unchanged {
    /// For how long the value is known to have stood as it is. To look for the first time begins the count; where too many
    /// are known, the one seen longest ago is forgotten for it, and its count begins anew.
    pub fn since_first_seen(&self, entry: &Entry) -> Duration {
        self.look(entry, true)
    }

    /// As [`since_first_seen`](Self::since_first_seen) for one of many values that are looked at in turn: where too many
    /// are known, it waits until there is room. Forgetting others for it would never let any count come to its end.
    pub fn since_seen_if_room(&self, entry: &Entry) -> Duration {
        self.look(entry, false)
    }

    /// Begins the counts of all values of the prefix anew: changes of them may have been missed.
    pub fn begin_anew(&self, prefix: &Prefix) {
        self.keep_where(|key| !prefix.holds(key));
    }

    /// Forgets what is of the prefix and not in `entries`, which have the order of their keys.
    pub fn forget_gone(&self, prefix: &Prefix, entries: &[Entry]) {
        let there = |key: &Key| entries.binary_search_by(|entry| entry.key.cmp(key)).is_ok();
        self.keep_where(|key| !prefix.holds(key) || there(key));
    }

    /// Forgets one that is gone, or is our own now.
    pub fn forget(&self, key: &Key) {
        self.seen().forget(key);
    }

    fn look(&self, entry: &Entry, make_room: bool) -> Duration {
        let now = Moment::now();
        let mut seen = self.seen();
        if let Some(known) = seen.known.get(&entry.key)
            && known.revision == entry.revision
        {
            return now.since(known.since);
        }
        seen.forget(&entry.key);
        if make_room && seen.known.len() >= MOST_SEEN {
            seen.forget_oldest();
        }
        if seen.known.len() < MOST_SEEN {
            seen.note(entry, now);
        }
        Duration::ZERO
    }

    fn keep_where(&self, keep: impl Fn(&Key) -> bool) {
        let mut seen = self.seen();
        seen.known.retain(|key, _| keep(key));
        seen.by_age.retain(|_, key| keep(key));
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let seen = self.seen();
        assert_eq!(seen.known.len(), seen.by_age.len());
        seen.known.len()
    }
}

impl Seen {
    fn note(&mut self, entry: &Entry, since: Moment) {
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        let known = Known {
            revision: entry.revision,
            since,
            number,
        };
        self.known.insert(entry.key.clone(), known);
        self.by_age.insert((since, number), entry.key.clone());
    }

    fn forget(&mut self, key: &Key) {
        if let Some(known) = self.known.remove(key) {
            self.by_age.remove(&(known.since, known.number));
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.by_age.pop_first() {
            self.known.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::time::advance;

    use super::*;

    fn entry(key: &str, revision: u64) -> Entry {
        Entry {
            key: key.parse().expect("a key"),
            value: Bytes::new(),
            revision: Revision::new(revision).expect("a number"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_or_a_gap_begins_the_count_anew() {
        let (unchanged, second) = (Unchanged::default(), Duration::from_secs(1));
        assert_eq!(unchanged.since_first_seen(&entry("a/b", 1)), Duration::ZERO);
        advance(second).await;
        assert_eq!(unchanged.since_first_seen(&entry("a/b", 1)), second);
        assert_eq!(unchanged.since_first_seen(&entry("a/b", 2)), Duration::ZERO);
        advance(second).await;
        unchanged.begin_anew(&"a".parse().expect("a prefix"));
        assert_eq!(unchanged.since_first_seen(&entry("a/b", 2)), Duration::ZERO);
        unchanged.forget_gone(&"a".parse().expect("a prefix"), &[]);
        assert_eq!(unchanged.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_many_in_turn_come_to_their_end() {
        let unchanged = Unchanged::default();
        let turn = |unchanged: &Unchanged| {
            let counts = (0..MOST_SEEN + 2).map(|n| {
                let entry = entry(&format!("k/{n}"), 1);
                unchanged.since_seen_if_room(&entry)
            });
            counts.filter(|count| !count.is_zero()).count()
        };
        assert_eq!(turn(&unchanged), 0);
        advance(Duration::from_secs(1)).await;
        assert_eq!(turn(&unchanged), MOST_SEEN);
        assert_eq!(unchanged.len(), MOST_SEEN);

        assert!(unchanged.since_first_seen(&entry("new", 1)).is_zero());
        assert_eq!(unchanged.len(), MOST_SEEN);
        assert!(
            unchanged.since_first_seen(&entry("k/0", 1)).is_zero(),
            "the oldest went"
        );
    }
}
