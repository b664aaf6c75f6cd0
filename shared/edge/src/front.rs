//! HTTP with one client connection.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sallyport_ops::Tasks;
use sallyport_ops::paced::PacedSources;
use sallyport_splice::Duplex;
use sallyport_wire::Code;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::aborting::Aborting;
use crate::client::HttpVersion;
use crate::exchange::{Context, Named};
use crate::fault::Fault;
use crate::gate::{Ended, Gate};
use crate::opener::Opener;
use crate::route::Sites;
use crate::stall::Streams;
use crate::upstream::Upstreams;
use crate::{ClientInfo, Limits};

/// Most bytes that hyper buffers each way of a connection of HTTP/1.1; a request head that the gate lets through fits.
const BUFFER: usize = 64 * 1024;

/// Fields of a request head that hyper takes without being told.
const HYPER_FIELDS: usize = 100;

/// Serves HTTP to clients and takes what they ask to sessions.
#[derive(Debug)]
pub struct Front<O> {
    opener: Arc<O>,
    sites: Arc<Sites>,
    limits: Arc<Limits>,
    tasks: Tasks,
    drain: CancellationToken,
    faults: PacedSources,
}

impl<O: Opener> Front<O> {
    /// A front over `opener`. Its tasks, one per stream to a session, belong to `tasks`.
    pub fn new(opener: O, sites: Sites, limits: Arc<Limits>, tasks: Tasks) -> Arc<Self> {
        Arc::new(Self {
            opener: Arc::new(opener),
            sites: Arc::new(sites),
            limits,
            tasks,
            drain: CancellationToken::new(),
            faults: PacedSources::default(),
        })
    }

