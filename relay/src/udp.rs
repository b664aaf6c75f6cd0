//! A flow of datagrams between a client and a session: one connected UDP socket for each flow, so that the
//! kernel sorts the answers and drops what comes from elsewhere.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use sallyport_link::Flow;
use sallyport_splice::Meter;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

use crate::config::Target;
use crate::reach;

/// The largest datagram of UDP over IPv4.
const MAX_DATAGRAM: usize = 65_507;

/// The tunnel's side of a flow.
pub trait Datagrams: Sync {
    /// Sends one to the client; false once the flow has ended.
    fn send(&self, datagram: Bytes) -> impl Future<Output = bool> + Send;
    /// The next one of the client; `None` once the flow has ended.
    fn recv(&self) -> impl Future<Output = Option<Bytes>> + Send;
}

impl Datagrams for Flow {
    async fn send(&self, datagram: Bytes) -> bool {
        Self::send(self, datagram).await.is_ok()
    }

    async fn recv(&self) -> Option<Bytes> {
        Self::recv(self).await
    }
}

/// Why a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEnd {
    /// The client's side ended it, or the tunnel went.
    Client,
    /// The other node ended it.
    Session,
    /// No datagram went either way for too long.
    Idle,
}

impl FlowEnd {
    /// The word for the log.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Session => "session",
            Self::Idle => "idle",
        }
    }
}

