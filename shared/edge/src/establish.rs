//! From an accepted socket to a tunnel, a data connection, a blind connection or a front connection.
//!
//! One deadline covers all of it. Nothing is answered before the ClientHello is whole, and then
//! only what the client's words choose: a tunnel by its protocol, a blind connection by its server
//! name, else the front. A data connection is known by its preamble, which no ClientHello begins with.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use ipnet::IpNet;
use rustls::ServerConfig;
use sallyport_ops::{Accepted, Slot};
use sallyport_splice::Rewound;
use sallyport_wire::DATA_PREAMBLE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::client::{ClientInfo, HttpVersion};
use crate::clienthello::{Hello, HelloError, Peek};
use crate::limits::Limits;
use crate::proxy_protocol::{self, ProxyError};

/// A question about a server name, which is in lower case and without a trailing dot.
pub type Names = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What a listener does with its clients.
#[derive(Clone)]
pub struct Rules {
    /// TLS of tunnels, chosen by the protocols that it names; none where no relay may come in.
    pub tunnel: Option<Arc<ServerConfig>>,
    /// Whether relays may dial data connections.
    pub data: bool,
    /// TLS of the front; none where no client may come in.
    pub front: Option<Arc<ServerConfig>>,
    /// The names whose TLS we never open.
    pub passthrough: Names,
    /// The names that the front answers to.
    pub answers: Names,
    /// Whether the front also answers clients that name nobody, or somebody unknown: where our URL
    /// has an address for a host. Else they get `unrecognized_name`.
    pub answers_strangers: bool,
    /// Proxies in front of us.
    pub trusted: Vec<IpNet>,
    /// What those proxies send first.
    pub proxy_header: ProxyHeader,
    /// For everything here together.
    pub deadline: Duration,
    /// Most bytes of a ClientHello.
    pub hello_bytes: usize,
}

/// Whether trusted proxies send a PROXY header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyHeader {
    /// They never do.
    #[default]
    Never,
    /// They may.
    Optional,
    /// They must.
    Required,
    /// They must for clients. A relay at a trusted address may also come by itself.
    OfClients,
}

impl Rules {
    /// Rules of a listener for the front alone: any name, no tunnels, no passthrough, no proxies.
    #[must_use]
    pub fn front_only(front: Arc<ServerConfig>, limits: &Limits) -> Self {
        Self {
            tunnel: None,
            data: false,
            front: Some(front),
            passthrough: Arc::new(|_name| false),
            answers: Arc::new(|_name| true),
            answers_strangers: true,
            trusted: Vec::new(),
            proxy_header: ProxyHeader::Never,
            deadline: limits.establish,
            hello_bytes: limits.client_hello_bytes,
        }
    }

    fn trusts(&self, peer: SocketAddr) -> bool {
        let address = peer.ip().to_canonical();
        self.trusted
            .iter()
            .any(|network| network.contains(&address))
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("tunnel", &self.tunnel.is_some())
            .field("answers_strangers", &self.answers_strangers)
            .field("trusted", &self.trusted)
            .field("proxy_header", &self.proxy_header)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// What a socket turned out to be.
#[derive(Debug)]
pub enum Established {
    /// A relay that wants a tunnel; it has still to say who it is.
    Relay {
        /// The tunnel's TLS.
        tls: Box<TlsStream<Rewound<TcpStream>>>,
        /// The relay's address.
        peer: SocketAddr,
    },
    /// What says that it is a data connection of a relay; nothing of it is proven.
    Data {
        /// All its bytes, from the preamble on.
        io: Rewound<TcpStream>,
    },
    /// A client of a name whose TLS we never open.
    Passthrough {
        /// The name.
        sni: String,
        /// All its bytes, from the first of its ClientHello on.
        io: Rewound<TcpStream>,
        /// Who it is.
        client: ClientInfo,
    },
    /// A client of the front.
    Front {
        /// Its TLS.
        tls: Box<TlsStream<Rewound<TcpStream>>>,
        /// Who it is.
        client: ClientInfo,
    },
}

/// Why a connection was not established. The client is told nothing but what TLS demands.
#[derive(Debug, thiserror::Error)]
pub enum EstablishError {
    /// The deadline passed.
    #[error("too slow: {0}")]
    TooSlow(Step),
    /// The client closed or broke the connection.
    #[error("gone: {step}: {cause}")]
    Gone {
        /// What was waited for.
        step: Step,
        /// What the socket says.
        cause: io::Error,
    },
    /// A trusted proxy did not send what it must.
    #[error("proxy: {0}")]
    Proxy(#[from] ProxyError),
    /// The first bytes are no ClientHello.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// A name that nobody here answers to; the client got the alert.
    #[error("unrecognised server name {}", .0.as_deref().unwrap_or("(none)"))]
    UnknownName(Option<String>),
    /// The handshake failed.
    #[error("handshake: {0}")]
    Handshake(io::Error),
}

impl EstablishError {
    /// Whether only somebody who means ill, or is badly broken, does this; for penalties.
    #[must_use]
    pub const fn is_hostile(&self) -> bool {
        matches!(
            self,
            Self::Hello(_) | Self::TooSlow(Step::Hello | Step::Handshake)
        )
    }
}

/// What a connection is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The PROXY header.
    ProxyHeader,
    /// The ClientHello.
    Hello,
    /// The rest of the handshake.
    Handshake,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProxyHeader => "waiting for the PROXY header",
            Self::Hello => "waiting for the ClientHello",
            Self::Handshake => "in the handshake",
        })
    }
}

