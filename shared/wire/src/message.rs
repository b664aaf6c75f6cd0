//! What goes over a tunnel. Field numbers are part of the protocol; unknown fields are skipped.
//!
//! A relay sends [`Hello`], the gateway answers [`Reply`]. After a welcome both send [`Control`] messages
//! on the same control stream. Every other stream begins with a [`Head`] from its opener, answered by one
//! [`Answer`] before the first byte back.

use bytes::Bytes;
use prost::{Enumeration, Message, Oneof};

/// The relay's first message: who it is, proven twice.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Hello {
    /// Oldest protocol version that the relay speaks.
    #[prost(uint32, tag = "1")]
    pub oldest: u32,
    /// Newest protocol version that the relay speaks.
    #[prost(uint32, tag = "2")]
    pub newest: u32,
    /// Node name.
    #[prost(string, tag = "3")]
    pub node: String,
    /// Rises with every start of the relay's process; fences an older process of the same node.
    #[prost(uint64, tag = "4")]
    pub generation: u64,
    /// The generation that this process replaces in an upgrade: it is drained, not evicted. 0 for none.
    #[prost(uint64, tag = "5")]
    pub successor_of: u64,
    /// JWT that proves the gateway.json secret and is bound to this connection.
    #[prost(string, tag = "6")]
    pub token: String,
    /// Ed25519 public key of the node, 32 bytes.
    #[prost(bytes = "bytes", tag = "7")]
    pub node_key: Bytes,
    /// Ed25519 signature over the token by the node key, 64 bytes.
    #[prost(bytes = "bytes", tag = "8")]
    pub proof: Bytes,
    /// Features that the relay has.
    #[prost(string, repeated, tag = "9")]
    pub features: Vec<String>,
    /// Features that it cannot do without; a gateway that lacks one refuses by name.
    #[prost(string, repeated, tag = "10")]
    pub required: Vec<String>,
    /// Site of the node, for choice by nearness. Empty for none.
    #[prost(string, tag = "11")]
    pub site: String,
    /// Version of the relay's program, for status and log.
    #[prost(string, tag = "12")]
    pub software: String,
    /// Asks only whether it would be let in: nothing is bound, joined or evicted. [`DRY_RUN`] is then `required`.
    #[prost(bool, tag = "13")]
    pub dry_run: bool,
}

/// The feature of a gateway that answers a hello without letting its relay in.
pub const DRY_RUN: &str = "dry-run";

/// The feature of carrying streams that are encrypted from end to end over connections of their own.
pub const DATA: &str = "data";

/// The feature of telling the other side what was taken of its streams, which is named by who resumes them.
pub const ACK: &str = "ack";

/// The gateway's answer to [`Hello`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Reply {
    /// Yes or no.
    #[prost(oneof = "ReplyKind", tags = "1, 2")]
    pub kind: Option<ReplyKind>,
}

/// Yes or no to a [`Hello`].
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum ReplyKind {
    /// The tunnel is up.
    #[prost(message, tag = "1")]
    Welcome(Welcome),
    /// The tunnel is refused.
    #[prost(message, tag = "2")]
    Refused(Refused),
}

/// The tunnel is up.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Welcome {
    /// Protocol version chosen.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The gateway's own name, for log and status.
    #[prost(string, tag = "2")]
    pub gateway: String,
    /// Number of this tunnel at the gateway.
    #[prost(uint64, tag = "3")]
    pub tunnel: u64,
    /// Features that both sides have.
    #[prost(string, repeated, tag = "4")]
    pub features: Vec<String>,
    /// Most streams that the gateway will open on this tunnel at once.
    #[prost(uint32, tag = "5")]
    pub max_streams: u32,
    /// Tunnels that the gateway wants from this relay, 1 to 4; 0 leaves it to the relay.
    #[prost(uint32, tag = "6")]
    pub tunnels: u32,
    /// Version of the gateway's program, for status and log.
    #[prost(string, tag = "7")]
    pub software: String,
    /// On a peer link, who answers; a gateway proves itself by its certificate.
    #[prost(message, optional, tag = "8")]
    pub identity: Option<Identity>,
}

/// Who answers a [`Hello`] on a peer link, proven as the hello is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Identity {
    /// Node name.
    #[prost(string, tag = "1")]
    pub node: String,
    /// JWT that proves a cluster key and is bound to this connection.
    #[prost(string, tag = "2")]
    pub token: String,
    /// Ed25519 public key of the node, 32 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub node_key: Bytes,
    /// Ed25519 signature over the token by the node key, 64 bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub proof: Bytes,
}

/// A refusal: a number of [`crate::Code`], and when to come back.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Refused {
    /// Number of a [`crate::Code`].
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// Milliseconds to wait before the next try; 0 leaves it to the asker's backoff.
    #[prost(uint32, tag = "2")]
    pub retry_after_ms: u32,
}

/// One message of the control stream, either way.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Control {
    /// What it says. None is a message from a newer version and is skipped.
    #[prost(oneof = "ControlKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub kind: Option<ControlKind>,
}

