//! How connections find out how much a network carries.

use serde::Deserialize;
use socket2::SockRef;
use tokio::net::TcpStream;
use tracing::debug;

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
    /// Sets a connection up, where the system has what is asked for and allows it.
    pub fn set(self, stream: &TcpStream) {
        if self == Self::Bbr
            && let Err(cause) = SockRef::from(stream).set_tcp_congestion(b"bbr")
        {
            debug!(%cause, "sending with the system's congestion control");
        }
    }
}
