//! Data connections of streams that are encrypted from end to end: dialled when the gateway invites, and handed to
//! their streams.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use sallyport_link::{DataConnection, Supply, Token, data};
use sallyport_ops::metrics::{Counter, Family, Gauge, Metrics};
use sallyport_splice::Meter;
use sallyport_wire::message::Data;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tracing::debug;

/// To dial a data connection and prove it. A gateway waits for about as long.
const WITHIN: Duration = Duration::from_secs(5);

/// After a failure no other is dialled beside the same tunnel for so long: what stands in the way stays there.
const REST: Duration = Duration::from_secs(60);

/// Places and counts of all data connections of the process.
#[derive(Debug)]
pub struct Promotions {
    places: Arc<Semaphore>,
    results: Family<Vec<(&'static str, &'static str)>, Counter>,
    open: Gauge,
}

impl Promotions {
    /// Room for `most` of them.
    #[must_use]
    pub fn new(most: u32, metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(usize::MAX))),
            results: metrics.register(
                "relay_promotions",
                "Streams that a data connection was to carry, by result",
                Family::default(),
            ),
            open: metrics.gauge(
                "relay_streams_promoted",
                "Streams that a data connection carries now",
            ),
        })
    }

    fn count(&self, result: &'static str) {
        self.results.get_or_create(&vec![("result", result)]).inc();
    }
}

/// The streams of one tunnel that may be invited.
#[derive(Debug)]
pub struct Invitations {
    promotions: Arc<Promotions>,
    streams: Mutex<HashMap<u64, mpsc::Sender<DataConnection>>>,
    failed: Mutex<Option<Instant>>,
}

impl Invitations {
    /// For a tunnel without streams.
    #[must_use]
    pub fn new(promotions: Arc<Promotions>) -> Arc<Self> {
        Arc::new(Self {
            promotions,
            streams: Mutex::default(),
            failed: Mutex::default(),
        })
    }

    /// What a stream is handed its data connections by.
    #[must_use]
    pub fn promotee(self: &Arc<Self>, stream: u64, meter: Arc<Meter>) -> Promotee {
        let (to, came) = mpsc::channel(1);
        self.streams().insert(stream, to);
        Promotee {
            invitations: Arc::clone(self),
            stream,
            came,
            meter,
        }
    }

    /// Obeys an invitation, with `dialling` as the way to the gateway's port.
    pub async fn invited(
        self: Arc<Self>,
        data: Data,
        dialling: impl Future<Output = io::Result<TcpStream>>,
    ) {
        let Some(to) = self.streams().get(&data.stream).cloned() else {
            return debug!(stream = data.stream, "no such stream can be promoted");
        };
        if self.is_resting() {
            return self.promotions.count("resting");
        }
        let Ok(place) = Arc::clone(&self.promotions.places).try_acquire_owned() else {
            return self.promotions.count("full");
        };
        let dialled = async {
            let token = Token::from_bytes(&data.token)
                .ok_or_else(|| io::Error::other("a token of another length"))?;
            data::knock(dialling.await?, &token, place).await
        };
        let dialled = timeout(WITHIN, dialled).await;
        match dialled.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())) {
            // The stream may have ended, or not used the last one yet.
            Ok(connection) => drop(to.try_send(connection)),
            Err(cause) => {
                debug!(%cause, "no data connection: the stream stays on its tunnel");
                self.promotions.count("failed");
                *self.failed() = Some(Instant::now());
            }
        }
    }

    fn is_resting(&self) -> bool {
        self.failed().is_some_and(|failed| failed.elapsed() < REST)
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<DataConnection>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands one stream its data connections.
#[derive(Debug)]
pub struct Promotee {
    invitations: Arc<Invitations>,
    stream: u64,
    came: mpsc::Receiver<DataConnection>,
    meter: Arc<Meter>,
}

impl Supply for Promotee {
    fn poll_next(&mut self, cx: &mut Context<'_>, _bulk: u64) -> Poll<DataConnection> {
        match self.came.poll_recv(cx) {
            Poll::Ready(Some(connection)) => Poll::Ready(connection),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn carries(&mut self, data: bool) {
        debug!(data, "what carries the stream has changed");
        self.meter.promote(data);
        let promotions = &self.invitations.promotions;
        if data {
            promotions.count("carried");
            promotions.open.inc();
        } else {
            promotions.open.dec();
        }
    }
}

impl Drop for Promotee {
    fn drop(&mut self) {
        self.invitations.streams().remove(&self.stream);
        if self.meter.is_promoted() {
            self.carries(false);
        }
    }
}
