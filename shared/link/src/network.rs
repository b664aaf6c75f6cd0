//! What a relay dials through: the names and sockets of its host, or others in their place.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime};
use sallyport_ops::{Congestion, listen};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

/// A TCP connection, or what does as much.
pub trait Tcp: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Tcp for T {}

/// What leads from a relay to its gateways.
pub trait Network: fmt::Debug + Send + Sync {
    /// The addresses of a host, given by name or address, in the order in which they are to be tried.
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;

    /// A connection to an address.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Tcp>>>;

    /// A connection to an address that the kernel can splice.
    ///
    /// None where this network has no such thing.
    fn data(&self, _to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        async { Err(io::ErrorKind::Unsupported.into()) }.boxed()
    }

    /// A UDP socket on an address of this side's own.
    ///
    /// # Errors
    /// If there is none to be had.
    fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;
}

/// The network that this host is in.
#[derive(Debug, Clone, Copy, Default)]
pub struct System {
    /// What decides how fast its TCP connections send.
    pub congestion: Congestion,
}

impl Network for System {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        async move { Ok(lookup_host((host, port)).await?.collect()) }.boxed()
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Tcp>>> {
        async move { Ok(Box::new(self.data(to).await?) as Box<dyn Tcp>) }.boxed()
    }

    fn data(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        async move {
            let tcp = TcpStream::connect(to).await?;
            listen::tune(&tcp)?;
            self.congestion.set(&tcp);
            Ok(tcp)
        }
        .boxed()
    }

    fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = listen::bind_udp(local).map_err(io::Error::other)?;
        TokioRuntime.wrap_udp_socket(socket)
    }
}
