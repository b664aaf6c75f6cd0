//! The two doors of the admin server.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Request;
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, info_span, warn};

use super::socket::Listening;
use super::{ANSWER_WITHIN, Admin, Reply, local, refusal};
use crate::listen;
use crate::slots::Slots;
use crate::tasks::Tasks;

/// Connections of one door at a time; further ones wait (unix) or are reset (TCP).
pub(super) const MOST_CONNECTIONS: usize = 64;
pub(super) const HEADER_WITHIN: Duration = Duration::from_secs(10);
/// Bytes that a listener has not taken and that are no longer counted as unread.
const UNSENT: usize = 64 << 10;
/// A connection carries one request and ends, unless the answer is a stream.
pub(super) const CONNECTION_WITHIN: Duration =
    Duration::from_secs(2 * HEADER_WITHIN.as_secs() + ANSWER_WITHIN.as_secs());
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

pub(super) fn unix(admin: &Arc<Admin>, path: &Path, tasks: &Tasks) -> io::Result<()> {
    let listening = Listening::on(path)?;
    let admin = Arc::clone(admin);
    let connections = tasks.clone();
    let accepting = async move { accept_unix(&admin, &listening, &connections).await };
    tasks.spawn(info_span!("admin"), accepting);
    Ok(())
}

async fn accept_unix(admin: &Arc<Admin>, listening: &Listening, tasks: &Tasks) {
    let free = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    while let Ok(permit) = Arc::clone(&free).acquire_owned().await {
        let Some(stream) = next_unix(&listening.socket).await else {
            continue;
        };
        let admin = Arc::clone(admin);
        tasks.spawn(info_span!("admin"), async move {
            let _permit = permit;
            serve(stream, Door::Unix, &admin).await;
        });
    }
}

async fn next_unix(socket: &UnixListener) -> Option<tokio::net::UnixStream> {
    match socket.accept().await {
        Ok((stream, _)) => Some(stream),
        Err(cause) => {
            warn!(%cause, "cannot accept on the admin socket");
            sleep(AFTER_FAILED_ACCEPT).await;
            None
        }
    }
}

pub(super) fn tcp(admin: &Arc<Admin>, addr: SocketAddr, tasks: &Tasks) -> io::Result<SocketAddr> {
    if !addr.ip().to_canonical().is_loopback() {
        let text = format!("the admin address {addr} is not loopback");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let listener = listen::bind_tcp(addr)
        .map_err(|error| io::Error::new(error.cause.kind(), error.to_string()))?;
    let bound = listener.local_addr()?;
    let slots = Slots::new(MOST_CONNECTIONS, MOST_CONNECTIONS, Vec::new());
    let (admin, connections) = (Arc::clone(admin), tasks.clone());
    let serve_one = move |accepted: listen::Accepted| {
        let admin = Arc::clone(&admin);
        connections.spawn(info_span!("admin", peer = %accepted.peer), async move {
            let _slot = accepted.slot;
            serve(accepted.stream, Door::Loopback, &admin).await;
        });
    };
    let accepting = listen::accept_loop(listener, slots, tasks.stopping(), serve_one);
    tasks.spawn(info_span!("admin"), accepting);
    Ok(bound)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Unix,
    Loopback,
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send, door: Door, admin: &Admin) {
    let tells = AtomicBool::new(false);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WITHIN)
        .keep_alive(false)
        .max_buf_size(UNSENT)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(async |request| {
                let reply = answer(request, door, admin).await;
                tells.store(matches!(reply.body(), Either::Right(_)), Ordering::Relaxed);
                Ok::<_, Infallible>(reply)
            }),
        );
    let mut connection = pin!(connection);
    let in_time = timeout(CONNECTION_WITHIN, connection.as_mut()).await;
    let ended = match in_time {
        Err(_elapsed) if tells.load(Ordering::Relaxed) => Ok(connection.await),
        other => other,
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => debug!(%cause, "an admin connection broke"),
        Err(_elapsed) => debug!("an admin connection took too long"),
    }
}

async fn answer(request: Request<Incoming>, door: Door, admin: &Admin) -> Reply {
    let allowed = match door {
        Door::Unix => Ok(()),
        Door::Loopback if admin.is_stream(request.uri().path()) => Err(local::unix_only()),
        Door::Loopback => local::check(&request),
    };
    match allowed {
        Ok(()) => admin.answer(request).await,
        Err(error) => refusal(&error),
    }
}
