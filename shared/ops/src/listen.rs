//! Binding sockets and accepting connections, the same way for every listener.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures::FutureExt as _;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::paced::Paced;
use crate::slots::{Full, Slot, Slots};

/// Connections that the system keeps until they are accepted.
const BACKLOG: i32 = 4096;
const UDP_RECEIVE_BUFFER: usize = 8 << 20;
const UDP_SEND_BUFFER: usize = 2 << 20;
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_MISSES: u32 = 3;
/// How long sent bytes may stay unacknowledged before the connection is dead.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// The same beside a tunnel: longer than a stream may stand still, which has limits of its own.
const USER_TIMEOUT_BESIDE: Duration = Duration::from_secs(120);
/// Unsent bytes above which a socket is not writable, so that what is urgent does not queue behind them.
const NOT_SENT_LOW_WATER: u32 = 64 << 10;
const SHORTEST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_millis(500);
/// Connections closed at once when descriptors ran out, before the next wait.
const SHED_AT_ONCE: usize = 64;

const HINTS: &[(io::ErrorKind, &str)] = &[
    (io::ErrorKind::AddrInUse, "another process listens there"),
    (
        io::ErrorKind::AddrNotAvailable,
        "this machine has no such address",
    ),
    (
        io::ErrorKind::PermissionDenied,
        "ports below 1024 need root at start or CAP_NET_BIND_SERVICE",
    ),
];

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {}", advice(cause))]
pub struct ListenError {
    /// The address asked for.
    pub addr: SocketAddr,
    /// What the system said.
    pub cause: io::Error,
}

fn advice(cause: &io::Error) -> String {
    let hint = HINTS.iter().find(|(kind, _)| *kind == cause.kind());
    hint.map_or_else(
        || cause.to_string(),
        |(_, hint)| format!("{hint} ({cause})"),
    )
}

/// Listens for TCP on `addr`, non-blocking, with a backlog of 4,096.
///
/// `[::]` takes IPv4 as well, and becomes `0.0.0.0` on a machine without IPv6.
///
/// # Errors
/// When the address cannot be bound.
///
/// # Panics
/// Outside a tokio runtime.
pub fn bind_tcp(addr: SocketAddr) -> Result<TcpListener, ListenError> {
    let listen = |addr: SocketAddr| {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        bind(&socket, addr)?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    or_ipv4_only(addr, listen)
}

/// Binds a UDP socket to `addr`, non-blocking, dual-stack as [`bind_tcp`] is.
///
/// It asks for 8 MiB of receive and 2 MiB of send buffer, and warns, naming the sysctl, when the system gives less.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind_udp(addr: SocketAddr) -> Result<std::net::UdpSocket, ListenError> {
    or_ipv4_only(addr, |addr| {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        bind(&socket, addr)?;
        enlarge_buffers(&socket, addr)?;
        Ok(socket.into())
    })
}

fn or_ipv4_only<T>(
    addr: SocketAddr,
    open: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<T, ListenError> {
    let opened = open(addr).or_else(|cause| {
        let without_ipv6 = Errno::from_io_error(&cause) == Some(Errno::AFNOSUPPORT);
        if addr.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED) || !without_ipv6 {
            return Err(cause);
        }
        info!(%addr, "no IPv6 on this machine, listening for IPv4 only");
        open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port()))
    });
    opened.map_err(|cause| ListenError { addr, cause })
}

fn bind(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())
}

fn enlarge_buffers(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    socket.set_recv_buffer_size(UDP_RECEIVE_BUFFER)?;
    socket.set_send_buffer_size(UDP_SEND_BUFFER)?;
    let (receive, send) = (socket.recv_buffer_size()?, socket.send_buffer_size()?);
    // Linux reports twice what it gives, to cover its own bookkeeping
    if receive / 2 < UDP_RECEIVE_BUFFER {
        warn!(%addr, bytes = receive / 2, wanted = UDP_RECEIVE_BUFFER,
            "small UDP receive buffer, tunnels over QUIC will be slower: raise sysctl net.core.rmem_max");
    }
    if send / 2 < UDP_SEND_BUFFER {
        warn!(%addr, bytes = send / 2, wanted = UDP_SEND_BUFFER,
            "small UDP send buffer, tunnels over QUIC will be slower: raise sysctl net.core.wmem_max");
    }
    Ok(())
}

