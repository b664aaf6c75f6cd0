//! The handle that both ends of a tunnel hold.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sallyport_mux::{Arrivals, Mux, Role};
use sallyport_ops::Tasks;
use sallyport_ops::listen::canonical;
use sallyport_wire::message::{ACK, Control, ControlKind, Head};
use sallyport_wire::{BINDING_LEN, Code, MAX_CONTROL, MAX_HEAD, frame};
use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;

use crate::account::{Account, Accounts};
use crate::control::{self, Desk};
use crate::flow::{self, Flow};
use crate::life::Life;
use crate::over_quic::OverQuic;
use crate::over_tls::{self, CONTROL, Counted, OverTls};
use crate::quic::{self, Flows};
use crate::raw::Raw;
use crate::settings::Settings;
use crate::stream::{Incoming, TunnelStream};
use crate::unread::Unread;

pub use crate::life::{Closed, TunnelClosed};

/// What carries a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// QUIC (RFC 9000): a stream each, datagrams, and a node may change its address.
    Quic,
    /// yamux over TLS over TCP, for networks that drop UDP.
    Tls,
}

impl Transport {
    /// The word for logs, metrics and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tls => "tls",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Live figures of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Round trip, once known.
    pub rtt: Option<Duration>,
    /// Streams open now, both ways.
    pub streams: usize,
    /// Bytes written to the network: UDP payload over QUIC, TLS payload over TCP.
    pub sent: u64,
    /// Bytes read from the network, counted alike.
    pub received: u64,
}

/// Why no stream could be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// This side holds as many streams open as it may, or the other side takes no more just now.
    #[error("the tunnel carries as many streams as it may ({0})")]
    Full(usize),
    /// The head is too long for a frame.
    #[error("the head cannot be sent: {0}")]
    Head(#[from] sallyport_wire::FrameError),
    /// The tunnel is gone.
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl OpenError {
    /// The same as a code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Full(_) => Code::Limit,
            Self::Head(_) => Code::BadRequest,
            Self::Closed(_) => Code::TunnelLost,
        }
    }
}

/// One tunnel. Clones are the same tunnel; it closes when the last one is dropped.
#[derive(Clone)]
pub struct Tunnel(Arc<Handle>);

/// What a handshake found out about a tunnel.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) id: u64,
    pub(crate) features: Vec<String>,
    pub(crate) remote: SocketAddr,
    pub(crate) binding: [u8; BINDING_LEN],
}

impl Facts {
    fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|named| named == feature)
    }

    /// Those of the tunnel's streams, where both sides tell what they have taken.
    fn accounts(&self, settings: &Settings) -> Option<Arc<Accounts>> {
        self.has(ACK).then(|| Arc::new(Accounts::new(settings)))
    }
}

struct Handle {
    facts: Facts,
    life: Arc<Life>,
    desk: Desk,
    link: Link,
    /// Places for streams of ours.
    opened: Arc<Semaphore>,
    /// Places for streams of theirs.
    room: Arc<Semaphore>,
    /// As many places as there were at first, of ours and of theirs.
    places: (usize, usize),
    flows: Arc<Flows>,
    accounts: Option<Arc<Accounts>>,
    settings: Arc<Settings>,
    tasks: Tasks,
    span: tracing::Span,
}

enum Link {
    Tls {
        mux: Mux,
        arrivals: Arc<Mutex<Arrivals>>,
    },
    Quic {
        connection: quinn::Connection,
        unread: Arc<Unread>,
    },
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.life
            .end(Code::Closed, "nobody holds the tunnel any more");
    }
}

/// Brings a tunnel up on a TLS connection whose hello is done. The dialling side is the mux's client.
pub(crate) fn over_tls<S>(
    io: S,
    role: Role,
    facts: Facts,
    settings: &Arc<Settings>,
    tasks: &Tasks,
) -> Tunnel
where
    S: AsyncBufRead + AsyncWrite + Unpin + Send + 'static,
{
    let life = Arc::new(Life::new());
    let io = Counted::new(io, Arc::clone(&life));
    let (mux, arrivals, driver) = sallyport_mux::connection(io, role, over_tls::bounds(settings));
    let arrivals = Arc::new(Mutex::new(arrivals));
    let accounts = facts.accounts(settings);
    let (desk, control) = control::begin(&life, settings, accounts.clone());
    let span = span(facts.id, Transport::Tls);
    let driving = over_tls::drive(driver, Arc::clone(&life), settings.close_within);
    let first = first_stream(role, &mux, &arrivals, settings);
    tasks.spawn(span.clone(), driving);
    tasks.spawn(span.clone(), async move {
        control.run(first.await.map(tokio::io::split)).await;
    });
    Tunnel(Arc::new(Handle {
        facts,
        life,
        desk,
        link: Link::Tls { mux, arrivals },
        opened: Arc::new(Semaphore::new(settings.open)),
        room: Arc::new(Semaphore::new(settings.accept)),
        places: (settings.open, settings.accept),
        flows: Arc::default(),
        accounts,
        settings: Arc::clone(settings),
        tasks: tasks.clone(),
        span,
    }))
}

