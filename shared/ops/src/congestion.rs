//! How connections find out how much a network carries.

use std::io;

use serde::Deserialize;
use socket2::SockRef;
use tokio::net::TcpStream;

/// What decides how fast a connection sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// BBR: by what gets through, so that a lost packet does not halve the rate and queues on the way stay short. Where
    /// the system has none, or keeps it from us, TCP is left as it is.
    #[default]
    Bbr,
    /// TCP as the system is set up, QUIC with CUBIC (RFC 9438).
    System,
}

impl Congestion {
    /// Sets a connection up.
    ///
    /// # Errors
    /// When the system does not have it or does not allow it.
    pub fn set(self, stream: &TcpStream) -> io::Result<()> {
        match self {
            Self::Bbr => SockRef::from(stream).set_tcp_congestion(b"bbr"),
            Self::System => Ok(()),
        }
    }
}
