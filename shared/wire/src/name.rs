//! Names that cross the tunnel, checked where they enter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty or longer than allowed.
    #[error("a {what} has 1 to {max} characters, not {len}")]
    Length {
        /// What kind of name.
        what: &'static str,
        /// Most characters allowed.
        max: usize,
        /// Characters found.
        len: usize,
    },
    /// A character outside the set, or a hyphen or dot at an edge.
    #[error(
        "a {what} has lower-case letters, digits and inner `{inner}`: `{found}` has something else"
    )]
    Characters {
        /// What kind of name.
        what: &'static str,
        /// Punctuation allowed inside.
        inner: &'static str,
        /// The name as given, cut to 64 characters and escaped.
        found: String,
    },
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $inner:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text, $what, $max, $inner).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                check(&text, $what, $max, $inner).map(|()| Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// The name of a node, by default its host name: at most 253 characters of `a-z 0-9 - .`.
    NodeName, "node name", 253, "-."
}
name! {
    /// The id of a session: one DNS label (RFC 1035 §2.3.1), so that it can be a host name's first part.
    SessionId, "session id", 63, "-"
}
name! {
    /// The name of a pool, the same service on several nodes: one DNS label.
    PoolName, "pool name", 63, "-"
}

fn check(text: &str, what: &'static str, max: usize, inner: &'static str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > max {
        return Err(NameError::Length {
            what,
            max,
            len: text.len(),
        });
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let edges = text.starts_with(plain) && text.ends_with(plain);
    let all = text.chars().all(|c| plain(c) || inner.contains(c));
    if edges && all && !text.contains("..") {
        return Ok(());
    }
    let found = text
        .chars()
        .take(64)
        .flat_map(char::escape_default)
        .collect();
    Err(NameError::Characters { what, inner, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_dns_allows() {
        for good in ["a", "node-7", "n1.cluster.example.org", "0"] {
            assert!(NodeName::from_str(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a..b", ".a", "a/b", "a b", "ä"] {
            assert!(NodeName::from_str(bad).is_err(), "{bad}");
        }
        assert!(SessionId::from_str("a.b").is_err());
        assert!(SessionId::from_str(&"a".repeat(64)).is_err());
    }
}
