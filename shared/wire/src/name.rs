//! Names that cross the tunnel, checked where they enter.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

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

/// The name of a cluster: one DNS label, or empty for the default cluster. Clones share the text, and the default one has
/// none, so that it costs nothing to carry along.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(Option<Arc<str>>);

impl ClusterName {
    /// The default cluster.
    pub const DEFAULT: Self = Self(None);

    /// The name as text, empty for the default cluster.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// The name, unless it is the default cluster.
    #[must_use]
    pub fn named(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whether it is the default cluster.
    #[must_use]
    pub const fn is_default(&self) -> bool {
        self.0.is_none()
    }
}

impl FromStr for ClusterName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Ok(Self::DEFAULT);
        }
        check(text, "cluster name", 63, "-").map(|()| Self(Some(text.into())))
    }
}

impl TryFrom<String> for ClusterName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// A node of a cluster, since two clusters may name their nodes alike. As text it is `<cluster>/<node>`, and the name
/// alone in the default cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterNode {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name there.
    pub name: NodeName,
}

impl FromStr for ClusterNode {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (cluster, name) = text.split_once('/').unwrap_or(("", text));
        Ok(Self {
            cluster: cluster.parse()?,
            name: name.parse()?,
        })
    }
}

impl TryFrom<String> for ClusterNode {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ClusterNode> for String {
    fn from(node: ClusterNode) -> Self {
        node.to_string()
    }
}

impl fmt::Display for ClusterNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.cluster.is_default() {
            write!(f, "{}/", self.cluster)?;
        }
        self.name.fmt(f)
    }
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

    #[test]
    fn a_node_is_told_with_its_cluster_unless_that_is_the_default_one() {
        for text in ["node-1", "bio/node-1", "b-2/n1.example.org"] {
            let node: ClusterNode = text.parse().expect(text);
            assert_eq!(node.to_string(), text);
            assert_eq!(node.cluster.is_default(), !text.contains('/'));
        }
        for bad in ["", "bio/", "Bio/n1", "a/b/c", "a.b/n1"] {
            assert!(ClusterNode::from_str(bad).is_err(), "{bad}");
        }
        assert_eq!(ClusterName::from_str(""), Ok(ClusterName::DEFAULT));
        assert!(ClusterName::from_str("a b").is_err());
    }
}
