//! One `[[session]]` table, checked: what is offered, to whom, and where it is.

use std::ops::Range;
use std::path::PathBuf;

use ipnet::IpNet;
use sallyport_wire::message::{Protocol, Sticky};
use sallyport_wire::{PoolName, SessionId};
use toml::Spanned;

use super::Faults;
use super::raw::{BalanceWord, ProtocolWord, RawAccess, RawSession, StickyWord};
use super::target::Target;

/// Share of new streams of a session that names none.
const DEFAULT_WEIGHT: u32 = 100;

/// A session of this node.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Its id, unique on this relay.
    pub id: SessionId,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where its program listens.
    pub target: Target,
    /// Who may use it.
    pub access: Access,
    /// Whether path mode takes `/s/<id>` off the path that it sees.
    pub strip_prefix: bool,
    /// How to find out whether it works; none counts it as up.
    pub health: Option<HealthCheck>,
    /// Pool that it belongs to.
    pub pool: Option<PoolName>,
    /// Whether the login chain chooses the node of each of its clients, among those with a member of its pool.
    pub balance_login: bool,
    /// What keeps a client with one member of its pool.
    pub sticky: Sticky,
    /// With what the relay ends its clients' TLS; none leaves TLS to the gateway or the service.
    pub tls: Option<TlsFiles>,
    /// Whether its pages may share an origin with others (path mode).
    pub trusted: bool,
    /// Networks from which streams without identity are let in; empty for no such rule.
    pub sources: Vec<IpNet>,
    /// Authorities whose client certificates let streams in, checked in the relay's own TLS.
    pub client_ca: Option<PathBuf>,
    /// PROXY protocol header that its program is sent first.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Share of new streams among equals, 0 (drain) to 1000.
    pub weight: u32,
    /// Seconds to the first byte of an answer; 0 for the gateway's default.
    pub answer_within: u32,
}

impl SessionConfig {
    /// Whether streams that carry no identity may be let in at all.
    #[must_use]
    pub const fn anonymous(&self) -> bool {
        matches!(self.access, Access::Public)
            || !self.sources.is_empty()
            || self.client_ca.is_some()
    }

    /// Whether the gateway must pass its TLS on unopened.
    #[must_use]
    pub const fn blind(&self) -> bool {
        self.tls.is_some() || matches!(self.protocol, Protocol::Tls)
    }
}

/// Who may use a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everyone.
    Public,
    /// Everyone who is logged in.
    Login,
    /// The users listed and the members of the groups listed.
    Listed {
        /// Login names.
        users: Vec<String>,
        /// Group names.
        groups: Vec<String>,
    },
}

/// How to find out whether a session works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthCheck {
    /// It accepts a connection.
    Connect,
    /// It answers a GET of this path with a status below 400.
    Get(String),
}

/// Certificate chain and key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key; closed to group and world.
    pub key: PathBuf,
}

/// Version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// The line of text.
    One,
    /// The binary header.
    Two,
}

pub(super) fn check(raw: Spanned<RawSession>, faults: &mut Faults<'_>) -> Option<SessionConfig> {
    let span = raw.get_ref().id.span();
    let raw = raw.into_inner();
    let id = faults.parsed(&raw.id);
    let target = target(&raw.target, faults);
    let tls = raw.tls.map(|tls| {
        let tls = tls.into_inner();
        TlsFiles {
            cert: faults.beside(&tls.cert),
            key: faults.beside(&tls.key),
        }
    });
    let session = SessionConfig {
        protocol: protocol(*raw.protocol.get_ref()),
        access: access(raw.access, &span, faults),
        strip_prefix: raw.strip_prefix,
        health: raw.health.and_then(|health| health_check(health, faults)),
        pool: raw.pool.and_then(|pool| faults.parsed(&pool)),
        balance_login: raw.balance == Some(BalanceWord::Login),
        sticky: raw.sticky.map_or(Sticky::Unset, sticky),
        tls,
        trusted: raw.trusted,
        sources: raw.sources,
        client_ca: raw.client_ca.map(|ca| faults.beside(ca.get_ref())),
        proxy_protocol: raw
            .proxy_protocol
            .and_then(|version| proxy_version(&version, faults)),
        weight: faults.in_range("weight", raw.weight, DEFAULT_WEIGHT, 0..=1000),
        answer_within: faults.in_range("answer_within", raw.answer_within, 0, 1..=86_400),
        id: id?,
        target: target?,
    };
    for conflict in conflicts(&session) {
        faults.at(&span, format!("session `{}`: {conflict}", session.id));
    }
    Some(session)
}

