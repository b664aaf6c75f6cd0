//! Servers that one user has for himself: from his first login there until his last logout.
//!
//! Before anybody is authenticated there is a short hold, which tells rivals before they type a password and keeps no one
//! out for long. Whoever authenticates first reserves the server by one atomic change of its value in the store. The
//! reservation is a lease: it is renewed by the logins that share it, and free when none of them does.
//! Modules use only modules that stand below them.

mod renewal;
mod board;
mod places;
mod ledger;
mod value;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sallyport_cluster::{ClusterError, ClusterKey, Distrust, Moment, NotAKey, Seal, Store};
use sallyport_ops::Tasks;
use sallyport_ops::source::Source;
use sallyport_wire::NodeName;
use tokio::sync::watch;
use tracing::{debug, info, info_span};

use self::board::Board;
use self::ledger::{Given, Ledger};
use self::places::{Current, Places};
use self::renewal::{Renewal, ours};
use self::value::{Held, MOST_LOGINS, Reserved, SHORTEST, State, Value};
use crate::values::Decision;

pub use board::{Occupation, Occupied};
pub use renewal::{Reservation, Standing};

/// Longest name of an account or a login, in bytes.
const MAX_NAME: usize = 256;

/// For how long things are reserved, and how much there may be of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// After so long without a renewal a login of this relay is over, and its reservation with the last one: from a second to
    /// an hour. Other relays may have another time: each login has its own in the store.
    pub ttl: Duration,
    /// For so long a login that has begun holds its server.
    pub hold: Duration,
    /// Holds that this relay gives at once.
    pub holds: usize,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            hold: Duration::from_secs(60),
            holds: 1024,
        }
    }
}

/// Which servers are followed in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All, for a relay that chooses servers.
    All,
    /// One alone, for a relay that only has to know about its own node.
    Only(NodeName),
}

/// A login that was authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Its own name, which no other login has.
    pub id: String,
    /// Whose it is, as authenticated.
    pub user: String,
    /// What it is for.
    pub kind: Kind,
}

/// What a login is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A person is there: it reserves.
    Person,
    /// It starts sessions for other logins: it neither reserves a server nor keeps it reserved.
    LinkDaemon,
}

/// A login that has begun at a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    server: NodeName,
    /// None where nothing is held for it: rivals may begin too.
    id: Option<String>,
}

impl Hold {
    /// None: for a login that goes on without one, because it began before the server was reservable, for instance.
    #[must_use]
    pub const fn none(server: NodeName) -> Self {
        Self { server, id: None }
    }
}

/// Why a server is not somebody's. [`Refused::for_user`] is what he hears, the text itself is for the log.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Another user has it, or has begun to log in.
    #[error("server {server} is reserved by `{by}`")]
    Reserved {
        /// The server.
        server: NodeName,
        /// By whom.
        by: String,
    },
    /// The reservation is somebody else's or nobody's now.
    #[error("the reservation of server {0} was lost")]
    Lost(NodeName),
    /// The store cannot tell, so nobody gets it.
    #[error("no server can be reserved: {0}")]
    Store(#[from] ClusterError),
    /// There is nothing to sign with.
    #[error(
        "no server can be reserved without a cluster key: copy cluster-keys.json beside relay.toml"
    )]
    NoKey,
    /// What the store has is not from this cluster.
    #[error(
        "the reservation of server {server} in the store is not believed: {cause}; `reservations free {server}` removes it"
    )]
    Distrusted {
        /// The server.
        server: NodeName,
        /// Why.
        cause: Distrust,
    },
    /// Others changed it all the time.
    #[error("the reservation of server {0} is changed by too many at once")]
    Busy(NodeName),
    /// One user has as many logins there as can share it.
    #[error("server {0} has {MOST_LOGINS} logins of its user already")]
    TooManyLogins(NodeName),
    /// A name is empty or too long.
    #[error("the name of an account or a login has 1 to {MAX_NAME} bytes")]
    Name,
    /// Never: names of servers are keys.
    #[error(transparent)]
    Key(#[from] NotAKey),
}