/// The control stream: the first that the dialling side opens. Nobody else can take it, for the arrivals are locked from
/// the start.
fn first_stream(
    role: Role,
    mux: &Mux,
    arrivals: &Arc<Mutex<Arrivals>>,
    settings: &Settings,
) -> impl Future<Output = Option<sallyport_mux::Stream>> + use<> {
    let opened = match role {
        Role::Client => mux.open_urgent(),
        Role::Server => None,
    };
    let arriving = match role {
        Role::Client => None,
        Role::Server => Arc::clone(arrivals).try_lock_owned().ok(),
    };
    let (within, takes_more) = (settings.hello_within, settings.accept > 0);
    async move {
        let Some(mut arriving) = arriving else {
            return opened;
        };
        let first = timeout(within, arriving.next()).await.ok().flatten();
        if !takes_more {
            arriving.refuse();
        }
        first.filter(|stream| stream.number() == CONTROL)
    }
}

/// Brings a tunnel up on a QUIC connection, with the control stream on which the hello was said.
pub(crate) fn over_quic(
    connection: quinn::Connection,
    (send, recv): (quinn::SendStream, quinn::RecvStream),
    facts: Facts,
    settings: &Arc<Settings>,
    tasks: &Tasks,
) -> Tunnel {
    let life = Arc::new(Life::new());
    let flows = Arc::new(Flows::default());
    let accounts = facts.accounts(settings);
    let (desk, control) = control::begin(&life, settings, accounts.clone());
    let span = span(facts.id, Transport::Quic);
    if send.set_priority(CONTROL_PRIORITY).is_err() {
        life.end(Code::TunnelLost, "the control stream is gone");
    }
    let unread = Arc::new(Unread::new(settings));
    let inward = (Arc::clone(&flows), Arc::clone(&unread));
    let driving = quic::drive(connection.clone(), Arc::clone(&life), inward);
    tasks.spawn(span.clone(), driving);
    tasks.spawn(span.clone(), control.run(Some((recv, send))));
    Tunnel(Arc::new(Handle {
        facts,
        life,
        desk,
        link: Link::Quic { connection, unread },
        opened: Arc::new(Semaphore::new(settings.open)),
        room: Arc::new(Semaphore::new(settings.accept)),
        places: (settings.open, settings.accept),
        flows,
        accounts,
        settings: Arc::clone(settings),
        tasks: tasks.clone(),
        span,
    }))
}

/// Control messages leave before payload that waits for the same connection.
const CONTROL_PRIORITY: i32 = 1;

fn span(id: u64, transport: Transport) -> tracing::Span {
    tracing::info_span!("tunnel", tunnel = id, %transport)
}

