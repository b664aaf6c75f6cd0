//! Names of values and topics: words joined by `/`, from the general to the special.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest word, in bytes.
pub const MAX_WORD: usize = 255;

/// Most words of a key.
pub const MAX_WORDS: usize = 16;

/// Longest key, in bytes with its slashes.
pub const MAX_KEY: usize = 512;

/// The name of a value in the store, or of a topic on the bus: 1 to 16 words of `a-z A-Z 0-9 - _ .`, joined by `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// Keys that begin with the same words: those below a key, or all. It never matches the key of its own words.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Option<Key>);

/// The text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no key: 1 to {MAX_WORDS} words of 1 to {MAX_WORD} characters a-z A-Z 0-9 - _ . joined by /, at most {MAX_KEY} in all"
)]
pub struct NotAKey(String);

impl Key {
    /// The text: words joined by `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its words in order.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The last word: what the key is called among its like.
    #[must_use]
    pub fn last_word(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl Prefix {
    /// Every key.
    #[must_use]
    pub const fn all() -> Self {
        Self(None)
    }

    /// The keys below `key`.
    #[must_use]
    pub const fn below(key: Key) -> Self {
        Self(Some(key))
    }

    /// Whether `key` is one of them.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        self.0.as_ref().is_none_or(|own| {
            key.as_str()
                .strip_prefix(own.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
        })
    }

    /// The key with one word, or several joined by `/`, behind those of the prefix.
    ///
    /// # Errors
    /// [`NotAKey`] when the words are none.
    pub fn key(&self, words: &str) -> Result<Key, NotAKey> {
        match &self.0 {
            Some(own) => format!("{own}/{words}").parse(),
            None => words.parse(),
        }
    }

    /// The key whose words all keys of the prefix begin with; none for all keys.
    #[must_use]
    pub const fn words(&self) -> Option<&Key> {
        self.0.as_ref()
    }
}

impl FromStr for Key {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let is_key = text.len() <= MAX_KEY
            && text.split('/').count() <= MAX_WORDS
            && text.split('/').all(is_word);
        if is_key {
            return Ok(Self(text.into()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(NotAKey(shown.escape_debug().to_string()))
    }
}

fn is_word(word: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=MAX_WORD).contains(&word.len()) && word.bytes().all(fits)
}

/// The keys below the words; the empty text is all keys.
impl FromStr for Prefix {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        match text {
            "" => Ok(Self::all()),
            words => words.parse().map(Self::below),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |own| f.write_str(&own.0))
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(own) => write!(f, "{own}/*"),
            None => f.write_str("*"),
        }
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_key_is_refused() {
        let long = "w".repeat(MAX_WORD + 1);
        let deep = vec!["w"; MAX_WORDS + 1].join("/");
        let wide = vec!["w".repeat(MAX_WORD); 3].join("/");
        for text in [
            "", "/", "a/", "/a", "a//b", "a b", "a*", "a>", "ä", "a=b", &long, &deep, &wide,
        ] {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
        for text in [
            "a",
            "servers/n1.example.org",
            "A-_/0",
            ".",
            &"w".repeat(MAX_WORD),
        ] {
            assert!(text.parse::<Key>().is_ok(), "{text}");
        }
    }

    #[test]
    fn a_refusal_shows_little_and_no_control_characters() {
        let error = format!("\u{1b}[2J{}", "x".repeat(1000)).parse::<Key>();
        let text = error.expect_err("no key").to_string();
        assert!(text.len() < 300 && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_prefix_holds_what_is_below_it() {
        let key = |text: &str| text.parse::<Key>().expect("a key");
        let servers: Prefix = "servers".parse().expect("a prefix");

        assert!(servers.holds(&key("servers/n1")) && servers.holds(&key("servers/n1/x")));
        assert!(!servers.holds(&key("servers")) && !servers.holds(&key("servers2/n1")));
        assert!(Prefix::all().holds(&key("servers")));
        assert_eq!(servers.key("n1").expect("a key"), key("servers/n1"));
        assert!(servers.key("n 1").is_err());
    }

    proptest! {
        #[test]
        fn a_key_is_read_back_as_it_was_written(words in prop::collection::vec("[a-zA-Z0-9._-]{1,30}", 1..=16)) {
            let text = words.join("/");
            let key: Key = text.parse().expect("a key");
            prop_assert_eq!(key.as_str(), &text);
            prop_assert_eq!(key.words().collect::<Vec<_>>(), words);
        }

        #[test]
        fn nothing_that_is_parsed_breaks_the_rules(text in "\\PC{0,40}") {
            if let Ok(key) = text.parse::<Key>() {
                prop_assert!(key.words().all(is_word));
            }
        }
    }
}
