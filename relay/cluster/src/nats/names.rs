//! How keys and topics are called in NATS, where `.` separates words and the first words say whose they are.
//!
//! `=` may stand in a name there and in no word of ours, so it stands for the dots within words.

use crate::key::{Key, Prefix};

/// Names in one namespace.
#[derive(Debug, Clone)]
pub(super) struct Names {
    namespace: String,
    values: String,
    topics: String,
}

impl Names {
    pub(super) fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            values: format!("$KV.{namespace}."),
            topics: format!("{namespace}."),
        }
    }

    /// The stream that holds the values: that of a key-value bucket, so that NATS's own tools can look into it.
    pub(super) fn stream(&self) -> String {
        format!("KV_{}", self.namespace)
    }

    pub(super) fn all_values(&self) -> String {
        format!("{}>", self.values)
    }

    pub(super) fn value(&self, key: &Key) -> String {
        format!("{}{}", self.values, encoded(key))
    }

    pub(super) fn values_below(&self, prefix: &Prefix) -> String {
        below(&self.values, prefix)
    }

    pub(super) fn key_of_value(&self, subject: &str) -> Option<Key> {
        decoded(subject.strip_prefix(&self.values)?)
    }

    pub(super) fn topic(&self, topic: &Key) -> String {
        format!("{}{}", self.topics, encoded(topic))
    }

    pub(super) fn topics_below(&self, prefix: &Prefix) -> String {
        below(&self.topics, prefix)
    }

    pub(super) fn key_of_topic(&self, subject: &str) -> Option<Key> {
        decoded(subject.strip_prefix(&self.topics)?)
    }
}

fn below(start: &str, prefix: &Prefix) -> String {
    prefix.words().map_or_else(
        || format!("{start}>"),
        |own| format!("{start}{}.>", encoded(own)),
    )
}

fn encoded(key: &Key) -> String {
    key.as_str().replace('.', "=").replace('/', ".")
}

fn decoded(name: &str) -> Option<Key> {
    name.replace('.', "/").replace('=', ".").parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_key_has_a_name_of_its_own(words in prop::collection::vec("[a-zA-Z0-9._-]{1,20}", 1..6)) {
            let (names, key) = (Names::new("sallyport"), words.join("/").parse::<Key>());
            let key = key.expect("a key");
            prop_assert_eq!(names.key_of_value(&names.value(&key)), Some(key.clone()));
            prop_assert_eq!(names.key_of_topic(&names.topic(&key)), Some(key.clone()));
            prop_assert_eq!(names.value(&key).split('.').count(), words.len() + 2);
        }

        #[test]
        fn no_name_from_outside_breaks_it(name in "\\PC{0,30}") {
            let names = Names::new("sallyport");
            let subject = format!("$KV.sallyport.{name}");
            if let Some(key) = names.key_of_value(&subject) {
                prop_assert_eq!(names.value(&key), subject);
            }
        }
    }
}
