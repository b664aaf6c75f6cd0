//! WebSockets: HTTP until the session has taken the upgrade up, bytes from then on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use sallyport_ops::Tasks;
use sallyport_splice::{Abort, Duplex, EndedBy as Spliced, Rewound};
use sallyport_wire::Code;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug};

use crate::Limits;
use crate::aborting::Aborting;
use crate::access_log::{EndedBy, Record};
use crate::gate::{Exchange, Gate};
use crate::lease::Lease;
use crate::opener::{Ask, Opener};
use crate::upload::Upload;
use crate::upstream::{self, NoAnswer, SendError};

/// The session's answer to an upgrade, and its stream: that comes out only if the session switches protocols.
pub(crate) type Opened<S> = (Response<Incoming>, Lease, oneshot::Receiver<Raw<S>>);

/// A stream on which HTTP is over.
#[derive(Debug)]
pub(crate) struct Raw<S: Abort> {
    stream: Aborting<S>,
    /// What was read too far.
    first: Bytes,
}

/// Sends the request of an upgrade on a stream of its own.
pub(crate) async fn ask<O: Opener>(
    opener: &O,
    tasks: &Tasks,
    ask: &Ask,
    head: Parts,
    record: &Arc<Record>,
) -> Result<Opened<O::Stream>, NoAnswer> {
    let stream = upstream::open(opener, ask, record).await?;
    let way = opener.way(&stream);
    record.through(&way);
    let stream = Aborting::new(stream, Code::ClientGone);
    let refused = stream.refused();
    let failed = |error| {
        let refused = refused.code();
        NoAnswer::Send(Box::new(SendError {
            error,
            refused,
            unsent: false,
            reused: false,
            way: Arc::clone(&way),
        }))
    };
    let (mut sender, connection) = upstream::builder()
        .handshake::<_, Upload>(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let kill = CancellationToken::new();
    let (give, raw) = oneshot::channel();
    tasks.spawn(Span::current(), drive(connection, kill.clone(), give));
    let lease = Lease::once(kill.drop_guard());
    let (upload, _no_body) = Upload::new(None, record);
    let answer = sender
        .send_request(Request::from_parts(head, upload))
        .await
        .map_err(failed)?;
    Ok((answer, lease, raw))
}

/// Drives HTTP on the stream of an upgrade, and gives the stream away when it is over.
async fn drive<S: Duplex + 'static>(
    connection: http1::Connection<TokioIo<Aborting<S>>, Upload>,
    killed: CancellationToken,
    give: oneshot::Sender<Raw<S>>,
) {
    let parts = tokio::select! {
        biased;
        () = killed.cancelled() => return,
        parts = connection.without_shutdown() => parts,
    };
    match parts {
        Ok(parts) => {
            let raw = Raw {
                stream: parts.io.into_inner(),
                first: parts.read_buf,
            };
            if let Err(mut unwanted) = give.send(raw) {
                // An answer without an upgrade is through: this is the orderly end.
                drop(unwanted.stream.shutdown().await);
            }
        }
        Err(error) => debug!(%error, "an upgrade ended before it began"),
    }
}

/// A WebSocket that the session has taken up, before the client knows.
#[derive(Debug)]
pub(crate) struct Accepted<S: Abort> {
    pub(crate) session: oneshot::Receiver<Raw<S>>,
    pub(crate) lease: Lease,
    pub(crate) record: Arc<Record>,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) limits: Arc<Limits>,
}

impl<S: Duplex + 'static> Accepted<S> {
    /// Joins both sides of a WebSocket over HTTP/1.1 once hyper has sent the 101. `C` is the client's stream below the
    /// gate.
    pub(crate) async fn join_one<C: Duplex + 'static>(self, client: OnUpgrade) {
        let Ok(upgraded) = client.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<Aborting<Gate<C>>>>() else {
            debug!("an upgraded connection is not of the kind that was served");
            return;
        };
        let Some(gate) = parts.io.into_inner().into_inner() else {
            return;
        };
        let (stream, held) = gate.into_parts();
        // hyper has read from the gate; what the gate still held comes after that.
        let first = if held.is_empty() {
            parts.read_buf
        } else {
            [parts.read_buf, held].concat().into()
        };
        self.join(Rewound::new(first, stream)).await;
    }

    /// Joins both sides of a WebSocket over a stream of HTTP/2.
    pub(crate) async fn join_two(self, client: OnUpgrade) {
        let Ok(upgraded) = client.await else { return };
        self.join(StreamOfTwo(Some(TokioIo::new(upgraded)))).await;
    }

    async fn join<C: Duplex>(self, client: C) {
        let Self {
            session,
            lease,
            record,
            exchange,
            limits,
        } = self;
        let Ok(Raw { stream, first }) = session.await else {
            return;
        };
        lease.finish();
        let mut client = Aborting::new(client, Code::SessionRefused);
        let mut session = Rewound::new(first, stream);
        let limits = sallyport_splice::Limits {
            idle: Some(limits.idle),
            closing: Some(limits.half_closed),
            write_stall: Some(limits.write_stall),
            ..sallyport_splice::Limits::default()
        };
        let meter = record.meter();
        // It lasts long, so it has room for itself alone.
        let joined = Box::pin(async move {
            sallyport_splice::run(&mut client, &mut session, &limits, meter).await
        });
        let ended = joined.await;
        record.ended(match ended.by {
            Spliced::Both => EndedBy::Both,
            Spliced::Client(_) | Spliced::WriteStall(sallyport_splice::Side::Client) => {
                EndedBy::Client
            }
            Spliced::Session(_) | Spliced::WriteStall(sallyport_splice::Side::Session) => {
                EndedBy::Session
            }
            Spliced::Idle | Spliced::Closing => EndedBy::Idle,
        });
        drop(exchange);
    }
}

/// Ends a connection in order that hyper let go of for an upgrade that was not taken up.
pub(crate) async fn end_unused<C: Duplex + 'static>(client: OnUpgrade) {
    let Ok(upgraded) = client.await else { return };
    if let Ok(parts) = upgraded.downcast::<TokioIo<Aborting<Gate<C>>>>() {
        drop(parts.io.into_inner().shutdown().await);
    }
}

/// The two directions of an extended CONNECT (RFC 8441). hyper cannot reset such a stream: an abort lets it go, which
/// its client sees as an end without a Close frame (RFC 6455 §7.1.5, code 1006).
#[derive(Debug)]
struct StreamOfTwo(Option<TokioIo<Upgraded>>);

impl StreamOfTwo {
    fn stream(&mut self) -> std::io::Result<Pin<&mut TokioIo<Upgraded>>> {
        self.0
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| std::io::ErrorKind::NotConnected.into())
    }
}

impl Duplex for StreamOfTwo {}

impl Abort for StreamOfTwo {
    fn abort(&mut self, _code: u32) {
        self.0 = None;
    }
}

impl AsyncRead for StreamOfTwo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for StreamOfTwo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