/// A socket that is connected to a session's target.
///
/// # Errors
/// When the target has no address or no socket can be had.
pub async fn connect(target: &Target) -> io::Result<UdpSocket> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in reach::addresses(target).await? {
        match connect_to(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn connect_to(address: SocketAddr) -> io::Result<UdpSocket> {
    let local: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(address).await?;
    Ok(socket)
}

/// Carries datagrams both ways until the client's side ends the flow or nothing came for `idle`.
///
/// One that the socket cannot take, or that nobody listens to, is lost, as UDP allows.
pub async fn carry(
    flow: &impl Datagrams,
    socket: &UdpSocket,
    idle: Duration,
    meter: &Meter,
) -> FlowEnd {
    let mut ends = Instant::now() + idle;
    loop {
        tokio::select! {
            datagram = flow.recv() => {
                let Some(datagram) = datagram else { return FlowEnd::Client };
                if socket.send(&datagram).await.is_ok() {
                    meter.add_up(count(&datagram));
                }
            }
            ready = socket.readable() => {
                let Some(datagram) = ready.ok().and_then(|()| receive(socket)) else { continue };
                let bytes = count(&datagram);
                if !flow.send(datagram).await {
                    return FlowEnd::Client;
                }
                meter.add_down(bytes);
            }
            () = sleep_until(ends) => return FlowEnd::Idle,
        }
        ends = Instant::now() + idle;
    }
}

/// Joins two flows until either ends or nothing came for `idle`.
pub async fn join(
    client: &impl Datagrams,
    session: &impl Datagrams,
    idle: Duration,
    meter: &Meter,
) -> FlowEnd {
    let mut ends = Instant::now() + idle;
    loop {
        let is_up = tokio::select! {
            datagram = client.recv() => {
                let Some(datagram) = datagram else { return FlowEnd::Client };
                meter.add_up(count(&datagram));
                session.send(datagram).await
            }
            datagram = session.recv() => {
                let Some(datagram) = datagram else { return FlowEnd::Session };
                meter.add_down(count(&datagram));
                client.send(datagram).await
            }
            () = sleep_until(ends) => return FlowEnd::Idle,
        };
        if !is_up {
            return FlowEnd::Client;
        }
        ends = Instant::now() + idle;
    }
}

/// The datagram that waits, read through a buffer that lives only for it: an idle flow holds none.
fn receive(socket: &UdpSocket) -> Option<Bytes> {
    let mut buffer = vec![0; MAX_DATAGRAM];
    let amount = socket.try_recv(&mut buffer).ok()?;
    buffer.get(..amount).map(Bytes::copy_from_slice)
}

fn count(datagram: &Bytes) -> u64 {
    u64::try_from(datagram.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::sync::{Mutex, mpsc};

    use super::*;

    struct Pipe {
        to_client: mpsc::Sender<Bytes>,
        from_client: Mutex<mpsc::Receiver<Bytes>>,
    }

    impl Datagrams for Pipe {
        async fn send(&self, datagram: Bytes) -> bool {
            self.to_client.send(datagram).await.is_ok()
        }

        async fn recv(&self) -> Option<Bytes> {
            self.from_client.lock().await.recv().await
        }
    }

    fn pipe() -> (Pipe, mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>) {
        let (to_client, at_client) = mpsc::channel(8);
        let (client, from_client) = mpsc::channel(8);
        (
            Pipe {
                to_client,
                from_client: Mutex::new(from_client),
            },
            client,
            at_client,
        )
    }

    async fn service() -> (UdpSocket, Target) {
        let service = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let address = service.local_addr().expect("an address");
        let host = crate::config::Host::Address(address.ip());
        (
            service,
            Target::Net {
                host,
                port: address.port(),
            },
        )
    }

    #[tokio::test]
    async fn datagrams_keep_their_borders_both_ways() {
        let (service, target) = service().await;
        let socket = connect(&target).await.expect("connected");
        let (flow, client, mut at_client) = pipe();
        let meter = Meter::new();
        let talk = async {
            for size in [0_usize, 1_200, 60_000] {
                client.send(vec![1; size].into()).await.expect("sent");
                let mut buffer = vec![0; MAX_DATAGRAM];
                let (amount, from) = service.recv_from(&mut buffer).await.expect("received");
                assert_eq!(amount, size);
                service
                    .send_to(&buffer[..amount], from)
                    .await
                    .expect("answered");
                assert_eq!(at_client.recv().await.expect("an answer").len(), size);
            }
            drop(client);
        };
        let (end, ()) = tokio::join!(carry(&flow, &socket, Duration::from_secs(60), &meter), talk);

        assert_eq!(end, FlowEnd::Client);
        assert_eq!((meter.up(), meter.down()), (61_200, 61_200));
    }

    #[tokio::test]
    async fn a_flow_survives_a_service_that_is_not_there() {
        let (service, target) = service().await;
        let address = service.local_addr().expect("an address");
        let socket = connect(&target).await.expect("connected");
        drop(service);
        let (flow, client, mut at_client) = pipe();
        let talk = async {
            client
                .send(Bytes::from_static(b"lost"))
                .await
                .expect("sent");
            client
                .send(Bytes::from_static(b"lost too"))
                .await
                .expect("sent");
            let service = UdpSocket::bind(address).await.expect("bound again");
            let mut buffer = [0; 16];
            let from = loop {
                client
                    .send(Bytes::from_static(b"again"))
                    .await
                    .expect("sent");
                let wait =
                    tokio::time::timeout(Duration::from_millis(50), service.recv_from(&mut buffer));
                if let Ok(received) = wait.await {
                    break received.expect("received").1;
                }
            };
            service.send_to(b"here", from).await.expect("answered");
            assert_eq!(at_client.recv().await.expect("an answer"), "here");
            drop(client);
        };
        let meter = Meter::new();
        let (end, ()) = tokio::join!(carry(&flow, &socket, Duration::from_secs(60), &meter), talk);
        assert_eq!(end, FlowEnd::Client);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_flow_ends_after_its_idle_time() {
        let (_service, target) = service().await;
        let socket = connect(&target).await.expect("connected");
        let (flow, _client, _at_client) = pipe();
        let started = Instant::now();

        let end = carry(&flow, &socket, Duration::from_secs(60), &Meter::new()).await;

        assert_eq!(end, FlowEnd::Idle);
        assert_eq!(started.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn two_flows_are_joined_until_one_of_them_ends() {
        let (here, client, mut at_client) = pipe();
        let (there, session, mut at_session) = pipe();
        let meter = Meter::new();
        let talk = async {
            client.send(Bytes::from_static(b"up")).await.expect("sent");
            assert_eq!(at_session.recv().await.expect("passed on"), "up");
            session
                .send(Bytes::from_static(b"down"))
                .await
                .expect("sent");
            assert_eq!(at_client.recv().await.expect("passed on"), "down");
            drop(session);
        };
        let idle = Duration::from_secs(60);
        let (end, ()) = tokio::join!(join(&here, &there, idle, &meter), talk);
        assert_eq!((end, meter.up(), meter.down()), (FlowEnd::Session, 2, 4));

        let (silent, _session, _at_session) = pipe();
        let started = Instant::now();
        let end = join(&here, &silent, idle, &Meter::new()).await;
        assert_eq!((end, started.elapsed()), (FlowEnd::Idle, idle));
        drop(client);
    }
}