/// Takes an accepted connection as far as its first bytes lead; gives its place back with it.
///
/// # Errors
/// When the client is too slow, breaks off, or is none of ours.
pub async fn establish(
    accepted: Accepted,
    rules: &Rules,
) -> Result<(Established, Slot), EstablishError> {
    let Accepted {
        stream,
        peer,
        local,
        slot,
    } = accepted;
    let client = ClientInfo {
        peer,
        address: peer,
        local,
        trusted: rules.trusts(peer),
        sni: None,
        http: HttpVersion::One,
        tls: String::new(),
    };
    let newcomer = Newcomer {
        stream,
        read: BytesMut::new(),
        client,
        header_is_missing: false,
    };
    let mut at = Step::ProxyHeader;
    let way = timeout(rules.deadline, Box::pin(newcomer.find_way(rules, &mut at))).await;
    let way = way.map_err(|_elapsed| EstablishError::TooSlow(at))??;
    Ok((way, slot))
}

/// A connection of which little is known yet.
struct Newcomer {
    stream: TcpStream,
    /// What was read and is not used up: it goes to whoever takes the connection.
    read: BytesMut,
    client: ClientInfo,
    /// Whether it came without the PROXY header that clients need.
    header_is_missing: bool,
}

impl Newcomer {
    async fn find_way(
        mut self,
        rules: &Rules,
        at: &mut Step,
    ) -> Result<Established, EstablishError> {
        if self.client.trusted && rules.proxy_header != ProxyHeader::Never {
            self.read_proxy_header(rules.proxy_header).await?;
        }
        *at = Step::Hello;
        if rules.data && self.begins_as_data().await? {
            let (io, _client) = self.rewind();
            return Ok(Established::Data { io });
        }
        let hello = self.read_hello(rules.hello_bytes).await?;
        self.client.sni.clone_from(&hello.sni);
        *at = Step::Handshake;
        let choice = choose(&hello, rules);
        if self.header_is_missing && !matches!(choice, Choice::Tunnel(_)) {
            return Err(ProxyError::Absent.into());
        }
        match choice {
            Choice::Tunnel(config) => {
                let peer = self.client.address;
                let (tls, _client) = self.shake_hands(config).await?;
                Ok(Established::Relay { tls, peer })
            }
            Choice::Passthrough(sni) => {
                let (io, client) = self.rewind();
                Ok(Established::Passthrough { sni, io, client })
            }
            Choice::Front(config) => {
                let (tls, client) = self.shake_hands(config).await?;
                Ok(Established::Front { tls, client })
            }
            Choice::Nobody => {
                self.tell_unrecognised().await;
                Err(EstablishError::UnknownName(hello.sni))
            }
        }
    }

