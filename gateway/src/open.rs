//! From what a client asks for to a stream that leads there.

mod carried;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sallyport_edge::opener::{Ask, Denial, Found, Opener, Page, Way};
use sallyport_link::{Flow, OpenError, Tunnel, TunnelStream};
use sallyport_splice::{Entry, Live};
use sallyport_wire::message::{Client, Head, Kind, Protocol};
use sallyport_wire::{Code, PoolName, SessionId};
use tokio::time::Instant;

use crate::config::{Destination, Policy};
use crate::figures::Figures;
use crate::hub::Hub;
use crate::pick::{self, Wish};
use crate::registry::{Offered, Path, Route};
use crate::status;

pub use carried::Carried;

/// When to try again, by what is missing.
const RETRY_SOON: Duration = Duration::from_secs(1);
const RETRY_LATER: Duration = Duration::from_secs(2);
const RETRY_DOWN: Duration = Duration::from_secs(5);

/// What a stream is wanted for.
#[derive(Debug, Clone)]
pub struct Want {
    /// How to treat it.
    pub kind: Kind,
    /// Where the client is.
    pub client: Client,
    /// Id of the request or connection.
    pub request_id: String,
    /// What the client shows to be let in.
    pub credential: String,
    /// Raw port of the gateway; none for the front's streams.
    pub port: Option<u16>,
    /// What keeps a client on the same member of a pool.
    pub sticky: Option<String>,
    /// Tunnels that failed already.
    pub avoid: Vec<u64>,
}

/// A stream, or a flow of datagrams, that was opened.
#[derive(Debug)]
pub struct Opened<S> {
    /// The stream itself.
    pub stream: S,
    /// What it is known by while it is open.
    pub passage: Passage,
}

/// What an open stream is known by; counts it while it lives.
#[derive(Debug)]
pub struct Passage {
    /// The way that it takes.
    pub way: Arc<Way>,
    /// Its session.
    pub session: SessionId,
    entry: Entry,
    figures: Figures,
}

impl Passage {
    /// Its live bytes.
    pub fn meter(&self) -> &sallyport_splice::Meter {
        self.entry.meter()
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.figures
            .stream_ended(self.meter().up(), self.meter().down());
    }
}

impl Hub {
    /// Opens a stream to a session or to a member of a pool.
    ///
    /// # Errors
    /// [`Denial`] if no tunnel takes it.
    pub async fn open_stream(
        &self,
        to: &Destination,
        want: &Want,
    ) -> Result<Opened<TunnelStream>, Denial> {
        let path = self.choose(to, want)?;
        let head = self.head(&path, want);
        let opened = path.member.tunnel.open(head).await;
        let stream = opened.map_err(|error| not_opened(&path, &error))?;
        Ok(Opened {
            stream,
            passage: self.passage(&path, want),
        })
    }

    /// As [`Hub::open_stream`], for datagrams.
    ///
    /// # Errors
    /// As [`Hub::open_stream`].
    pub async fn open_flow(&self, to: &Destination, want: &Want) -> Result<Opened<Flow>, Denial> {
        let path = self.choose(to, want)?;
        let head = self.head(&path, want);
        let opened = path.member.tunnel.open_flow(head).await;
        let stream = opened.map_err(|error| not_opened(&path, &error))?;
        Ok(Opened {
            stream,
            passage: self.passage(&path, want),
        })
    }

    /// What a name under `/s/` or below the sessions' domain means: a session, else a pool of that name.
    pub fn destination(&self, name: &SessionId) -> Destination {
        let registry = self.registry();
        let as_pool = name.as_str().parse::<PoolName>().ok();
        match as_pool {
            Some(pool) if registry.route(name).is_none() && registry.has_pool("", &pool) => {
                Destination::Pool {
                    pool,
                    cluster: String::new(),
                }
            }
            _ => Destination::Session(name.clone()),
        }
    }

    fn choose(&self, to: &Destination, want: &Want) -> Result<Path<Tunnel>, Denial> {
        match to {
            Destination::Session(session) => {
                let route = self.registry().route(session);
                let route = route.ok_or_else(|| self.absent(session))?;
                let offer = route.offer().ok_or_else(|| self.absent(session))?;
                suits(offer, want.kind)?;
                let config = self.config();
                let wish = wish(&config.site, config.policy, want, self.number());
                let picked = pick::session(&route, &wish);
                picked.cloned().map_err(|code| {
                    let cause = format!("no tunnel of {} can take it", nodes(&route));
                    denied(code, session, &cause)
                })
            }
            Destination::Pool { pool, cluster } => self.choose_member(pool, cluster, want),
        }
    }

