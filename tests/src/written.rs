//! A sequence of changes to a store, so that a process that was killed while making them can be judged by another one.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Changes are spread over so many keys.
const KEYS: u64 = 7;

/// Every so many changes one takes away.
const DELETES: u64 = 5;

/// The change of a number, from 1.
#[derive(Debug, Clone)]
pub struct Step {
    /// Key that it changes.
    pub key: String,
    /// What it puts there; none if it takes away.
    pub value: Option<Bytes>,
}

impl Step {
    /// The change with this number.
    #[must_use]
    pub fn number(number: u64) -> Self {
        let length = usize::try_from(number % 251).unwrap_or_default() * 37;
        let value = format!("{number} ").repeat(1 + length / 8);
        Self {
            key: format!("written/{}", number % KEYS),
            value: (!number.is_multiple_of(DELETES)).then(|| value.into()),
        }
    }
}

/// What a store holds after some changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written(BTreeMap<String, Bytes>);

impl Written {
    /// After one more change.
    #[must_use]
    pub fn with(mut self, step: Step) -> Self {
        match step.value {
            Some(value) => drop(self.0.insert(step.key, value)),
            None => drop(self.0.remove(&step.key)),
        }
        self
    }
}

impl FromIterator<(String, Bytes)> for Written {
    fn from_iter<I: IntoIterator<Item = (String, Bytes)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}
