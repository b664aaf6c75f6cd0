//! A network between relay and gateway that can be cut, frozen, or led elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;

use sallyport_ops::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tracing::Span;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// Carries everything to there.
    Leads(SocketAddr),
    /// Swallows everything.
    Frozen,
    /// Connections are closed.
    Cut,
}

/// A network with its own address.
pub(crate) struct Between {
    pub(crate) address: SocketAddr,
    pub(crate) network: watch::Sender<Network>,
    _tasks: Tasks,
}

pub(crate) async fn tcp(to: SocketAddr) -> Between {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (network, seen) = watch::channel(Network::Leads(to));
    let tasks = Tasks::new();
    let inner = tasks.clone();
    tasks.spawn(Span::none(), async move {
        loop {
            let (client, _) = listener.accept().await.expect("a connection");
            let server = TcpStream::connect(to).await.expect("the gate");
            let (client_read, client_write) = client.into_split();
            let (server_read, server_write) = server.into_split();
            inner.spawn(Span::none(), carry(client_read, server_write, seen.clone()));
            inner.spawn(Span::none(), carry(server_read, client_write, seen.clone()));
        }
    });
    Between {
        address,
        network,
        _tasks: tasks,
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut network: watch::Receiver<Network>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let now = *network.borrow_and_update();
        tokio::select! {
            changed = network.changed() => changed.expect("a network"),
            read = from.read(&mut buffer), if now != Network::Frozen => match read {
                Ok(0) | Err(_) => return,
                Ok(n) => if to.write_all(&buffer[..n]).await.is_err() { return },
            },
        }
        if *network.borrow() == Network::Cut {
            return;
        }
    }
}

/// For one client.
pub(crate) async fn udp(to: SocketAddr) -> Between {
    let near = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
    let far = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let address = near.local_addr().expect("an address");
    let (network, seen) = watch::channel(Network::Leads(to));
    let tasks = Tasks::new();
    tasks.spawn(Span::none(), async move {
        let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
        let mut client = None;
        loop {
            tokio::select! {
                got = near.recv_from(&mut up) => {
                    let (n, from) = got.expect("a socket");
                    client = Some(from);
                    if let Network::Leads(to) = *seen.borrow() {
                        drop(far.try_send_to(&up[..n], to));
                    }
                }
                got = far.recv_from(&mut down) => {
                    let (n, _) = got.expect("a socket");
                    if let (Network::Leads(_), Some(client)) = (*seen.borrow(), client) {
                        drop(near.try_send_to(&down[..n], client));
                    }
                }
            }
        }
    });
    Between {
        address,
        network,
        _tasks: tasks,
    }
}