    fn choose_member(
        &self,
        pool: &PoolName,
        cluster: &str,
        want: &Want,
    ) -> Result<Path<Tunnel>, Denial> {
        let members = self.registry().pool(cluster, pool);
        let Some((routes, turn)) = members else {
            return Err(self.empty_pool(pool));
        };
        let client = want.sticky.as_deref();
        let before = client.and_then(|client| self.member_before(pool.as_str(), client));
        let config = self.config();
        let wish = Wish {
            sticky: before.as_ref(),
            ..wish(&config.site, config.policy, want, turn)
        };
        let path = pick::pool(routes.iter().map(AsRef::as_ref), &wish).map_err(|code| Denial {
            retry_after: retry_after(code),
            ..Denial::new(code, format!("no member of pool {pool} can take it"))
        })?;
        suits(&path.offer, want.kind)?;
        if let Some(client) = client {
            self.member_now(pool.as_str(), client, &path.offer.id);
        }
        Ok(path.clone())
    }

    /// Why there is no way to a session: it may come back, or it is unknown.
    fn absent(&self, session: &SessionId) -> Denial {
        let (lost, relays) = {
            let registry = self.registry();
            (
                registry.lost_home(session, Instant::now()).cloned(),
                registry.nodes().len(),
            )
        };
        if let Some(node) = lost {
            let cause = format!("its home {node} was lost lately");
            return denied(Code::HomeLost, session, &cause);
        }
        if relays == 0 {
            return Denial {
                session: None,
                ..denied(Code::NoRelay, session, "no relay is connected")
            };
        }
        if self.is_settling() {
            let cause = "the gateway started lately and not all nodes are back";
            return Denial {
                session: None,
                ..denied(Code::HomeLost, session, cause)
            };
        }
        Denial::new(Code::UnknownSession, format!("nobody offers {session}"))
    }

    fn empty_pool(&self, pool: &PoolName) -> Denial {
        let code = match self.registry().nodes().len() {
            0 => Code::NoRelay,
            _ => Code::HomeLost,
        };
        Denial {
            retry_after: retry_after(code),
            ..Denial::new(code, format!("pool {pool} has no member"))
        }
    }

    fn head(&self, path: &Path<Tunnel>, want: &Want) -> Head {
        Head {
            kind: want.kind.into(),
            target: path.offer.id.to_string(),
            stream: self.number(),
            client: Some(want.client.clone()),
            request_id: want.request_id.clone(),
            credential: want.credential.clone(),
            resume: None,
            port: want.port.unwrap_or(0).into(),
        }
    }

    fn passage(&self, path: &Path<Tunnel>, want: &Want) -> Passage {
        let kind = kind_word(want.kind);
        let way = way(path);
        let live = Live {
            id: want.request_id.clone(),
            session: path.offer.id.to_string(),
            node: way.node.to_string(),
            client: want.client.address.clone(),
            kind,
            transport: way.transport,
            since: SystemTime::now(),
        };
        self.figures.stream_opened(kind);
        Passage {
            way: Arc::new(way),
            session: path.offer.id.clone(),
            entry: self.ledger.open(live),
            figures: self.figures.clone(),
        }
    }
}

/// Answers the front out of the hub.
#[derive(Debug, Clone)]
pub struct Tunnels(pub Arc<Hub>);

impl Opener for Tunnels {
    type Stream = Carried;

    fn find(&self, session: &SessionId) -> Result<Found, Denial> {
        let hub = &self.0;
        let offer = match hub.destination(session) {
            Destination::Session(id) => {
                let route = hub.registry().route(&id).ok_or_else(|| hub.absent(&id))?;
                route.offer().cloned().ok_or_else(|| hub.absent(&id))?
            }
            Destination::Pool { pool, cluster } => {
                let members = hub.registry().pool(&cluster, &pool);
                let routes = members.map(|(routes, _turn)| routes).unwrap_or_default();
                let offer = routes.iter().find_map(|route| route.offer().cloned());
                offer.ok_or_else(|| hub.empty_pool(&pool))?
            }
        };
        suits(&offer, Kind::Http)?;
        Ok(Found {
            session: session.clone(),
            protocol: offer.protocol,
            keep_prefix: offer.keep_prefix,
            answer_within: offer.answer_within,
            anonymous: offer.anonymous,
        })
    }

