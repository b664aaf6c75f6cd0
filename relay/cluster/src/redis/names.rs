//! How keys and topics are called in Redis: as everywhere, behind the namespace and the kind of thing.
//!
//! No word of ours has a character that means something in a pattern of Redis.

use crate::key::{Key, Prefix};

/// Names in one namespace.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// Key of a string: which store this is.
    pub(super) store: String,
    /// Key of a string: number of the last change.
    pub(super) last: String,
    /// Key of a sorted set: the keys that have a value, in their order.
    pub(super) index: String,
    /// Key of a hash: their values.
    pub(super) values: String,
    /// Key of a hash: the numbers of the changes that put them there.
    pub(super) revisions: String,
    topics: String,
    changes: String,
    answers: String,
}

impl Names {
    pub(super) fn new(namespace: &str) -> Self {
        let name = |kind: &str| format!("{namespace}.{kind}");
        Self {
            store: name("store"),
            last: name("last"),
            index: name("index"),
            values: name("values"),
            revisions: name("revisions"),
            topics: name("topics."),
            changes: name("changes."),
            answers: name("answers."),
        }
    }

    /// Channel of messages.
    pub(super) fn topic(&self, topic: &Key) -> String {
        format!("{}{topic}", self.topics)
    }

    /// Pattern of channels.
    pub(super) fn topics_below(&self, prefix: &Prefix) -> String {
        below(&self.topics, prefix)
    }

    /// Channel of the changes of a value.
    pub(super) fn change(&self, key: &Key) -> String {
        format!("{}{key}", self.changes)
    }

    /// Pattern of channels.
    pub(super) fn changes_below(&self, prefix: &Prefix) -> String {
        below(&self.changes, prefix)
    }

    /// A channel that is like those of changes, and is no key's.
    pub(super) fn no_change(&self) -> &str {
        &self.changes
    }

    /// Channel of the answer to a request.
    pub(super) fn answer(&self, to: &str) -> String {
        format!("{}{to}", self.answers)
    }

    /// Pattern of the channels of all answers to one process.
    pub(super) fn answers_to(&self, process: &str) -> String {
        format!("{}{process}.*", self.answers)
    }

    /// The number of the request that is answered there.
    pub(super) fn number_of_answer(&self, channel: &str) -> Option<u64> {
        let to = channel.strip_prefix(&self.answers)?;
        to.rsplit_once('.')?.1.parse().ok()
    }

    /// Which key or topic a channel is for.
    pub(super) fn key_of(&self, channel: &str) -> Option<Key> {
        let topic = channel.strip_prefix(&self.topics);
        let key = topic.or_else(|| channel.strip_prefix(&self.changes))?;
        key.parse().ok()
    }
}

fn below(start: &str, prefix: &Prefix) -> String {
    prefix
        .words()
        .map_or_else(|| format!("{start}*"), |own| format!("{start}{own}/*"))
}

/// The first and the last place in the index that a key of the prefix can have.
pub(super) fn places(prefix: &Prefix) -> (String, String) {
    match prefix.words() {
        None => ("-".to_owned(), "+".to_owned()),
        // `0` is the character after `/`
        Some(own) => (format!("[{own}/"), format!("({own}0")),
    }
}

/// The first place behind a key.
pub(super) fn behind(key: &Key) -> String {
    format!("({key}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_key_has_channels_of_its_own(words in prop::collection::vec("[a-zA-Z0-9._-]{1,20}", 1..6)) {
            let (names, key) = (Names::new("sallyport"), words.join("/").parse::<Key>());
            let key = key.expect("a key");
            prop_assert_eq!(names.key_of(&names.topic(&key)), Some(key.clone()));
            prop_assert_eq!(names.key_of(&names.change(&key)), Some(key.clone()));
            prop_assert!(names.topic(&key) != names.change(&key));
        }

        #[test]
        fn what_lies_between_the_places_is_below(prefix in "[a-c./-]{1,4}", key in "[a-c./0-]{1,6}") {
            if let (Ok(prefix), Ok(key)) = (prefix.parse::<Prefix>(), key.parse::<Key>()) {
                let (from, to) = places(&prefix);
                let between = key.as_str() >= &from[1..] && key.as_str() < &to[1..];
                prop_assert_eq!(between, prefix.holds(&key));
            }
        }
    }

    #[test]
    fn an_answer_finds_its_request() {
        let names = Names::new("sallyport");
        assert_eq!(names.number_of_answer(&names.answer("a.7")), Some(7));
        assert_eq!(names.number_of_answer("sallyport.topics.a.7"), None);
        assert_eq!(names.number_of_answer(&names.answer("7")), None);
    }
}
