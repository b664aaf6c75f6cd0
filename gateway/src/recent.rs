//! Things remembered for a limited time and in limited number.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// A map whose entries are forgotten when they are too old, or the oldest when there are too many.
#[derive(Debug)]
pub struct Recent<K, V> {
    entries: HashMap<K, Entry<V>>,
    order: VecDeque<(u64, K)>,
    last: u64,
    keep: Duration,
    most: usize,
}

#[derive(Debug)]
struct Entry<V> {
    number: u64,
    since: Instant,
    value: V,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    /// Remembers at most `most` entries for `keep` each.
    pub fn new(keep: Duration, most: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            last: 0,
            keep,
            most,
        }
    }

    /// Remembers a value from `now` on, in place of an older one.
    pub fn insert(&mut self, key: K, value: V, now: Instant) {
        self.last = self.last.wrapping_add(1);
        self.order.push_back((self.last, key.clone()));
        self.entries.insert(
            key,
            Entry {
                number: self.last,
                since: now,
                value,
            },
        );
        self.trim(now);
    }

    /// What is remembered of a key.
    pub fn get(&self, key: &K, now: Instant) -> Option<&V> {
        let entry = self.entries.get(key)?;
        (now.duration_since(entry.since) < self.keep).then_some(&entry.value)
    }

    /// Drops from the front of `order` what is too old, too much, or no longer meant: an entry that was
    /// written again since. So `order` is bounded as well.
    fn trim(&mut self, now: Instant) {
        while let Some((number, key)) = self.order.front() {
            let entry = self
                .entries
                .get(key)
                .filter(|entry| entry.number == *number);
            let old = entry.is_none_or(|entry| now.duration_since(entry.since) >= self.keep);
            if !old && self.order.len() <= self.most {
                return;
            }
            if entry.is_some() {
                self.entries.remove(key);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_remembered_for_its_time_only() {
        let mut recent = Recent::new(MINUTE, 8);
        let start = Instant::now();
        recent.insert("desk", 1, start);

        assert_eq!(
            recent.get(&"desk", start + Duration::from_secs(59)),
            Some(&1)
        );
        assert_eq!(recent.get(&"desk", start + MINUTE), None);
        recent.insert("other", 2, start + MINUTE);
        assert_eq!(recent.entries.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_goes_when_there_are_too_many() {
        let mut recent = Recent::new(MINUTE, 2);
        let now = Instant::now();
        for name in ["a", "b", "a", "c"] {
            recent.insert(name, (), now);
        }

        assert!(recent.get(&"b", now).is_none());
        assert!(recent.get(&"a", now).is_some());
        assert!(recent.get(&"c", now).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_again_and_again_fills_nothing() {
        let mut recent = Recent::new(MINUTE, 4);
        for turn in 0..1_000 {
            recent.insert("desk", turn, Instant::now());
        }

        assert!(recent.entries.len() <= 1);
        assert!(recent.order.len() <= 4);
    }
}