impl Refused {
    /// What the user hears. It names nobody, since he may not be known yet.
    #[must_use]
    pub const fn for_user(&self) -> &'static str {
        match self {
            Self::Reserved { .. } => {
                "this server is reserved: choose another one, or try again later"
            }
            Self::Lost(_) => "this server is not reserved for you any more: log in again",
            Self::Busy(_) => "others are logging in on this server just now: try again",
            Self::TooManyLogins(_) => "you have too many logins on this server: log out of some",
            Self::Name => "this name cannot be used",
            Self::Store(_) | Self::NoKey | Self::Distrusted { .. } | Self::Key(_) => {
                "whether this server is free cannot be told just now, so nobody can log in there: \
                 try again, and tell your administrator if it lasts"
            }
        }
    }
}

/// Reservations, as one relay makes and sees them. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Reservations(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    relay: NodeName,
    terms: Terms,
    seal: Seal,
    places: Arc<Places>,
    ledger: Ledger,
    board: Board,
    tasks: Tasks,
}

impl Reservations {
    /// Those in `store`, for the relay of a node. What keeps them up are `tasks`.
    ///
    /// # Errors
    /// [`NotAKey`], never.
    pub fn new(
        store: Arc<dyn Store>,
        seal: Seal,
        relay: NodeName,
        terms: Terms,
        tasks: Tasks,
    ) -> Result<Self, NotAKey> {
        Ok(Self(Arc::new(Shared {
            relay,
            ledger: Ledger::new(terms.holds, terms.hold),
            terms,
            places: Arc::new(Places::new(store, seal.clone())?),
            seal,
            board: Board::new(),
            tasks,
        })))
    }

    /// Follows from now on which servers are not free.
    ///
    /// # Errors
    /// [`NotAKey`], never.
    pub fn follow(&self, scope: &Scope) -> Result<(), NotAKey> {
        let only = match scope {
            Scope::All => None,
            Scope::Only(server) => Some(server),
        };
        let of = self.0.places.prefix(only)?;
        let following = self.0.board.clone().follow(Arc::clone(&self.0.places), of);
        self.0.tasks.spawn(info_span!("reservations"), following);
        Ok(())
    }

    /// Signs and checks with other keys from now on.
    pub fn rotate(&self, keys: &[ClusterKey]) {
        self.0.seal.rotate(keys);
        self.0.board.judge_again();
    }

    /// The servers that are not free, as far as they are followed, and every change of that.
    #[must_use]
    pub fn occupied(&self) -> watch::Receiver<Arc<Occupied>> {
        self.0.board.changes()
    }

    /// Begins a login at a reservable server: nobody else begins one there for a while. A source and an account have one
    /// hold each, the newest.
    ///
    /// # Errors
    /// [`Refused::Reserved`] while another user has the server or has begun to log in; else what keeps anybody from telling.
    pub async fn hold(
        &self,
        server: &NodeName,
        account: &str,
        source: IpAddr,
    ) -> Result<Hold, Refused> {
        check(account)?;
        let shared = &self.0;
        let wanted = Given {
            server: server.clone(),
            account: account.to_owned(),
            source: Source::of(source),
            id: nonce(),
        };
        let is_spent = shared.ledger.is_spent(server, wanted.source);
        let asked = shared
            .places
            .change(server, |now| self.decide_hold(&wanted, is_spent, now));
        let (is_held, _) = asked.await?;
        if !is_held {
            return Ok(Hold::none(server.clone()));
        }
        debug!(%server, account, %source, "a login holds the server");
        let id = wanted.id.clone();
        for over in shared.ledger.note(wanted) {
            self.let_go_of(&over.server, &over.id).await?;
        }
        Ok(Hold {
            server: server.clone(),
            id: Some(id),
        })
    }

