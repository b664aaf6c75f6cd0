//! Connects to a session's program: a TCP port or a unix socket of `relay.toml`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use sallyport_edge::proxy_protocol::{self, Addresses, Version};
use sallyport_wire::Code;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use crate::config::{Host, ProxyVersion, SessionConfig, Target};
use crate::head::Origin;

mod upstream;

pub use upstream::Upstream;

/// The next address of a name is tried this much later than the one before (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);

/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Why a session's program was not reached. It is the session's fault in every case.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// It did not take the connection in time.
    #[error("no connection to {target} within {within:?}")]
    TooSlow {
        /// Where it should listen.
        target: String,
        /// The time it had.
        within: Duration,
    },
    /// It refused the connection, or is not there.
    #[error("cannot connect to {target}: {cause}")]
    Refused {
        /// Where it should listen.
        target: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

impl ReachError {
    /// What the client hears.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::TooSlow { .. } => Code::TooSlow,
            Self::Refused { .. } => Code::SessionRefused,
        }
    }
}

/// Connects to a session within a time; its program is told who the client is where it wants a PROXY header.
///
/// # Errors
/// [`ReachError`].
pub async fn reach(
    session: &SessionConfig,
    client: &Origin,
    within: Duration,
) -> Result<Upstream, ReachError> {
    let greeted = async {
        let mut upstream = connect(&session.target).await?;
        if let Some(version) = session.proxy_protocol {
            upstream.write_all(&proxy_header(version, client)).await?;
        }
        Ok(upstream)
    };
    match timeout(within, greeted).await {
        Ok(Ok(upstream)) => Ok(upstream),
        Ok(Err(cause)) => Err(ReachError::Refused {
            target: session.target.to_string(),
            cause,
        }),
        Err(_elapsed) => Err(ReachError::TooSlow {
            target: session.target.to_string(),
            within,
        }),
    }
}

/// The addresses of a UDP or TCP target, looked up now.
///
/// # Errors
/// When the name has no address, or the target is a unix socket.
pub async fn addresses(target: &Target) -> io::Result<Vec<SocketAddr>> {
    match target {
        Target::Net {
            host: Host::Address(ip),
            port,
        } => Ok(vec![SocketAddr::new(*ip, *port)]),
        Target::Net {
            host: Host::Name(name),
            port,
        } => {
            let found: Vec<_> = lookup_host((name.as_str(), *port)).await?.collect();
            let addresses = interleave(&found);
            if addresses.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    "the name has no address",
                ));
            }
            Ok(addresses)
        }
        Target::Unix(_) => Err(io::Error::other("a unix socket has no address")),
    }
}

async fn connect(target: &Target) -> io::Result<Upstream> {
    match target {
        Target::Unix(path) => UnixStream::connect(path).await.map(Upstream::Unix),
        Target::Net { .. } => {
            let tcp = first_up(addresses(target).await?).await?;
            tcp.set_nodelay(true)?;
            Ok(Upstream::Tcp(tcp))
        }
    }
}

/// Alternates between the families, beginning with the one that the resolver prefers (RFC 8305 §4).
fn interleave(found: &[SocketAddr]) -> Vec<SocketAddr> {
    let preferred = found.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) = found
        .iter()
        .copied()
        .partition(|address| address.is_ipv6() == preferred);
    first.reverse();
    second.reverse();
    let mut mixed = Vec::new();
    while !(first.is_empty() && second.is_empty()) {
        mixed.extend(first.pop());
        mixed.extend(second.pop());
    }
    mixed.dedup();
    mixed.truncate(MAX_ADDRESSES);
    mixed
}

/// The first address that takes a connection; the next is tried when one fails or is slow.
async fn first_up(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        let next = waiting.next();
        let more = waiting.len() > 0;
        attempts.extend(next.map(TcpStream::connect));
        tokio::select! {
            up = attempts.next() => match up {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => failed = error,
                None => return Err(failed),
            },
            () = tokio::time::sleep(STAGGER), if more => {}
        }
    }
}

/// Where the client is unknown the header says so, as both versions of the protocol allow.
fn proxy_header(version: ProxyVersion, client: &Origin) -> Vec<u8> {
    let unknown: &[u8] = match version {
        ProxyVersion::One => b"PROXY UNKNOWN\r\n",
        ProxyVersion::Two => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    };
    let version = match version {
        ProxyVersion::One => Version::One,
        ProxyVersion::Two => Version::Two,
    };
    let (Some(source), Some(destination)) = (client.peer, client.local) else {
        return unknown.to_vec();
    };
    proxy_protocol::write(
        version,
        Addresses {
            source,
            destination,
        },
    )
}

#[cfg(test)]
mod tests;