/// What a control message says.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum ControlKind {
    /// Relay → gateway: sessions it serves from now on.
    #[prost(message, tag = "1")]
    Advertise(Advertise),
    /// Gateway → relay: what became of an advertisement.
    #[prost(message, tag = "2")]
    Advertised(Advertised),
    /// Either way: answer with [`ControlKind::Pong`] at once.
    #[prost(message, tag = "3")]
    Ping(Ping),
    /// The echo of a [`ControlKind::Ping`].
    #[prost(message, tag = "4")]
    Pong(Ping),
    /// Either way: nothing new on this tunnel, and it ends soon.
    #[prost(message, tag = "5")]
    Drain(Drain),
    /// Relay → gateway: a fresh token for a live tunnel.
    #[prost(message, tag = "6")]
    Rotate(Rotate),
    /// Gateway → relay: what became of a fresh token. One that is refused leaves the last one in force.
    #[prost(message, tag = "7")]
    Rotated(Answer),
    /// Gateway → relay: dial a data connection for a stream. Only where both named [`DATA`].
    #[prost(message, tag = "8")]
    Data(Data),
    /// Either way: what was taken of streams. Only where both named [`ACK`].
    #[prost(message, tag = "9")]
    Ack(Ack),
    /// Either way between nodes: which store the sender has, and every change of it.
    #[prost(message, tag = "10")]
    Store(Store),
}

/// The store of a node: nodes of one cluster are to share one.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Store {
    /// 32 hexadecimal digits, which stand in the store itself.
    #[prost(string, tag = "1")]
    pub id: String,
    /// When it was used first, in milliseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub made_ms: u64,
    /// Whether it is a broker's, so that other nodes can share it.
    #[prost(bool, tag = "3")]
    pub shared: bool,
}

/// Sessions that a relay serves. A revision replaces the one before as a whole.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Advertise {
    /// Counts up per tunnel; echoed in [`Advertised`].
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// Sessions at home on this node.
    #[prost(message, repeated, tag = "2")]
    pub home: Vec<Offer>,
    /// Sessions of other nodes that can be reached through this one.
    #[prost(message, repeated, tag = "3")]
    pub via: Vec<Offer>,
    /// Whether the node takes nothing new; its sessions go on.
    #[prost(bool, tag = "4")]
    pub draining: bool,
    /// To other nodes: the URL of the node's own port for clients; empty for none.
    #[prost(string, tag = "5")]
    pub direct_url: String,
    /// To other nodes: the generation of the process, which takes no tickets that were made for another one.
    #[prost(uint64, tag = "6")]
    pub generation: u64,
}

/// One session as its relay offers it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Offer {
    /// Session id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What the session speaks.
    #[prost(enumeration = "Protocol", tag = "2")]
    pub protocol: i32,
    /// Pool that it belongs to; empty for none.
    #[prost(string, tag = "3")]
    pub pool: String,
    /// Whether path mode keeps `/s/<id>` in the path that the session sees.
    #[prost(bool, tag = "4")]
    pub keep_prefix: bool,
    /// Whether its health check fails just now.
    #[prost(bool, tag = "5")]
    pub down: bool,
    /// Share of new streams among equals, 1 to 1000; 0 takes no new ones (drain).
    #[prost(uint32, tag = "6")]
    pub weight: u32,
    /// Whether its pages may live on the portal's origin (path mode).
    #[prost(bool, tag = "7")]
    pub trusted: bool,
    /// Whether clients without identity are let in by the relay (public, by source or by client certificate).
    #[prost(bool, tag = "8")]
    pub anonymous: bool,
    /// Whether the relay or the service ends TLS, so that the gateway must pass it through unopened.
    #[prost(bool, tag = "9")]
    pub blind: bool,
    /// Seconds to the first byte of an answer before the client gets 504; 0 for the gateway's default.
    #[prost(uint32, tag = "10")]
    pub answer_within: u32,
    /// In [`Advertise::via`], the node where the session is at home; empty in [`Advertise::home`].
    #[prost(string, tag = "11")]
    pub node: String,
    /// What keeps a client with one member of the pool.
    #[prost(enumeration = "Sticky", tag = "12")]
    pub sticky: i32,
}

/// What a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum Protocol {
    /// HTTP/1.1 and WebSocket.
    Http = 0,
    /// HTTP/2 with prior knowledge (gRPC).
    H2c = 1,
    /// Bytes.
    Tcp = 2,
    /// TLS that the service itself ends.
    Tls = 3,
    /// Datagrams.
    Udp = 4,
    /// RFB; browsers reach it over a WebSocket that the relay ends.
    Vnc = 5,
}

impl Protocol {
    /// The word of `relay.toml`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::H2c => "h2c",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Udp => "udp",
            Self::Vnc => "vnc",
        }
    }
}

/// What keeps a client with the member of a pool that it had before. Of members that differ the one holds that stands
/// last here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum Sticky {
    /// Not said: the client's address, and nothing for HTTP.
    Unset = 0,
    /// Nothing.
    None = 1,
    /// The client's address.
    Source = 2,
    /// A cookie of the gateway for HTTP, and the client's address for what has no cookies.
    Cookie = 3,
}