    /// Whether the hold is made, or the login goes on without one.
    fn decide_hold(
        &self,
        wanted: &Given,
        is_spent: bool,
        now: Option<Current>,
    ) -> Result<Decision<Value, bool>, Refused> {
        let put = |lasts: Duration| {
            let held = Held {
                id: wanted.id.clone(),
                account: wanted.account.clone(),
                source: wanted.source.to_string(),
                relay: self.0.relay.to_string(),
            };
            Decision::Put(Value::held(held, lasts), true)
        };
        let Some(now) = now.filter(|now| !now.is_over()) else {
            return Ok(if is_spent {
                Decision::Keep(false)
            } else {
                put(self.0.terms.hold)
            });
        };
        let by = match &now.value.state {
            State::Held(held) if held.id == wanted.id => return Ok(Decision::Keep(true)),
            // he rides on that one, and it ends when it would have ended
            State::Held(held) if held.account == wanted.account => {
                return Ok(Decision::Keep(false));
            }
            State::Held(held) if held.source == wanted.source.to_string() => {
                let left = now.left();
                return Ok(if left < SHORTEST {
                    Decision::Keep(false)
                } else {
                    put(left)
                });
            }
            State::Reserved(reserved) if reserved.holder == wanted.account => {
                return Ok(Decision::Keep(false));
            }
            State::Held(held) => &held.account,
            State::Reserved(reserved) => &reserved.holder,
        };
        Err(Refused::Reserved {
            server: wanted.server.clone(),
            by: by.clone(),
        })
    }

    /// Ends a login that came to nothing, so that others need not wait for it.
    ///
    /// # Errors
    /// [`Refused::Store`]; the hold then ends by itself.
    pub async fn let_go(&self, hold: Hold) -> Result<(), Refused> {
        match &hold.id {
            Some(id) => self.let_go_of(&hold.server, id).await,
            None => Ok(()),
        }
    }

    async fn let_go_of(&self, server: &NodeName, id: &str) -> Result<(), Refused> {
        self.0.ledger.end(id);
        let gone = self.0.places.change(server, |now| {
            let is_ours = now.is_some_and(|now| match now.value.state {
                State::Held(held) => held.id == id,
                State::Reserved(_) => false,
            });
            Ok(if is_ours {
                Decision::Remove(())
            } else {
                Decision::Keep(())
            })
        });
        gone.await.map(drop)
    }

    /// Reserves the server for a login that was authenticated, or lets it share its user's reservation. Of several who
    /// began, the first has it. None for a login that reserves nothing.
    ///
    /// # Errors
    /// [`Refused::Reserved`] if another user was faster; else what keeps anybody from telling.
    pub async fn confirm(&self, hold: Hold, login: Login) -> Result<Option<Reservation>, Refused> {
        if login.kind == Kind::LinkDaemon {
            self.let_go(hold).await?;
            return Ok(None);
        }
        check(&login.user)?;
        check(&login.id)?;
        let shared = &self.0;
        let (server, begun) = (hold.server, Moment::now());
        let confirmed = shared
            .places
            .change(&server, |now| self.decide_confirm(&server, &login, now));
        let (known, revision) = confirmed.await?;
        if let Some(id) = &hold.id {
            shared.ledger.forget(id);
        }
        let revision = revision.map(|revision| revision.get());
        let token = known.or(revision).unwrap_or_default();
        info!(%server, user = %login.user, login = %login.id, token, "the server is reserved");
        let renewal = Renewal {
            places: Arc::clone(&shared.places),
            relay: shared.relay.clone(),
            ttl: shared.terms.ttl,
            token,
            server,
            login,
            others: HashMap::new(),
            occupied: shared.board.changes(),
        };
        let (reservation, keeping) = renewal.begin(begun);
        shared.tasks.spawn(info_span!("reservation"), keeping);
        Ok(Some(reservation))
    }

