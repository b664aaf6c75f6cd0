//! From what a client asks for to a stream that leads there.

mod carried;
mod choose;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use sallyport_edge::opener::{Ask, Denial, Found, Opener, Page, Way};
use sallyport_edge::{Affinity, Credential};
use sallyport_link::{Flow, OpenError, Tunnel, TunnelStream};
use sallyport_ops::Slot;
use sallyport_splice::{Entry, Live};
use sallyport_wire::message::{Client, DATA, Head, Kind, Protocol};
use sallyport_wire::{ClusterName, Code, SessionId};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tracing::debug;

use crate::config::Destination;
use crate::figures::Figures;
use crate::hub::Hub;
use crate::registry::{Carrying, Path};
use crate::status;

pub use carried::Carried;
use choose::denied;

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
    /// The cookie that keeps the client with one member of a pool.
    pub affinity: Option<Affinity>,
    /// Tunnels that failed already.
    pub avoid: Vec<u64>,
}

impl Want {
    /// The client's address, as far as it is told.
    fn source(&self) -> IpAddr {
        let address = self.client.address.parse::<SocketAddr>();
        address.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |address| address.ip())
    }
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
    /// Cluster of that session.
    pub cluster: ClusterName,
    /// Told when its tunnel falls silent.
    silence: Arc<Notify>,
    /// The tunnel, where a data connection may carry the stream beside it: its relay takes one, and the session's
    /// program itself ends the TLS that is carried.
    pub beside: Option<Tunnel>,
    entry: Entry,
    figures: Figures,
    _share: Share,
}

impl Passage {
    /// Ready when its tunnel falls silent from now on.
    pub fn silenced(&self) -> OwnedNotified {
        Arc::clone(&self.silence).notified_owned()
    }

    /// Its live bytes.
    pub const fn meter(&self) -> &Arc<sallyport_splice::Meter> {
        self.entry.meter()
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.figures
            .stream_ended(self.meter().up(), self.meter().down());
    }
}

/// Where a stream counts from the choice of its way on: among those of its client, and among those of its session.
#[derive(Debug)]
struct Share {
    _of_client: Slot,
    _of_session: Carrying,
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
        let (path, share, head) = self.prepare(to, want).await?;
        let opened = path.member.tunnel.open(head).await;
        let stream = opened.map_err(|error| not_opened(&path, &error))?;
        Ok(Opened {
            stream,
            passage: self.passage(&path, want, share),
        })
    }

    /// As [`Hub::open_stream`], for datagrams.
    ///
    /// # Errors
    /// As [`Hub::open_stream`].
    pub async fn open_flow(&self, to: &Destination, want: &Want) -> Result<Opened<Flow>, Denial> {
        let (path, share, head) = self.prepare(to, want).await?;
        let opened = path.member.tunnel.open_flow(head).await;
        let stream = opened.map_err(|error| not_opened(&path, &error))?;
        Ok(Opened {
            stream,
            passage: self.passage(&path, want, share),
        })
    }

    /// Chooses the way of a stream, with where it counts and what its relay is told first.
    async fn prepare(
        &self,
        to: &Destination,
        want: &Want,
    ) -> Result<(Path<Tunnel>, Share, Head), Denial> {
        let path = self
            .patiently(&to.cluster, to.to.name(), || self.choose(to, want))
            .await?;
        let share = Share {
            _of_client: self.place(&path, want)?,
            _of_session: path.load.add(),
        };
        path.member.rely();
        let head = self.head(&path, want);
        debug!(
            session = %path.offer.id,
            node = %path.member.who.node,
            tunnel = path.member.id,
            stream = head.stream,
            "opening a stream"
        );
        Ok((path, share, head))
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

    /// A connection of HTTP/2 carries many streams, so a client's share of connections does not bound those.
    fn place(&self, path: &Path<Tunnel>, want: &Want) -> Result<Slot, Denial> {
        let source = want.source();
        self.streams.take(source).map_err(|_full| {
            let cause =
                format!("{source} has as many streams as it may (tunnels.streams_per_source)");
            denied(Code::Limit, &path.offer.id, &cause)
        })
    }

    fn passage(&self, path: &Path<Tunnel>, want: &Want, share: Share) -> Passage {
        let kind = kind_word(want.kind);
        let way = way(path);
        let live = Live {
            id: want.request_id.clone(),
            session: path.offer.id.to_string(),
            cluster: path.member.who.node.cluster.to_string(),
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
            cluster: path.member.who.node.cluster.clone(),
            silence: Arc::clone(path.member.silence()),
            beside: beside(path, want.kind),
            entry: self.ledger.open(live),
            figures: self.figures.clone(),
            _share: share,
        }
    }
}

/// Answers the front out of the hub.
#[derive(Debug, Clone)]
pub struct Tunnels(pub Arc<Hub>);

impl Opener for Tunnels {
    type Stream = Carried;

    async fn find(
        &self,
        cluster: &ClusterName,
        session: &SessionId,
        _credential: &Credential,
    ) -> Result<Found, Denial> {
        let hub = &self.0;
        let (offer, by_cookie) = hub
            .patiently(cluster, session.as_str(), || hub.offer(cluster, session))
            .await?;
        Ok(Found {
            session: session.clone(),
            cluster: cluster.clone(),
            protocol: offer.protocol,
            keep_prefix: offer.keep_prefix,
            answer_within: offer.answer_within,
            anonymous: offer.anonymous,
            elsewhere: None,
            by_cookie,
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
            affinity: ask.affinity,
            avoid: ask.avoid.clone(),
        };
        let to = hub.destination(&ask.found.cluster, &ask.found.session);
        let opened = hub.open_stream(&to, &want).await;
        opened.map(Carried::new)
    }

    fn way(&self, stream: &Carried) -> Arc<Way> {
        Arc::clone(stream.way())
    }

    fn refused(&self, code: Code) {
        self.0.figures.refusal(code);
    }

    fn root(&self, cluster: &ClusterName, accept_json: bool) -> Page {
        status::front_page(&self.0, cluster, accept_json)
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

fn beside(path: &Path<Tunnel>, kind: Kind) -> Option<Tunnel> {
    let tunnel = &path.member.tunnel;
    let blind = kind == Kind::Tls && path.offer.protocol == Protocol::Tls;
    (blind && tunnel.has(DATA)).then(|| tunnel.clone())
}

fn way(path: &Path<Tunnel>) -> Way {
    Way {
        node: path.member.who.node.name.clone(),
        tunnel: path.member.id,
        transport: path.member.tunnel.transport().word(),
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