impl Tunnel {
    /// The gateway's number of this tunnel.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.facts.id
    }

    /// Whether both sides named a feature.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.0.facts.has(feature)
    }

    /// What carries it.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match self.0.link {
            Link::Tls { .. } => Transport::Tls,
            Link::Quic { .. } => Transport::Quic,
        }
    }

    /// The other side's address; over QUIC it may change.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        match &self.0.link {
            Link::Tls { .. } => self.0.facts.remote,
            Link::Quic { connection, .. } => canonical(connection.remote_address()),
        }
    }

    /// Round trip, once known.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        match &self.0.link {
            Link::Tls { .. } => self.0.life.rtt(),
            Link::Quic { connection, .. } => Some(connection.rtt()),
        }
    }

    /// What a ping takes through the tunnel when it goes badly, once known. Measured alike over every transport, so
    /// that tunnels can be compared: pings wait for lost packets and behind payload as all else does.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.0.life.delay()
    }

    /// Streams open now, both ways.
    #[must_use]
    pub fn streams(&self) -> usize {
        let (ours, theirs) = self.0.places;
        let left = (
            self.0.opened.available_permits(),
            self.0.room.available_permits(),
        );
        ours.saturating_sub(left.0) + theirs.saturating_sub(left.1)
    }

    /// Most streams that this side may hold open at once.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.places.0
    }

    /// Live figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let (sent, received) = match &self.0.link {
            Link::Tls { .. } => self.0.life.bytes(),
            Link::Quic { connection, .. } => {
                let stats = connection.stats();
                (stats.udp_tx.bytes, stats.udp_rx.bytes)
            }
        };
        Figures {
            rtt: self.rtt(),
            streams: self.streams(),
            sent,
            received,
        }
    }

    /// Exported keying material (RFC 9266), the same at both ends and at no other connection.
    #[must_use]
    pub fn binding(&self) -> &[u8; BINDING_LEN] {
        &self.0.facts.binding
    }

    /// Opens a stream without a round trip: `head` leaves with the first bytes written, or with the first
    /// read or flush.
    ///
    /// # Errors
    /// [`OpenError`]; a refusal by the other side comes later, from the stream's reads.
    pub async fn open(&self, head: Head) -> Result<TunnelStream, OpenError> {
        let head = frame::encode(&head, MAX_HEAD)?;
        let full = || OpenError::Full(self.capacity());
        let place = Arc::clone(&self.0.opened)
            .try_acquire_owned()
            .map_err(|_none_left| full())?;
        let opening = timeout(self.0.settings.open_within, self.open_raw());
        let raw = tokio::select! {
            biased;
            closed = self.closed() => return Err(closed.into()),
            raw = opening => raw.map_err(|_elapsed| full())?,
        };
        match raw {
            Some(raw) => {
                let account = self.account(&raw);
                Ok(TunnelStream::opened(raw, head, place, account))
            }
            None => Err(self.closed().await.into()),
        }
    }

    /// Opens a flow of datagrams.
    ///
    /// # Errors
    /// As [`Tunnel::open`].
    pub async fn open_flow(&self, head: Head) -> Result<Flow, OpenError> {
        Ok(self.open(head).await?.into_flow(self))
    }

    /// The next stream that the other side opens, or `None` once the tunnel is closed.
    pub async fn accept(&self) -> Option<Incoming> {
        tokio::select! {
            biased;
            () = self.0.life.ending().cancelled() => None,
            incoming = self.accept_raw() => incoming,
        }
    }

    /// Queues a control message; waits while the queue is full.
    ///
    /// # Errors
    /// [`TunnelClosed`], also for a message of more than [`MAX_CONTROL`] bytes.
    pub async fn send(&self, message: ControlKind) -> Result<(), TunnelClosed> {
        let message = Control {
            kind: Some(message),
        };
        if prost::Message::encoded_len(&message) > MAX_CONTROL {
            return Err(TunnelClosed);
        }
        let Some(kind) = message.kind else {
            return Ok(());
        };
        tokio::select! {
            biased;
            () = self.0.life.ending().cancelled() => Err(TunnelClosed),
            sent = self.0.desk.out.send(kind) => sent.map_err(|_closed| TunnelClosed),
        }
    }

    /// Queues a control message if there is room at once.
    ///
    /// # Errors
    /// [`TunnelClosed`], also where the queue is full.
    pub fn try_send(&self, message: ControlKind) -> Result<(), TunnelClosed> {
        let sent = self.0.desk.out.try_send(message);
        sent.map_err(|_closed_or_full| TunnelClosed)
    }

    /// The next control message for the tunnel's owner, or `None` once the tunnel is closed. Pings and the
    /// ends of streams are dealt with inside.
    pub async fn control(&self) -> Option<ControlKind> {
        self.0.desk.inbox.lock().await.recv().await
    }

    /// Waits until the tunnel is closed, by whomever.
    pub async fn closed(&self) -> Closed {
        self.0.life.closed().await
    }

    /// Closes the tunnel and every stream in it.
    pub fn close(&self, code: Code) {
        self.0.life.end(code, "closed by this side");
    }

    async fn open_raw(&self) -> Option<Raw> {
        match &self.0.link {
            Link::Tls { mux, .. } => mux.open().map(|stream| Raw::Tls(OverTls::new(stream))),
            Link::Quic { connection, unread } => {
                let streams = connection.open_bi().await.ok()?;
                Some(Raw::Quic(OverQuic::new(streams, unread)))
            }
        }
    }

    async fn accept_raw(&self) -> Option<Incoming> {
        loop {
            let mut stream = match &self.0.link {
                Link::Tls { arrivals, .. } => {
                    Raw::Tls(OverTls::new(arrivals.lock().await.next().await?))
                }
                Link::Quic { connection, unread } => {
                    Raw::Quic(OverQuic::new(connection.accept_bi().await.ok()?, unread))
                }
            };
            match Arc::clone(&self.0.room).try_acquire_owned() {
                Ok(place) => {
                    let account = self.account(&stream);
                    return Some(Incoming::new(stream, place, account));
                }
                Err(_none_left) => stream.abort(Code::Limit),
            }
        }
    }

    fn account(&self, raw: &Raw) -> Option<Account> {
        let accounts = self.0.accounts.as_ref()?;
        Some(accounts.open(raw.number()))
    }

    fn flow(&self, stream: TunnelStream) -> Flow {
        let connection = match &self.0.link {
            Link::Tls { .. } => None,
            Link::Quic { connection, .. } => Some(connection.clone()),
        };
        let (flow, pump) = flow::begin(stream, connection, &self.0.flows, &self.0.settings);
        let span = tracing::info_span!(parent: &self.0.span, "flow", flow = flow.number());
        self.0.tasks.spawn(span, pump.run());
        flow
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("id", &self.id())
            .field("transport", &self.transport())
            .field("remote", &self.remote())
            .finish_non_exhaustive()
    }
}

impl TunnelStream {
    /// Turns a stream of kind UDP into a flow of datagrams; an accepted one is taken thereby.
    #[must_use]
    pub fn into_flow(self, tunnel: &Tunnel) -> Flow {
        tunnel.flow(self)
    }
}
