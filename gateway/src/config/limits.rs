//! The gateway's own limits, each with its default.

use std::time::Duration;

use sallyport_link::replay::MAX_REMEMBERED;
use sallyport_ops::duration::duration;
use serde::Deserialize;

/// Limits of tunnels and of what is remembered of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tunnels {
    /// Tunnels of all nodes together (8,192).
    pub most: usize,
    /// Share of `most` that tunnels with one key of gateway.json may have, in percent (98): room for 2,000 nodes with
    /// four tunnels each, and some that nobody takes with that key alone.
    pub per_key: u8,
    /// Tunnels of one process of a node: four, and as many while they are replaced (8).
    pub per_node: usize,
    /// Sessions that one tunnel may offer (2,048).
    pub sessions: usize,
    /// Streams on a tunnel over TLS (500).
    pub streams: usize,
    /// Streams of one client address, or of one /64 of IPv6, through all tunnels together (2,048): half a tunnel.
    pub streams_per_source: usize,
    /// Node names bound to a node key (65,536).
    pub names: usize,
    /// Of these, names bound with one key of gateway.json (4,096).
    pub names_per_key: usize,
    /// Tokens remembered, so that none is taken twice (65,536); a quarter of them of one key.
    pub tokens: usize,
    /// Lost homes remembered (65,536); of too many, the oldest of the node that lost the most goes first.
    pub lost_homes: usize,
    /// How long a lost home is remembered (24 h).
    #[serde(deserialize_with = "duration")]
    pub lost_for: Duration,
    /// How long no other node may take a lost home; 0 for not at all (60 s).
    #[serde(deserialize_with = "duration")]
    pub home_grace: Duration,
    /// How long after a start a session of a node that is still missing counts as lost, not as unknown (60 s).
    #[serde(deserialize_with = "duration")]
    pub settle: Duration,
    /// Between probes of the data plane (2 s).
    #[serde(deserialize_with = "duration")]
    pub probe_every: Duration,
    /// Probes missed in a row before a tunnel is closed (3).
    pub probe_misses: u32,
    /// Without a sign of life after a probe over QUIC, a tunnel takes nothing new until there is one (1.5 s).
    #[serde(deserialize_with = "duration")]
    pub silent_after: Duration,
    /// How old a tunnel's last token may grow: relays present one every 10 min (12 min).
    #[serde(deserialize_with = "duration")]
    pub token_age: Duration,
    /// Between two fresh tokens of one tunnel at least; one that is faster is closed (10 s).
    #[serde(deserialize_with = "duration")]
    pub rotate_every: Duration,
    /// Share of `limits.handshakes` and of `limits.handshakes_per_source`, in percent (0 to 100), from which on a
    /// relay that dials over QUIC must prove its address before anything is kept of it (50); 0 is always.
    pub prove_address_at: u8,
}

impl Default for Tunnels {
    fn default() -> Self {
        Self {
            most: 8_192,
            per_key: 98,
            per_node: 8,
            sessions: 2_048,
            streams: 4_096,
            streams_per_source: 2_048,
            names: 65_536,
            names_per_key: 4_096,
            tokens: MAX_REMEMBERED,
            lost_homes: 65_536,
            lost_for: Duration::from_secs(86_400),
            home_grace: Duration::from_secs(60),
            settle: Duration::from_secs(60),
            probe_every: Duration::from_secs(2),
            probe_misses: 3,
            silent_after: Duration::from_millis(1_500),
            token_age: Duration::from_secs(720),
            rotate_every: Duration::from_secs(10),
            prove_address_at: 50,
        }
    }
}

impl Tunnels {
    /// How many of so many tunnels may have come with one key of gateway.json.
    pub fn share_of_key(&self, most: usize) -> usize {
        most.saturating_mul(self.per_key.into()).div_ceil(100)
    }
}

/// When streams that are encrypted from end to end are carried by data connections.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Promotion {
    /// Data connections at once, as far as the open-files limit has room (1,024); 0 leaves every stream on its tunnel.
    /// Each takes up to five descriptors.
    pub most: usize,
    /// Bytes one way after which a stream is to be carried by one (256 KiB).
    pub after: u64,
    /// For a relay to bring one after it was invited (5 s).
    #[serde(deserialize_with = "duration")]
    pub wait: Duration,
    /// Without a byte either way, after which a stream returns to its tunnel (1 s).
    #[serde(deserialize_with = "duration")]
    pub idle: Duration,
}

impl Default for Promotion {
    fn default() -> Self {
        Self {
            most: 1_024,
            after: 256 * 1_024,
            wait: Duration::from_secs(5),
            idle: Duration::from_secs(1),
        }
    }
}

/// Limits of UDP flows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flows {
    /// Flows of all sources together (4,096).
    pub most: usize,
    /// Flows of one address, or of one /64 of IPv6 (256).
    pub per_source: usize,
    /// Without a datagram either way (60 s).
    #[serde(deserialize_with = "duration")]
    pub idle: Duration,
    /// Datagrams that wait in a flow; more are dropped (64).
    pub queue: usize,
}

impl Default for Flows {
    fn default() -> Self {
        Self {
            most: 4_096,
            per_source: 256,
            idle: Duration::from_secs(60),
            queue: 64,
        }
    }
}
