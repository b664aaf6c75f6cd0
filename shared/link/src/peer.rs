//! Where another node of the cluster is, and how the two prove themselves to each other.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use bytes::Bytes;
use sallyport_wire::message::Identity;
use sallyport_wire::{BINDING_LEN, NodeName};

use crate::gateway_url::{GatewayUrl, GatewayUrlError};
use crate::identity::NodeIdentity;
use crate::key::Key;
use crate::token::{Grant, MintError};

/// The port of a relay for other nodes and for clients of the LAN.
pub const PEER_PORT: u16 = 3300;

/// The `aud` of tokens that are made for a node of the cluster. No gateway's URL looks like it.
#[must_use]
pub fn audience(node: &NodeName) -> String {
    format!("peer/{node}")
}

/// Proves in a welcome that this is `node`, to the node `dialler` on the connection with this binding.
///
/// # Errors
/// [`MintError`] if no token could be made.
pub fn identify(
    node: &NodeName,
    identity: &NodeIdentity,
    key: &Key,
    (dialler, binding): (&NodeName, &[u8; BINDING_LEN]),
    now: SystemTime,
) -> Result<Identity, MintError> {
    let grant = Grant {
        node,
        audience: &audience(dialler),
        binding,
    };
    let proof = identity.prove(key, &grant, now)?;
    Ok(Identity {
        node: node.to_string(),
        token: proof.token,
        node_key: Bytes::copy_from_slice(identity.public()),
        proof: proof.proof,
    })
}

/// Host and port of a relay's port for other nodes, written `HOST[:PORT]`; the port is [`PEER_PORT`] if none is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress(GatewayUrl);

impl PeerAddress {
    pub(crate) const fn url(&self) -> &GatewayUrl {
        &self.0
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.host(), self.0.port())
    }
}

/// Text that is no address of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "write HOST or HOST:PORT, like 10.0.0.2:{PEER_PORT}, n2.cluster or [2001:db8::2]:{PEER_PORT}"
)]
pub struct NoPeerAddress;

impl FromStr for PeerAddress {
    type Err = NoPeerAddress;

    fn from_str(text: &str) -> Result<Self, NoPeerAddress> {
        let is_plain = !text.contains(['/', '@', '?', '#']);
        let has_port = || {
            let (_, last) = text.rsplit_once(':')?;
            let port = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
            (port && (!text.starts_with('[') || text.contains("]:"))).then_some(())
        };
        let url = match has_port() {
            Some(()) => format!("https://{text}"),
            None => format!("https://{text}:{PEER_PORT}"),
        };
        let url: Result<GatewayUrl, GatewayUrlError> = url.parse();
        url.ok().filter(|_| is_plain).map(Self).ok_or(NoPeerAddress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_maybe_a_port() {
        let shown = |text: &str| {
            text.parse::<PeerAddress>()
                .map(|address| address.to_string())
        };
        for (text, expected) in [
            ("10.0.0.2", "10.0.0.2:3300"),
            ("10.0.0.2:443", "10.0.0.2:443"),
            ("N2.cluster", "n2.cluster:3300"),
            ("n2:4000", "n2:4000"),
            ("[2001:db8::2]", "[2001:db8::2]:3300"),
            ("[2001:db8::2]:4000", "[2001:db8::2]:4000"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "",
            ":3300",
            "2001:db8::2",
            "n2:0x10",
            "n2:70000",
            "a/b",
            "u@n2",
            "https://n2",
        ] {
            assert_eq!(shown(text), Err(NoPeerAddress), "{text}");
        }
    }

    #[test]
    fn no_gateway_is_meant_by_a_nodes_audience() {
        let node = "n2".parse().expect("a node name");
        assert!(audience(&node).parse::<GatewayUrl>().is_err());
    }
}
