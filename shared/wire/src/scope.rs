//! What a key may serve: nodes, sessions, ports, cluster.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::ClusterName;

/// What a key of `gateway.json` may serve. The default allows everything on its own nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scope {
    /// Node names that may use the key.
    #[serde(skip_serializing_if = "Glob::is_any")]
    pub nodes: Glob,
    /// Session ids and pool names that may be advertised with it.
    #[serde(skip_serializing_if = "Glob::is_any")]
    pub sessions: Glob,
    /// Raw gateway ports (`[[tcp]]`, `[[udp]]`) whose streams may go to its nodes; empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// The cluster that its nodes belong to; empty is the default cluster.
    #[serde(skip_serializing_if = "ClusterName::is_default")]
    pub cluster: ClusterName,
    /// For nodes that boot without a disk: a new node key may take a name that was bound so too and
    /// whose tunnels are all dead.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
    /// Whether its nodes may offer ways (`via`) to sessions of other nodes: they then see what goes there
    /// while the home is away. Not part of "everything": false unless it is said.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub via: bool,
}

impl Scope {
    /// Whether a raw gateway port may lead to this key's nodes.
    #[must_use]
    pub fn allows_port(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|range| range.contains(port))
    }
}

/// A pattern in which `*` stands for any run of characters; several are joined by commas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Glob(String);

impl Default for Glob {
    fn default() -> Self {
        Self("*".to_owned())
    }
}

impl Glob {
    /// A pattern from its text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether it matches everything.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0 == "*"
    }

    /// Whether `name` matches one of the patterns.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.0.split(',').any(|part| matches_one(part.trim(), name))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Greedy from the left: a fixed prefix, then each inner piece at its first place, then a fixed suffix.
fn matches_one(pattern: &str, name: &str) -> bool {
    let Some((prefix, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut left) = name.strip_prefix(prefix) else {
        return false;
    };
    let (inner, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in inner.split('*') {
        match left.split_once(piece) {
            Some((_, after)) => left = after,
            None => return false,
        }
    }
    left.ends_with(suffix)
}

/// One port or an inclusive range, written `22` or `8000-8100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Whether the port is in the range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// A port range that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a port (1-65535) or a range of ports like 8000-8100")]
pub struct PortRangeError(String);

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err(PortRangeError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for PortRange {
    type Error = PortRangeError;

    fn try_from(text: String) -> Result<Self, PortRangeError> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        let gpu = Glob::new("gpu-*, login?");
        assert!(gpu.matches("gpu-12"));
        assert!(!gpu.matches("xgpu-12"));
        assert!(Glob::new("a*b*c").matches("a-bb-c"));
        assert!(!Glob::new("ab*ba").matches("aba"));
        assert!(Glob::default().matches("anything"));
        assert!(!Glob::new("").matches("x"));
    }

    #[test]
    fn ports_are_single_or_ranges() {
        let range: PortRange = "8000-8100".parse().expect("a range");
        assert!(range.contains(8000) && range.contains(8100) && !range.contains(8101));
        assert_eq!("22".parse::<PortRange>().expect("a port").to_string(), "22");
        for bad in ["", "0", "9-8", "65536", "x"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
    }
}
