//! `relay.toml` as it is written: names and types only. The parent module checks what the values mean.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use sallyport_link::Choice;
use sallyport_ops::{Congestion, Log, Workers};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use toml::Spanned;

use super::limits::RawLimits;
use super::metrics::RawMetrics;
use super::placement::RawPlacement;

/// The whole file. Every key has a default, so that the smallest file is one session.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) node: Option<Spanned<String>>,
    pub(super) gateway_file: Option<OneOrMany>,
    pub(super) cluster_keys: Option<PathBuf>,
    pub(super) transport: Choice,
    pub(super) proxy: Option<Spanned<String>>,
    pub(super) tunnels: Option<Spanned<usize>>,
    pub(super) congestion: Congestion,
    pub(super) workers: Option<Workers>,
    pub(super) site: Option<Spanned<String>>,
    pub(super) groups: Vec<Spanned<String>>,
    pub(super) static_data: Option<Spanned<toml::Table>>,
    pub(super) admin: Option<Spanned<SocketAddr>>,
    pub(super) log: Log,
    pub(super) limits: RawLimits,
    pub(super) cluster: RawCluster,
    pub(super) metrics: RawMetrics,
    pub(super) placement: RawPlacement,
    pub(super) direct: RawDirect,
    pub(super) peer: Vec<Spanned<RawPeer>>,
    pub(super) session: Vec<Spanned<RawSession>>,
}

/// Where programs lie that the cluster's configuration may have run.
const PROGRAMS: &str = "/usr/local/lib/sallyport";

/// The `[cluster]` table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCluster {
    pub(super) observe: bool,
    pub(super) programs: Vec<PathBuf>,
}

impl Default for RawCluster {
    fn default() -> Self {
        Self {
            observe: true,
            programs: vec![PathBuf::from(PROGRAMS)],
        }
    }
}

/// The `[direct]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDirect {
    pub(super) listen: Option<SocketAddr>,
    pub(super) url: Option<Spanned<String>>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) trusted_proxies: Vec<IpNet>,
    pub(super) proxy_protocol: bool,
    pub(super) redirect: bool,
}

/// One `[[peer]]` table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPeer {
    pub(super) node: Spanned<String>,
    pub(super) address: Spanned<String>,
    pub(super) id: Option<Spanned<String>>,
    pub(super) keep: Option<bool>,
}

/// One path or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a path or a list of paths")]
pub(super) enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl OneOrMany {
    pub(super) fn into_vec(self) -> Vec<PathBuf> {
        match self {
            Self::One(path) => vec![path],
            Self::Many(paths) => paths,
        }
    }
}

/// One `[[session]]` table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSession {
    pub(super) id: Spanned<String>,
    pub(super) protocol: Spanned<ProtocolWord>,
    pub(super) target: Spanned<String>,
    #[serde(default)]
    pub(super) access: RawAccess,
    #[serde(default = "yes")]
    pub(super) strip_prefix: bool,
    pub(super) health: Option<Spanned<String>>,
    pub(super) pool: Option<Spanned<String>>,
    pub(super) tls: Option<Spanned<RawTls>>,
    #[serde(default = "yes")]
    pub(super) trusted: bool,
    #[serde(default)]
    pub(super) sources: Vec<IpNet>,
    pub(super) client_ca: Option<Spanned<PathBuf>>,
    pub(super) proxy_protocol: Option<Spanned<u8>>,
    pub(super) balance: Option<BalanceWord>,
    pub(super) sticky: Option<StickyWord>,
    pub(super) weight: Option<Spanned<u32>>,
    pub(super) answer_within: Option<Spanned<u32>>,
}

const fn yes() -> bool {
    true
}

/// The protocols as `relay.toml` writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ProtocolWord {
    Http,
    H2c,
    Tcp,
    Tls,
    Udp,
    Vnc,
}

/// What distributes the clients of a pool, besides the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum BalanceWord {
    Login,
}

/// What keeps a client with one member of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum StickyWord {
    Cookie,
    Source,
    None,
}

/// Certificate and key with which the relay ends TLS for a session.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

/// Who may use a session: a word, or lists of users and groups.
#[derive(Debug, Default)]
pub(super) enum RawAccess {
    Public,
    #[default]
    Login,
    Listed(RawListed),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawListed {
    pub(super) users: Vec<String>,
    pub(super) groups: Vec<String>,
}

impl<'de> Deserialize<'de> for RawAccess {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AccessVisitor)
    }
}

/// By hand, because an untagged enum would swallow the name and the line of a wrong key.
struct AccessVisitor;

impl<'de> Visitor<'de> for AccessVisitor {
    type Value = RawAccess;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"public\", \"login\" or { users = [...], groups = [...] }")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<RawAccess, E> {
        match word {
            "public" => Ok(RawAccess::Public),
            "login" => Ok(RawAccess::Login),
            other => Err(E::unknown_variant(other, &["public", "login"])),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawAccess, A::Error> {
        RawListed::deserialize(MapAccessDeserializer::new(map)).map(RawAccess::Listed)
    }
}
