//! Streams that are encrypted from end to end, and the data connections that carry them while they move much: who is
//! invited to dial one, and which connection belongs to which stream.
//!
//! An invitation is for one stream and one connection. Whoever names it uses it up, proven or not, so that it is
//! never in doubt whether a relay that was answered still finds its stream.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use sallyport_link::data::{self, Id, Invited};
use sallyport_link::{DataConnection, Supply, Token, Tunnel};
use sallyport_splice::{Meter, Rewound};
use sallyport_wire::message::{ControlKind, Data};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, Sleep, sleep};
use tracing::debug;

use crate::config::Promotion;
use crate::figures::Figures;

/// A stream whose invitation came to nothing stays on its tunnel at least for so long.
const REST: Duration = Duration::from_secs(60);

/// Invitations that wait for their connection, and places for those that came.
#[derive(Debug)]
pub struct Promotions {
    settings: Promotion,
    figures: Figures,
    places: Arc<Semaphore>,
    waiting: Mutex<HashMap<Id, Invited<oneshot::Sender<DataConnection>>>>,
}

impl Promotions {
    /// Room for `most` data connections.
    pub fn new(settings: Promotion, most: usize, figures: Figures) -> Arc<Self> {
        Arc::new(Self {
            settings,
            figures,
            places: Arc::new(Semaphore::new(most)),
            waiting: Mutex::default(),
        })
    }

    /// How long a stream must be idle to return to its tunnel.
    pub const fn idle(&self) -> Duration {
        self.settings.idle
    }

    /// What a stream of a tunnel is promoted by.
    pub fn promoter(self: &Arc<Self>, tunnel: Tunnel, stream: u64, meter: Arc<Meter>) -> Promoter {
        Promoter {
            promotions: Arc::clone(self),
            tunnel,
            stream,
            meter,
            invitation: None,
            not_before: None,
        }
    }

    /// Answers somebody who claims to bring a data connection, and hands it to its stream.
    pub async fn receive(&self, io: Rewound<TcpStream>) {
        match data::answer(io, |id| self.waiting().remove(id)).await {
            Ok((connection, to)) => {
                self.figures.connection("data");
                // A stream that has ended meanwhile drops it, which the relay is told.
                drop(to.send(connection));
            }
            Err(cause) => {
                debug!(%cause, "no data connection");
                self.figures.handshake_failed("data");
            }
        }
    }

    fn invite(&self, tunnel: &Tunnel, stream: u64) -> Option<Invitation> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let token = Token::random()?;
        let (id, secret) = (token.id(), token.to_bytes());
        let (to, came) = oneshot::channel();
        self.waiting().insert(id, Invited { token, place, to });
        let data = Data {
            stream,
            token: secret,
        };
        if tunnel.try_send(ControlKind::Data(data)).is_err() {
            self.waiting().remove(&id);
            return None;
        }
        Some(Invitation {
            id,
            came,
            deadline: Box::pin(sleep(self.settings.wait)),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Id, Invited<oneshot::Sender<DataConnection>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Invites the relay of one stream when it moves much.
#[derive(Debug)]
pub struct Promoter {
    promotions: Arc<Promotions>,
    tunnel: Tunnel,
    stream: u64,
    meter: Arc<Meter>,
    invitation: Option<Invitation>,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Invitation {
    id: Id,
    came: oneshot::Receiver<DataConnection>,
    deadline: Pin<Box<Sleep>>,
}

impl Promoter {
    fn may_invite(&self, bulk: u64) -> bool {
        bulk >= self.promotions.settings.after
            && self
                .not_before
                .is_none_or(|not_before| Instant::now() >= not_before)
    }

    /// The connection, or why there will be none.
    fn poll_invited(
        &self,
        cx: &mut Context<'_>,
        invitation: &mut Invitation,
    ) -> Poll<Result<DataConnection, &'static str>> {
        if let Poll::Ready(came) = Pin::new(&mut invitation.came).poll(cx) {
            return Poll::Ready(came.map_err(|_refused| "refused"));
        }
        let late = invitation.deadline.as_mut().poll(cx).is_ready();
        // One that has named it meanwhile is on its way here, or fails within its own time.
        if late && self.promotions.waiting().remove(&invitation.id).is_some() {
            return Poll::Ready(Err("late"));
        }
        Poll::Pending
    }
}

impl Supply for Promoter {
    fn poll_next(&mut self, cx: &mut Context<'_>, bulk: u64) -> Poll<DataConnection> {
        if self.invitation.is_none() && self.may_invite(bulk) {
            self.invitation = self.promotions.invite(&self.tunnel, self.stream);
            self.not_before = Some(Instant::now() + REST);
        }
        let Some(mut invitation) = self.invitation.take() else {
            return Poll::Pending;
        };
        match self.poll_invited(cx, &mut invitation) {
            Poll::Pending => self.invitation = Some(invitation),
            Poll::Ready(Ok(connection)) => {
                self.not_before = None;
                return Poll::Ready(connection);
            }
            Poll::Ready(Err(result)) => {
                debug!(result, "the stream stays on its tunnel");
                self.promotions.figures.promotion(result);
            }
        }
        Poll::Pending
    }

    fn carries(&mut self, data: bool) {
        debug!(data, "what carries the stream has changed");
        self.meter.promote(data);
        self.promotions.figures.promoted(data);
    }
}

impl Drop for Promoter {
    fn drop(&mut self) {
        if let Some(invitation) = &self.invitation {
            self.promotions.waiting().remove(&invitation.id);
        }
        if self.meter.is_promoted() {
            self.carries(false);
        }
    }
}