const fn protocol(word: ProtocolWord) -> Protocol {
    match word {
        ProtocolWord::Http => Protocol::Http,
        ProtocolWord::H2c => Protocol::H2c,
        ProtocolWord::Tcp => Protocol::Tcp,
        ProtocolWord::Tls => Protocol::Tls,
        ProtocolWord::Udp => Protocol::Udp,
        ProtocolWord::Vnc => Protocol::Vnc,
    }
}

const fn sticky(word: StickyWord) -> Sticky {
    match word {
        StickyWord::Cookie => Sticky::Cookie,
        StickyWord::Source => Sticky::Source,
        StickyWord::None => Sticky::None,
    }
}

fn target(given: &Spanned<String>, faults: &mut Faults<'_>) -> Option<Target> {
    let folder = faults.beside(std::path::Path::new(""));
    match Target::read(given.get_ref(), &folder) {
        Ok(target) => Some(target),
        Err(text) => {
            faults.at(&given.span(), text);
            None
        }
    }
}

fn access(raw: RawAccess, span: &Range<usize>, faults: &mut Faults<'_>) -> Access {
    match raw {
        RawAccess::Public => Access::Public,
        RawAccess::Login => Access::Login,
        RawAccess::Listed(listed) => {
            if listed.users.is_empty() && listed.groups.is_empty() {
                let text = "`access` lists nobody: name users or groups, or write \"login\"";
                faults.at(span, text.to_owned());
            }
            Access::Listed {
                users: listed.users,
                groups: listed.groups,
            }
        }
    }
}

fn health_check(given: Spanned<String>, faults: &mut Faults<'_>) -> Option<HealthCheck> {
    let path = |text: &str| {
        text.starts_with('/') && text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic())
    };
    match given.get_ref().as_str() {
        "tcp" => Some(HealthCheck::Connect),
        text if path(text) => Some(HealthCheck::Get(given.into_inner())),
        text => {
            let text = text.escape_debug();
            faults.at(
                &given.span(),
                format!("`health = \"{text}\"` must be \"tcp\" or \"/path\""),
            );
            None
        }
    }
}

fn proxy_version(given: &Spanned<u8>, faults: &mut Faults<'_>) -> Option<ProxyVersion> {
    match given.get_ref() {
        1 => Some(ProxyVersion::One),
        2 => Some(ProxyVersion::Two),
        other => {
            faults.at(
                &given.span(),
                format!("`proxy_protocol = {other}` must be 1 or 2"),
            );
            None
        }
    }
}

/// Keys that do not fit together, each in words that say what to write instead.
fn conflicts(session: &SessionConfig) -> Vec<&'static str> {
    let protocol = session.protocol;
    let raw = matches!(protocol, Protocol::Tcp | Protocol::Tls | Protocol::Udp);
    let udp = protocol == Protocol::Udp;
    let rules = [
        (
            raw && !session.anonymous(),
            "tcp, tls and udp carry no identity: write access = \"public\", or sources = [\"10.0.0.0/8\"], or tls with client_ca",
        ),
        (
            udp && session.target.is_unix(),
            "a udp target is HOST:PORT, never a unix socket",
        ),
        (
            session.balance_login && (protocol != Protocol::Tcp || session.pool.is_none()),
            "`balance = \"login\"` goes with protocol = \"tcp\" and a pool",
        ),
        (
            session.sticky != Sticky::Unset && session.pool.is_none(),
            "`sticky` goes with a pool",
        ),
        (
            session.sticky == Sticky::Cookie && (raw || session.blind()),
            "`sticky = \"cookie\"` is for http, h2c and vnc whose TLS the gateway ends: write sticky = \"source\"",
        ),
        (udp && session.health.is_some(), "udp has no health check"),
        (
            udp && session.proxy_protocol.is_some(),
            "udp has no PROXY protocol",
        ),
        (
            session.tls.is_some() && matches!(protocol, Protocol::Tls | Protocol::Udp),
            "`tls = { cert, key }` lets the relay end TLS: it goes with http, h2c, tcp and vnc",
        ),
        (
            session.client_ca.is_some() && session.tls.is_none(),
            "`client_ca` is checked where the relay ends TLS: add tls = { cert, key }",
        ),
        (
            matches!(session.health, Some(HealthCheck::Get(_))) && protocol != Protocol::Http,
            "`health = \"/path\"` goes with http: write health = \"tcp\"",
        ),
    ];
    rules
        .into_iter()
        .filter(|(broken, _)| *broken)
        .map(|(_, text)| text)
        .collect()
}