impl Sticky {
    /// The word of `relay.toml`; none where it is not said.
    #[must_use]
    pub const fn word(self) -> Option<&'static str> {
        match self {
            Self::Unset => None,
            Self::None => Some("none"),
            Self::Source => Some("source"),
            Self::Cookie => Some("cookie"),
        }
    }
}

/// What became of an [`Advertise`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Advertised {
    /// The revision that this answers.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// The sessions that were not taken, with the reason.
    #[prost(message, repeated, tag = "2")]
    pub refused: Vec<RefusedOffer>,
}

/// A session that was not taken.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RefusedOffer {
    /// Session id as offered.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Number of a [`crate::Code`].
    #[prost(uint32, tag = "2")]
    pub code: u32,
}

/// A ping or its echo.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Ping {
    /// Counts up per tunnel and sender.
    #[prost(uint64, tag = "1")]
    pub number: u64,
}

/// Nothing new on this tunnel from now on.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Drain {
    /// Milliseconds within which the relay should dial anew, spread at random.
    #[prost(uint32, tag = "1")]
    pub redial_in_ms: u32,
    /// Milliseconds after which what is left is cut.
    #[prost(uint32, tag = "2")]
    pub finish_by_ms: u32,
}

/// A fresh token for a live tunnel, made and bound as in [`Hello`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Rotate {
    /// JWT, as in [`Hello`].
    #[prost(string, tag = "1")]
    pub token: String,
    /// Signature, as in [`Hello`].
    #[prost(bytes = "bytes", tag = "2")]
    pub proof: Bytes,
}

/// An invitation to dial a data connection for a stream.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Data {
    /// Number of the stream in the tunnel that this message came on.
    #[prost(uint64, tag = "1")]
    pub stream: u64,
    /// The secret that the connection is proven with, 32 random bytes, for one connection.
    #[prost(bytes = "bytes", tag = "2")]
    pub token: Bytes,
}

/// What was taken of streams, of those for which it is to be told again.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Ack {
    /// Each at most once.
    #[prost(message, repeated, tag = "1")]
    pub taken: Vec<Taken>,
}

/// What was taken of one stream.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Taken {
    /// Number of the stream in the tunnel that this message came on.
    #[prost(uint64, tag = "1")]
    pub stream: u64,
    /// Bytes of payload that the reader has taken since the stream began.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
}

/// How a stream is to be treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// HTTP that the front has parsed and written anew, to be spliced to the session.
    Http = 0,
    /// Bytes of a raw TCP listener.
    Tcp = 1,
    /// TLS that nobody has opened yet.
    Tls = 2,
    /// A flow of datagrams.
    Udp = 3,
    /// A probe of the data plane: every byte comes back.
    Probe = 4,
}

/// The first message of every stream, from its opener. Payload follows at once.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Head {
    /// How to treat it.
    #[prost(enumeration = "Kind", tag = "1")]
    pub kind: i32,
    /// Session id; never a host or a port.
    #[prost(string, tag = "2")]
    pub target: String,
    /// Number of the stream, which outlives its tunnel when the stream is resumed.
    #[prost(uint64, tag = "3")]
    pub stream: u64,
    /// Where the client is, as the gateway sees it.
    #[prost(message, optional, tag = "4")]
    pub client: Option<Client>,
    /// Id of the request or connection, the same in every log line about it.
    #[prost(string, tag = "5")]
    pub request_id: String,
    /// What the client shows to be let in: cookie, bearer or share token. The relay decides on it.
    #[prost(string, tag = "6")]
    pub credential: String,
    /// Reserved for resume: where to go on. None for a new stream.
    #[prost(message, optional, tag = "7")]
    pub resume: Option<Resume>,
    /// Raw gateway port that the client came to, for raw TCP and UDP; else 0.
    #[prost(uint32, tag = "8")]
    pub port: u32,
}

/// Where a client is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Client {
    /// Address and port, as `1.2.3.4:5` or `[::1]:5`.
    #[prost(string, tag = "1")]
    pub address: String,
    /// Host that it asked for: Host header or SNI.
    #[prost(string, tag = "2")]
    pub host: String,
    /// Whether it came over TLS to the gateway.
    #[prost(bool, tag = "3")]
    pub tls: bool,
    /// Address of the gateway that it came to.
    #[prost(string, tag = "4")]
    pub local: String,
}

/// Reserved for resume: bytes that the opener has seen and sent.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Resume {
    /// Payload bytes received by the opener so far.
    #[prost(uint64, tag = "1")]
    pub received: u64,
    /// Payload bytes sent by the opener so far.
    #[prost(uint64, tag = "2")]
    pub sent: u64,
}

/// The answer to a [`Head`], before the first byte back; also that to a [`Rotate`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Answer {
    /// None: what was asked is accepted. Else why not.
    #[prost(message, optional, tag = "1")]
    pub refused: Option<Refused>,
}