/// Sets what every TCP connection of ours has, dialled or accepted: no delay for small writes, keep-alive (30 s, then 3 probes 10 s apart),
/// an end 30 s after bytes go unacknowledged (RFC 5482 §3.1), and at most 64 KiB unsent.
///
/// # Errors
/// When the socket refuses an option, which it does once it is closed.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_MISSES);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_notsent_lowat(NOT_SENT_LOW_WATER)
}

/// Sets a [tuned](tune) connection up to carry one stream beside a tunnel, which is what tells when its peer is lost:
/// nothing else waits behind its bytes, and a reader may be slow.
///
/// # Errors
/// When the system knows an option but refuses it.
pub fn tune_beside(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT_BESIDE))?;
    socket.set_tcp_notsent_lowat(u32::MAX)
}

/// A connection just accepted. Nothing was read from it.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, [tuned](tune) as far as the system can.
    pub stream: TcpStream,
    /// Where it comes from; IPv4 in its own form on a dual-stack listener.
    pub peer: SocketAddr,
    /// The address it came to.
    pub local: SocketAddr,
    /// Its place; kept as long as the connection.
    pub slot: Slot,
}

/// Hands every connection that gets a slot to `on`, until `stop` is cancelled; `on` starts a task and returns.
///
/// A connection without a slot is reset at once, so that it costs nothing and its client knows. When the process runs
/// out of descriptors, waiting connections are reset with the help of a spare one, and the loop waits 50 to 500 ms.
pub async fn accept_loop(
    listener: TcpListener,
    slots: Slots,
    stop: CancellationToken,
    mut on: impl FnMut(Accepted),
) {
    let mut door = Door::new(listener, slots);
    while let Some(accepted) = stop.run_until_cancelled(door.next()).await {
        on(accepted);
    }
}

#[derive(Debug)]
struct Door {
    listener: TcpListener,
    slots: Slots,
    spare: Option<File>,
    backoff: Duration,
    refusals: Paced,
    failures: Paced,
}

impl Door {
    fn new(listener: TcpListener, slots: Slots) -> Self {
        Self {
            listener,
            slots,
            spare: spare_descriptor(),
            backoff: SHORTEST_BACKOFF,
            refusals: Paced::new(1),
            failures: Paced::new(1),
        }
    }

    async fn next(&mut self) -> Accepted {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    self.backoff = SHORTEST_BACKOFF;
                    if let Some(accepted) = self.admit(stream, peer) {
                        return accepted;
                    }
                }
                Err(cause) if is_of_the_peer(&cause) => {
                    debug!(%cause, "a connection broke before it was accepted");
                }
                Err(cause) => self.wait_out(&cause).await,
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) -> Option<Accepted> {
        let peer = canonical(peer);
        let slot = match self.slots.take(peer.ip()) {
            Ok(slot) => slot,
            Err(full) => {
                self.refuse(stream, peer, full);
                return None;
            }
        };
        // a connection that broke meanwhile is nobody's concern
        let local = canonical(stream.local_addr().ok()?);
        if let Err(cause) = tune(&stream) {
            debug!(%peer, %cause, "cannot tune a connection");
        }
        Some(Accepted {
            stream,
            peer,
            local,
            slot,
        })
    }

    fn refuse(&self, stream: TcpStream, peer: SocketAddr, full: Full) {
        reset(stream);
        if let Some(unlogged) = self.refusals.pass() {
            warn!(%peer, cause = %full, unlogged, in_use = self.slots.in_use(), "connection refused");
        }
    }

    async fn wait_out(&mut self, cause: &io::Error) {
        let closed = self.shed();
        if let Some(unlogged) = self.failures.pass() {
            warn!(%cause, closed, unlogged, backoff = ?self.backoff, "cannot accept connections");
        }
        sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
    }

    /// Resets connections that wait, so that their clients need not; says how many.
    fn shed(&mut self) -> usize {
        drop(self.spare.take());
        let waiting = || self.listener.accept().now_or_never()?.ok();
        let closed = std::iter::from_fn(waiting)
            .take(SHED_AT_ONCE)
            .map(|(stream, _)| reset(stream));
        let closed = closed.count();
        self.spare = spare_descriptor();
        closed
    }
}

/// Ends a connection with a reset rather than in order, because it was not served.
fn reset(stream: TcpStream) {
    let lingers = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop((lingers, stream));
}

fn spare_descriptor() -> Option<File> {
    File::open("/dev/null").ok()
}