    /// Ends connections after the answers that are under way; WebSockets go on until they end by themselves.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Serves one client connection until it ends: HTTP/1.1 or HTTP/2 as its handshake agreed, never as its first bytes
    /// suggest. It lasts as long as a WebSocket that the connection has become.
    pub async fn serve<S: Duplex + 'static>(self: &Arc<Self>, io: S, client: ClientInfo) {
        let http = client.http;
        let (gate, handle) = Gate::new(io, http, &self.limits);
        let context = Arc::new(Context {
            opener: Arc::clone(&self.opener),
            sites: Arc::clone(&self.sites),
            limits: Arc::clone(&self.limits),
            tasks: self.tasks.clone(),
            named: Named::of(&client),
            client,
            gate: handle,
            upstreams: Upstreams::new(
                Arc::clone(&self.opener),
                Arc::clone(&self.limits),
                self.tasks.clone(),
            ),
            after: Mutex::default(),
        });
        let io = TokioIo::new(Aborting::new(gate, Code::Closed));
        let served = match http {
            HttpVersion::One => Box::pin(self.serve_one(io, &context)).await,
            HttpVersion::Two => Box::pin(self.serve_two(io, &context)).await,
        };
        self.note(&served, &context);
        let after = context
            .after
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(context);
        if let Some(carry) = after {
            carry.await;
        }
    }

    /// Tells why a connection ended; at info if the client is at fault.
    fn note(&self, served: &hyper::Result<()>, context: &Context<O>) {
        let ended = context.gate.ended().map(Ended::words);
        let error = served.as_ref().err().map(tracing::field::display);
        if error.is_some() || ended.is_some() {
            debug!(error, ended, "a client connection ended");
        }
        let client = &context.client;
        let Some(fault) = Fault::of(served, &context.gate) else {
            return;
        };
        if fault.is_answered() {
            self.opener.refused(Code::BadRequest);
        }
        if let Some(unlogged) = self.faults.pass(client.address.ip()) {
            fault.log(client.address, client.http, unlogged);
        }
    }

    /// Makes hyper's connection for requests only and drops it once there have been none for a while: it holds more than
    /// all the rest of an idle client.
    async fn serve_one<S: Duplex + 'static>(
        &self,
        mut io: TokioIo<Aborting<Gate<S>>>,
        context: &Arc<Context<O>>,
    ) -> hyper::Result<()> {
        loop {
            self.rest(&mut io, context).await;
            let service = service_fn(|request: http::Request<Incoming>| {
                Box::pin(Arc::clone(context).serve::<S>(request))
            });
            let connection = self.one().serve_connection(io, service);
            let mut connection = Box::new(connection.with_upgrades());
            let served = self.watch(
                Pin::new(&mut *connection),
                |ending| ending.graceful_shutdown(),
                context,
            );
            if let Some(served) = served.await {
                return served;
            }
            match connection.into_parts() {
                Some(parts) if parts.read_buf.is_empty() => io = parts.io,
                _ => return Ok(()), // not quiet after all: what it asked for is not known here
            }
        }
    }

    fn one(&self) -> http1::Builder {
        // The gate keeps a client that has finished sending, and hyper must go on reading to notice one that broke off.
        let mut builder = http1::Builder::new();
        builder
            .header_read_timeout(None)
            .max_buf_size(BUFFER)
            .timer(TokioTimer::new());
        // The gate has counted already; for hyper any other figure than its own costs time.
        if self.limits.fields > HYPER_FIELDS {
            builder.max_headers(self.limits.fields);
        }
        builder
    }

    /// Waits until hyper is needed.
    async fn rest<S: Duplex>(&self, io: &mut TokioIo<Aborting<Gate<S>>>, context: &Context<O>) {
        let Some(gate) = io.inner_mut().get_mut() else {
            return;
        };
        tokio::select! {
            () = poll_fn(|cx| gate.poll_rest(cx)) => {}
            () = self.drain.cancelled() => {}
            () = context.gate.closing() => {}
        }
    }

    async fn serve_two<S: Duplex + 'static>(
        &self,
        io: TokioIo<Aborting<Gate<S>>>,
        context: &Arc<Context<O>>,
    ) -> hyper::Result<()> {
        let limits = &self.limits;
        let served = Arc::clone(context);
        let service = service_fn(move |request: http::Request<Incoming>| {
            Box::pin(Arc::clone(&served).serve::<S>(request))
        });
        let streams = Streams {
            tasks: self.tasks.clone(),
            most: limits.h2_stall,
        };
        let connection = http2::Builder::new(streams)
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.h2_streams)
            .initial_stream_window_size(limits.h2_stream_window)
            .initial_connection_window_size(limits.h2_connection_window)
            .max_send_buf_size(limits.h2_send_buffer)
            // h2 answers what is beyond it by itself, without an id or a line; up to here we refuse.
            .max_header_list_size(u32::try_from(2 * limits.head_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(limits.h2_pending_resets)
            .max_local_error_reset_streams(limits.h2_local_resets)
            .keep_alive_interval(limits.h2_ping)
            .keep_alive_timeout(limits.h2_ping_answer)
            .enable_connect_protocol()
            .serve_connection(io, service);
        let connection = pin!(connection);
        let served = self.watch(connection, |ending| ending.graceful_shutdown(), context);
        // On HTTP/2 the gate calls nobody quiet.
        served.await.unwrap_or(Ok(()))
    }

    /// Drives a connection, asks it to end when it should, and closes streams to sessions that it no longer uses. None as
    /// soon as hyper is not needed for now.
    async fn watch<C: Future<Output = hyper::Result<()>>>(
        &self,
        mut connection: Pin<&mut C>,
        end: impl Fn(Pin<&mut C>),
        context: &Context<O>,
    ) -> Option<hyper::Result<()>> {
        let mut tidying = pin!(context.upstreams.tidy());
        let (mut tidy, mut ending) = (false, false);
        loop {
            tokio::select! {
                ended = connection.as_mut() => return Some(ended),
                () = self.drain.cancelled(), if !ending => {
                    ending = true;
                    end(connection.as_mut());
                }
                () = context.gate.closing(), if !ending => {
                    ending = true;
                    end(connection.as_mut());
                }
                () = &mut tidying => {
                    tidy = true;
                    tidying.set(context.upstreams.tidy());
                }
                () = context.gate.quieted(), if tidy => tidy = !context.upstreams.keeps_any(),
            }
            if tidy && context.gate.is_quiet() && !ending {
                return None;
            }
        }
    }
}
