//! What is known about a client once its connection is established.

use std::net::SocketAddr;

/// A client connection, as the establish phase learnt it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientInfo {
    /// The other end of the socket: the client, or a proxy in front of us.
    pub peer: SocketAddr,
    /// The client itself: what a trusted peer's PROXY header says, else `peer`.
    pub address: SocketAddr,
    /// The address that the client came to: from the same PROXY header, else of our socket.
    pub local: SocketAddr,
    /// Whether `peer` is a trusted proxy, so that its `X-Forwarded-*` are believed.
    pub trusted: bool,
    /// Server name of the TLS handshake (RFC 6066 §3), in lower case and without a trailing dot.
    pub sni: Option<String>,
    /// What the handshake agreed on (RFC 7301); HTTP/1.1 where the client offered nothing.
    pub http: HttpVersion,
    /// TLS version and cipher suite for the access log, as `TLSv1.3 TLS13_AES_128_GCM_SHA256`.
    pub tls: String,
}

/// The HTTP version that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1, or 1.0 (RFC 9112).
    One,
    /// HTTP/2 (RFC 9113).
    Two,
}

impl HttpVersion {
    /// As the access log has it.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::One => "HTTP/1.1",
            Self::Two => "HTTP/2.0",
        }
    }
}
