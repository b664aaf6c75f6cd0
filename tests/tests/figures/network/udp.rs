//! UDP: datagrams that arrive after the delay, or not at all. Nobody is told of one that did not.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::Span;

use super::{BACKLOG, Process};

/// A datagram under way.
#[derive(Debug)]
pub(super) struct Datagram {
    from: SocketAddr,
    arrives: Instant,
    payload: Bytes,
}

#[derive(Debug)]
struct Socket {
    process: Process,
    address: SocketAddr,
    inbox: Mutex<Inbox>,
}

#[derive(Debug, Default)]
struct Inbox {
    arrived: VecDeque<Datagram>,
    reader: Option<Waker>,
}

/// A socket of a process.
pub(super) fn bind(process: &Process, address: SocketAddr) -> Arc<dyn AsyncUdpSocket> {
    let (into, under_way) = mpsc::channel(BACKLOG);
    let socket = Arc::new(Socket {
        process: process.clone(),
        address,
        inbox: Mutex::default(),
    });
    let network = &process.network;
    network.ports().udp.insert(address, into);
    let delivered = deliver(under_way, Arc::downgrade(&socket));
    network.0.tasks.spawn(Span::none(), delivered);
    socket
}

/// Puts datagrams into the inbox as they arrive. They arrive in order, because the delay is the same for all.
async fn deliver(mut under_way: mpsc::Receiver<Datagram>, socket: Weak<Socket>) {
    while let Some(datagram) = under_way.recv().await {
        sleep_until(datagram.arrives).await;
        let Some(socket) = socket.upgrade() else {
            return;
        };
        if !socket.process.network.weather().udp {
            continue;
        }
        let reader = {
            let mut inbox = socket.inbox();
            inbox.arrived.push_back(datagram);
            inbox.reader.take()
        };
        reader.into_iter().for_each(Waker::wake);
    }
}

impl Socket {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let network = &self.process.network;
        let weather = network.weather();
        if self.process.dead.is_cancelled() || !weather.udp {
            return Ok(());
        }
        let datagram = Datagram {
            from: self.address,
            arrives: Instant::now() + weather.delay,
            payload: Bytes::copy_from_slice(transmit.contents),
        };
        let to = network.ports().udp.get(&transmit.destination).cloned();
        if let Some(to) = to {
            drop(to.try_send(datagram)); // a full queue drops it, as a full buffer would
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox();
        let mut taken = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some(Datagram { from, payload, .. }) = inbox.arrived.pop_front() else {
                break;
            };
            let len = payload.len().min(buf.len());
            buf[..len].copy_from_slice(&payload[..len]);
            *meta = RecvMeta {
                addr: from,
                len,
                stride: len,
                ecn: None,
                dst_ip: Some(self.address.ip()),
            };
            taken += 1;
        }
        if taken == 0 {
            inbox.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(taken))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