    async fn open(&self, ask: &Ask) -> Result<Carried, Denial> {
        let hub = &self.0;
        let want = Want {
            kind: ask.kind,
            client: ask.client.clone(),
            request_id: ask.request_id.clone(),
            credential: ask.credential.clone(),
            port: None,
            sticky: ask.sticky.clone(),
            avoid: ask.avoid.clone(),
        };
        let opened = hub
            .open_stream(&hub.destination(&ask.found.session), &want)
            .await;
        opened
            .map(Carried::new)
            .inspect_err(|denial| hub.figures.refusal(denial.code))
    }

    fn way(&self, stream: &Carried) -> Arc<Way> {
        Arc::clone(stream.way())
    }

    fn root(&self, accept_json: bool) -> Page {
        status::front_page(&self.0, accept_json)
    }
}

/// Whether a session can be reached in this way by somebody without a login.
fn suits(offer: &Offered, kind: Kind) -> Result<(), Denial> {
    let fits = match kind {
        Kind::Http => {
            let spoken = matches!(
                offer.protocol,
                Protocol::Http | Protocol::H2c | Protocol::Vnc
            );
            spoken && !offer.blind
        }
        Kind::Tls => offer.blind || offer.protocol == Protocol::Tls,
        Kind::Tcp => offer.protocol != Protocol::Udp,
        Kind::Udp => offer.protocol == Protocol::Udp,
        Kind::Probe => false,
    };
    if !fits {
        let cause = format!("{} speaks {}, not this", offer.id, offer.protocol.word());
        return Err(Denial::new(Code::Misdirected, cause));
    }
    if !offer.anonymous {
        let cause = format!("{} lets nobody in without a login", offer.id);
        return Err(Denial::new(Code::LoginRequired, cause));
    }
    Ok(())
}

fn wish<'a>(site: &'a str, policy: Policy, want: &'a Want, turn: u64) -> Wish<'a> {
    let turn = if policy == Policy::Random {
        mixed(turn)
    } else {
        turn
    };
    Wish {
        policy,
        site,
        port: want.port,
        avoid: &want.avoid,
        sticky: None,
        turn,
    }
}

/// Spreads numbers that count up over all numbers (the finaliser of SplitMix64).
const fn mixed(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn denied(code: Code, session: &SessionId, cause: &str) -> Denial {
    Denial {
        session: Some(session.clone()),
        retry_after: retry_after(code),
        ..Denial::new(code, format!("{session}: {cause}"))
    }
}

fn not_opened(path: &Path<Tunnel>, error: &OpenError) -> Denial {
    let code = match error {
        OpenError::Full(_) => Code::Limit,
        OpenError::Head(_) => Code::BadRequest,
        OpenError::Closed(_) => Code::TunnelLost,
    };
    Denial {
        way: Some(Arc::new(way(path))),
        ..denied(
            code,
            &path.offer.id,
            &format!("on {}: {error}", path.member.who.node),
        )
    }
}

/// The nodes that offer a session, for the log.
fn nodes(route: &Route<Tunnel>) -> String {
    let names: BTreeSet<&str> = route
        .paths()
        .map(|path| path.member.who.node.as_str())
        .collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn way(path: &Path<Tunnel>) -> Way {
    Way {
        node: path.member.who.node.clone(),
        tunnel: path.member.id,
        transport: path.member.tunnel.transport().word(),
    }
}

const fn retry_after(code: Code) -> Option<Duration> {
    match code.status() {
        503 if matches!(code, Code::SessionDown) => Some(RETRY_DOWN),
        503 if matches!(code, Code::HomeLost | Code::NoRelay) => Some(RETRY_LATER),
        503 => Some(RETRY_SOON),
        _ => None,
    }
}

const fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Http => "http",
        Kind::Tcp => "tcp",
        Kind::Tls => "tls",
        Kind::Udp => "udp",
        Kind::Probe => "probe",
    }
}