/// An address in its own form: IPv4 as such on a dual-stack socket too.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Errors that accept(2) reports about the connection rather than about the listener.
fn is_of_the_peer(cause: &io::Error) -> bool {
    const OF_THE_PEER: &[Errno] = &[
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::INTR,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::NONET,
        Errno::PERM,
    ];
    Errno::from_io_error(cause).is_some_and(|errno| OF_THE_PEER.contains(&errno))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;
    use tracing::Span;

    use super::*;
    use crate::tasks::Tasks;

    fn any(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 0)
    }

    fn open(addr: SocketAddr, slots: &Slots) -> (SocketAddr, mpsc::Receiver<Accepted>, Tasks) {
        let listener = bind_tcp(addr).unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, accepted) = mpsc::channel(16);
        let tasks = Tasks::new();
        let on = move |accepted| tell.try_send(accepted).unwrap();
        tasks.spawn(
            Span::none(),
            accept_loop(listener, slots.clone(), tasks.stopping(), on),
        );
        (addr, accepted, tasks)
    }

    #[tokio::test]
    async fn a_dual_stack_listener_shows_ipv4_peers_as_ipv4() {
        let slots = Slots::new(8, 8, Vec::new());
        let (addr, mut accepted, _tasks) = open(any("::"), &slots);

        let v4 = TcpStream::connect(("127.0.0.1", addr.port()))
            .await
            .unwrap();
        let of_v4 = accepted.recv().await.unwrap();
        let v6 = TcpStream::connect(("::1", addr.port())).await.unwrap();
        let of_v6 = accepted.recv().await.unwrap();

        assert_eq!(of_v4.peer, v4.local_addr().unwrap());
        assert_eq!(of_v4.local.ip(), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(of_v6.peer, v6.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_connection_over_the_limit_is_reset_and_the_place_is_free_after_the_first() {
        let slots = Slots::new(1, 1, Vec::new());
        let (addr, mut accepted, _tasks) = open(any("127.0.0.1"), &slots);
        let _first = TcpStream::connect(addr).await.unwrap();
        let kept = accepted.recv().await.unwrap();

        let mut second = TcpStream::connect(addr).await.unwrap();
        let refused = second.read_u8().await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionReset);

        drop(kept);
        let mut third = TcpStream::connect(addr).await.unwrap();
        accepted
            .recv()
            .await
            .unwrap()
            .stream
            .write_u8(7)
            .await
            .unwrap();
        assert_eq!(third.read_u8().await.unwrap(), 7);
    }

    #[tokio::test]
    async fn stopping_closes_the_listener() {
        let (addr, _accepted, tasks) = open(any("127.0.0.1"), &Slots::new(1, 1, Vec::new()));
        let _served = TcpStream::connect(addr).await.unwrap();

        tasks.drain(Duration::ZERO).await;

        let refused = TcpStream::connect(addr).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn accepted_connections_are_tuned() {
        let (addr, mut accepted, _tasks) = open(any("127.0.0.1"), &Slots::new(1, 1, Vec::new()));
        let _client = TcpStream::connect(addr).await.unwrap();
        let accepted = accepted.recv().await.unwrap();

        let socket = SockRef::from(&accepted.stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_EVERY);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_MISSES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOT_SENT_LOW_WATER);
    }

    #[tokio::test]
    async fn a_taken_address_is_named_with_the_likely_cause() {
        let first = bind_tcp(any("127.0.0.1")).unwrap();
        let addr = first.local_addr().unwrap();

        let error = bind_tcp(addr).unwrap_err().to_string();

        assert!(
            error.starts_with(&format!("cannot listen on {addr}: another process")),
            "{error}"
        );
    }

    #[test]
    fn udp_is_dual_stack_and_not_shared() {
        let socket = bind_udp(any("::")).unwrap();
        let port = socket.local_addr().unwrap().port();
        let client = bind_udp(any("127.0.0.1")).unwrap();

        client.send_to(b"hello", ("127.0.0.1", port)).unwrap();
        socket.set_nonblocking(false).unwrap();
        let mut buffer = [0; 16];
        let (len, _from) = socket.recv_from(&mut buffer).unwrap();

        assert_eq!(&buffer[..len], b"hello");
        assert!(bind_udp(SocketAddr::new("::".parse().unwrap(), port)).is_err());
    }

    #[test]
    fn only_the_listeners_own_errors_are_waited_out() {
        assert!(is_of_the_peer(&Errno::CONNABORTED.into()));
        assert!(!is_of_the_peer(&Errno::MFILE.into()));
        assert!(!is_of_the_peer(&Errno::NFILE.into()));
    }
}
