//! A reservation while its login lasts: kept up by a task of its own, so that it ends with the process that had it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sallyport_cluster::Moment;
use sallyport_cluster::lease::trusted;
use sallyport_wire::NodeName;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::board::{Occupation, Occupied};
use super::places::{Current, Places};
use super::value::{Login, Reserved, Value};
use super::{Login as Asked, Refused};
use crate::values::Decision;

/// The part of the time to live after which a failed renewal is tried again.
const AGAIN: u32 = 20;

/// How a reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is held until then, unless it is renewed.
    Until(Moment),
    /// It is somebody else's or nobody's, and never this one again.
    Lost,
}

/// A server that is reserved for a login. Where it is dropped without having been released, as in a crash, it ends by
/// itself after its time to live.
#[derive(Debug)]
pub struct Reservation {
    server: NodeName,
    holder: String,
    login: String,
    token: u64,
    standing: watch::Receiver<Standing>,
    /// The task ends with it.
    _alive: oneshot::Sender<()>,
}

impl Reservation {
    /// Which server.
    #[must_use]
    pub const fn server(&self) -> &NodeName {
        &self.server
    }

    /// Whose it is.
    #[must_use]
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// The login that it is for.
    #[must_use]
    pub fn login(&self) -> &str {
        &self.login
    }

    /// The fencing token: higher than that of everyone who had the server before. All logins that share it have the same.
    #[must_use]
    pub const fn token(&self) -> u64 {
        self.token
    }

    /// Whether nobody else can have the server yet.
    #[must_use]
    pub fn is_held(&self) -> bool {
        match *self.standing.borrow() {
            Standing::Until(until) => Moment::now() < until,
            Standing::Lost => false,
        }
    }

    /// How it stands, and whatever becomes of it.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }
}

/// Keeps one reservation up.
#[derive(Debug)]
pub(super) struct Renewal {
    pub(super) places: Arc<Places>,
    pub(super) relay: NodeName,
    pub(super) ttl: Duration,
    pub(super) token: u64,
    pub(super) server: NodeName,
    pub(super) login: Asked,
    /// Signs of life of the other logins, to tell those whose relay is gone.
    pub(super) others: HashMap<String, (u64, Moment)>,
    /// Who has what; where it is not followed, nothing is ever told.
    pub(super) occupied: watch::Receiver<Arc<Occupied>>,
}

impl Renewal {
    /// The reservation that was made at `begun`, and the work that keeps it up.
    pub(super) fn begin(self, begun: Moment) -> (Reservation, impl Future<Output = ()> + use<>) {
        let (alive, dropped) = oneshot::channel();
        let first = Standing::Until(begun.after(trusted(self.ttl)));
        let (told, standing) = watch::channel(first);
        let reservation = Reservation {
            server: self.server.clone(),
            holder: self.login.user.clone(),
            login: self.login.id.clone(),
            token: self.token,
            standing,
            _alive: alive,
        };
        let keeping = async move {
            tokio::select! {
                () = self.keep(begun, told) => {}
                _dropped = dropped => {}
            }
        };
        (reservation, keeping)
    }

    async fn keep(mut self, mut begun: Moment, told: watch::Sender<Standing>) {
        loop {
            tokio::select! {
                () = begun.after(self.ttl / 3).reached() => {}
                () = self.taken_away() => {}
            }
            begun = loop {
                let asked = Moment::now();
                match self.renew().await {
                    Ok(()) => break asked,
                    Err(Refused::Lost(server)) => {
                        warn!(%server, user = %self.login.user, "the reservation was lost");
                        told.send_replace(Standing::Lost);
                        return;
                    }
                    Err(cause) => {
                        debug!(server = %self.server, %cause, "the reservation was not renewed");
                        sleep(self.ttl / AGAIN).await;
                    }
                }
            };
            told.send_replace(Standing::Until(begun.after(trusted(self.ttl))));
        }
    }

    /// Until the store shows that the server is free or another one's, where it is followed.
    async fn taken_away(&mut self) {
        // what is known at first may be older than the reservation
        while self.occupied.changed().await.is_ok() {
            let shown = Arc::clone(&self.occupied.borrow_and_update());
            let is_ours = match shown.get(&self.server) {
                Some(Occupation::Reserved { holder, token, .. }) => {
                    *holder == self.login.user && *token == self.token
                }
                Some(Occupation::Held { .. } | Occupation::Distrusted { .. }) | None => false,
            };
            if !is_ours {
                return;
            }
        }
        std::future::pending().await
    }

    async fn renew(&mut self) -> Result<(), Refused> {
        let Self {
            places,
            relay,
            ttl,
            token,
            server,
            login,
            others,
            ..
        } = self;
        let renewed = places.change(server, |now| {
            let reserved = ours(now, &login.user, *token);
            let reserved = reserved.ok_or_else(|| Refused::Lost(server.clone()))?;
            let mut reserved = reserved.renewed((&login.id, *ttl), relay.as_str());
            let dead = silent(others, &reserved);
            reserved
                .logins
                .retain(|id, _| *id == login.id || !dead.contains(id));
            Ok(Decision::Put(Value::reserved(reserved), ()))
        });
        renewed.await?;
        Ok(())
    }
}

/// The reservation, if it is still the one with this token.
pub(super) fn ours(now: Option<Current>, user: &str, token: u64) -> Option<Reserved> {
    let reserved = now?.reserved_by(user)?;
    (reserved.token == Some(token)).then_some(reserved)
}

/// The logins that nobody has kept up for their time to live.
fn silent(seen: &mut HashMap<String, (u64, Moment)>, reserved: &Reserved) -> Vec<String> {
    let now = Moment::now();
    seen.retain(|id, _| reserved.logins.contains_key(id));
    let is_silent = |(id, login): (&String, &Login)| {
        let (beat, since) = seen.entry(id.clone()).or_insert((login.beat, now));
        if *beat != login.beat {
            (*beat, *since) = (login.beat, now);
        }
        (now.since(*since) >= login.ttl()).then(|| id.clone())
    };
    reserved.logins.iter().filter_map(is_silent).collect()
}
