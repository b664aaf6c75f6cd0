//! What counts as one source of connections.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// One source: an IPv4 address, or the /64 of an IPv6 address, because a single host has all of it.
///
/// An IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2) is its IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

const PREFIX_64: u128 = !0 << 64;

impl Source {
    /// The source that `address` belongs to.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & PREFIX_64)),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// The address, or the network with the length of its prefix.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => v4.fmt(f),
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
        }
    }
}