    /// The token of the reservation that it becomes part of; none if it is a new one, whose token is its revision.
    fn decide_confirm(
        &self,
        server: &NodeName,
        login: &Login,
        now: Option<Current>,
    ) -> Result<Decision<Value, Option<u64>>, Refused> {
        let shared = &self.0;
        let now = now.filter(|now| !now.is_over());
        let reserved = match now.as_ref().map(|now| &now.value.state) {
            // who is authenticated goes before whoever has only begun
            None | Some(State::Held(_)) => None,
            Some(State::Reserved(reserved)) if reserved.holder != login.user => {
                return Err(Refused::Reserved {
                    server: server.clone(),
                    by: reserved.holder.clone(),
                });
            }
            Some(State::Reserved(_)) => now.and_then(|now| now.reserved_by(&login.user)),
        };
        let relay = shared.relay.as_str();
        let kept = (login.id.as_str(), shared.terms.ttl);
        let reserved = match reserved {
            None => Reserved::by(&login.user, kept, relay),
            Some(there) => {
                let is_full = there.logins.len() >= MOST_LOGINS;
                if is_full && !there.logins.contains_key(&login.id) {
                    return Err(Refused::TooManyLogins(server.clone()));
                }
                there.renewed(kept, relay)
            }
        };
        let token = reserved.token;
        Ok(Decision::Put(Value::reserved(reserved), token))
    }

    /// Ends a login: with the last one of its user the server is free.
    ///
    /// # Errors
    /// [`Refused::Store`]; the login then ends by itself after its time to live.
    pub async fn release(&self, reservation: Reservation) -> Result<(), Refused> {
        let (server, token) = (reservation.server().clone(), reservation.token());
        let (user, login) = (
            reservation.holder().to_owned(),
            reservation.login().to_owned(),
        );
        // nothing renews it any more
        drop(reservation);
        let released = self.0.places.change(&server, |now| {
            let Some(mut reserved) = ours(now, &user, token) else {
                return Ok(Decision::Keep(false));
            };
            if reserved.logins.remove(&login).is_none() {
                return Ok(Decision::Keep(false));
            }
            if reserved.logins.is_empty() {
                return Ok(Decision::Remove(true));
            }
            Ok(Decision::Put(Value::reserved(reserved), false))
        });
        let (is_free, _) = released.await?;
        debug!(%server, user, login, is_free, "a login that shared the reservation has ended");
        Ok(())
    }

    /// All servers that are not free, as the store has them now.
    ///
    /// # Errors
    /// [`Refused::Store`].
    pub async fn list(&self) -> Result<Occupied, Refused> {
        let places = &self.0.places;
        let entries = places.store().list(&places.prefix(None)?).await?;
        let known = entries.iter().filter_map(|entry| {
            let server = places.server_of(&entry.key)?;
            let (occupation, _) = board::occupation(places, entry)?;
            Some((server, occupation))
        });
        Ok(known.collect::<BTreeMap<_, _>>())
    }

    /// Frees a server by order of an administrator, whoever has it: those logins lose their reservation. Whether anybody
    /// had it.
    ///
    /// # Errors
    /// [`Refused::Store`].
    pub async fn free(&self, server: &NodeName) -> Result<bool, Refused> {
        let was_there = self.0.places.clear(server).await?;
        info!(%server, was_there, "the server was freed by command");
        Ok(was_there)
    }

    /// Takes away what nobody keeps up any more, and says how many those were. Called now and then by one relay of all.
    ///
    /// # Errors
    /// [`Refused::Store`].
    pub async fn sweep(&self) -> Result<usize, Refused> {
        self.0.places.sweep().await
    }
}

fn check(name: &str) -> Result<(), Refused> {
    if (1..=MAX_NAME).contains(&name.len()) {
        return Ok(());
    }
    Err(Refused::Name)
}

/// Tells one hold from another; nobody gains by guessing it.
fn nonce() -> String {
    let random = RandomState::new();
    format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1))
}

#[cfg(test)]
mod tests;
