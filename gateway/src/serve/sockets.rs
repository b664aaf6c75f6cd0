//! Every socket of the configuration, bound before anything else happens.

use sallyport_ops::listen::{self, ListenError};
use tokio::net::{TcpListener, UdpSocket};

use super::ServeError;
use crate::config::{Config, Raw};

/// Bound sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    /// The public port over TCP.
    pub(super) public: Vec<TcpListener>,
    /// The public port over UDP.
    pub(super) quic: Vec<std::net::UdpSocket>,
    /// Raw TCP ports.
    pub(super) tcp: Vec<(TcpListener, Raw)>,
    /// Raw UDP ports.
    pub(super) udp: Vec<(UdpSocket, Raw)>,
}

impl Sockets {
    /// Binds everything, or nothing.
    ///
    /// # Errors
    /// [`ServeError`] that names the address.
    pub(super) fn bind(config: &Config) -> Result<Self, ServeError> {
        let all = |bind: fn(_) -> Result<TcpListener, ListenError>| {
            config
                .listen
                .iter()
                .map(|addr| bind(*addr))
                .collect::<Result<Vec<_>, _>>()
        };
        let public = all(listen::bind_tcp)?;
        let quic = config.listen.iter().map(|addr| listen::bind_udp(*addr));
        let tcp = config
            .tcp
            .iter()
            .map(|raw| Ok((listen::bind_tcp(raw.listen)?, raw.clone())));
        let udp = config
            .udp
            .iter()
            .map(|raw| Ok((datagrams(raw)?, raw.clone())));
        Ok(Self {
            public,
            quic: quic.collect::<Result<_, _>>()?,
            tcp: tcp.collect::<Result<_, ListenError>>()?,
            udp: udp.collect::<Result<_, ServeError>>()?,
        })
    }
}

fn datagrams(raw: &Raw) -> Result<UdpSocket, ServeError> {
    let socket = listen::bind_udp(raw.listen)?;
    socket
        .set_nonblocking(true)
        .and_then(|()| UdpSocket::from_std(socket))
        .map_err(ServeError::system(format!("[[udp]] {}", raw.listen)))
}