    async fn read_proxy_header(&mut self, wanted: ProxyHeader) -> Result<(), EstablishError> {
        let header = loop {
            match proxy_protocol::read(&self.read) {
                Ok(Some(header)) => break header,
                Ok(None) => self.read_more(Step::ProxyHeader).await?,
                Err(ProxyError::Absent) if wanted == ProxyHeader::Optional => return Ok(()),
                Err(ProxyError::Absent) if wanted == ProxyHeader::OfClients => {
                    self.header_is_missing = true;
                    return Ok(());
                }
                Err(fault) => return Err(fault.into()),
            };
        };
        self.read.advance(header.length);
        if let Some(addresses) = header.addresses {
            self.client.address = addresses.source;
            self.client.local = addresses.destination;
        }
        Ok(())
    }

    /// Whether the preamble of a data connection comes first: told by the first byte that differs.
    async fn begins_as_data(&mut self) -> Result<bool, EstablishError> {
        loop {
            let begun = self.read.len().min(DATA_PREAMBLE.len());
            if self.read.get(..begun) != DATA_PREAMBLE.get(..begun) {
                return Ok(false);
            }
            if begun == DATA_PREAMBLE.len() {
                return Ok(true);
            }
            self.read_more(Step::Hello).await?;
        }
    }

    async fn read_hello(&mut self, most: usize) -> Result<Hello, EstablishError> {
        let mut peek = Peek::new(most);
        let mut looked_at = 0;
        loop {
            let new = self.read.get(looked_at..).unwrap_or_default();
            if let Some(hello) = peek.feed(new)? {
                return Ok(hello);
            }
            looked_at = self.read.len();
            self.read_more(Step::Hello).await?;
        }
    }

    /// Callers stop at their own limits, so that this cannot grow without end.
    async fn read_more(&mut self, step: Step) -> Result<(), EstablishError> {
        const PIECE: usize = 2_048;
        self.read.reserve(PIECE);
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) => Err(EstablishError::Gone {
                step,
                cause: io::ErrorKind::UnexpectedEof.into(),
            }),
            Ok(_) => Ok(()),
            Err(cause) => Err(EstablishError::Gone { step, cause }),
        }
    }

    fn rewind(self) -> (Rewound<TcpStream>, ClientInfo) {
        (Rewound::new(self.read.freeze(), self.stream), self.client)
    }

    async fn shake_hands(
        self,
        config: Arc<ServerConfig>,
    ) -> Result<(Box<TlsStream<Rewound<TcpStream>>>, ClientInfo), EstablishError> {
        let (io, mut client) = self.rewind();
        let accepting = TlsAcceptor::from(config).accept(io);
        let tls = accepting.await.map_err(EstablishError::Handshake)?;
        let (_, agreed) = tls.get_ref();
        if agreed.alpn_protocol() == Some(b"h2") {
            client.http = HttpVersion::Two;
        }
        client.tls = describe(agreed);
        Ok((Box::new(tls), client))
    }

    /// A fatal alert in a record of its own (RFC 8446 §6.2).
    async fn tell_unrecognised(&mut self) {
        const UNRECOGNISED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];
        // The client may be gone already; then nobody is left to tell.
        if self.stream.write_all(UNRECOGNISED_NAME).await.is_ok() {
            drop(self.stream.shutdown().await);
        }
    }
}

/// Where a ClientHello leads.
enum Choice {
    Tunnel(Arc<ServerConfig>),
    Passthrough(String),
    Front(Arc<ServerConfig>),
    Nobody,
}

fn choose(hello: &Hello, rules: &Rules) -> Choice {
    if let Some(tunnel) = &rules.tunnel
        && tunnel.alpn_protocols.iter().any(|name| hello.offers(name))
    {
        return Choice::Tunnel(Arc::clone(tunnel));
    }
    let name = hello.sni.as_deref();
    if let Some(name) = name.filter(|name| (rules.passthrough)(name)) {
        return Choice::Passthrough(name.to_owned());
    }
    let is_ours = name.is_some_and(|name| (rules.answers)(name)) || rules.answers_strangers;
    match &rules.front {
        Some(front) if is_ours => Choice::Front(Arc::clone(front)),
        Some(_) | None => Choice::Nobody,
    }
}

/// Version and cipher suite, as `TLSv1.3 TLS13_AES_128_GCM_SHA256`.
fn describe(agreed: &rustls::ServerConnection) -> String {
    let version = match agreed.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    };
    match agreed.negotiated_cipher_suite() {
        Some(suite) => format!("{version} {:?}", suite.suite()),
        None => version.to_owned(),
    }
}

#[cfg(test)]
mod tests;
