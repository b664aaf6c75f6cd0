//! Which servers are somebody's now, as far as the store tells it: followed, so that whoever chooses servers need not ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sallyport_cluster::{Change, ClusterError, Entry, Moment, Prefix, Watch};
use sallyport_wire::NodeName;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, error};

use super::places::Places;
use super::value::{LONGEST, State};

/// Between two tries to watch the store.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Servers that are followed at most.
const MOST_SERVERS: usize = 16_384;

/// Who has a server, or is about to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Occupation {
    /// Somebody has begun to log in.
    Held {
        /// As it was typed.
        account: String,
        /// From where.
        source: String,
        /// The hold's own name.
        #[serde(skip)]
        id: String,
    },
    /// It is somebody's.
    Reserved {
        /// The user.
        holder: String,
        /// The fencing token.
        token: u64,
        /// Since when, in milliseconds since 1970.
        since: u64,
        /// His logins that share it.
        logins: BTreeSet<String>,
    },
    /// What the store has is not believed, so nobody gets the server.
    Distrusted {
        /// Why.
        cause: String,
    },
}

impl Occupation {
    /// Whether it keeps this user from the server.
    #[must_use]
    pub fn closes_to(&self, user: &str) -> bool {
        match self {
            Self::Held { account, .. } => account != user,
            Self::Reserved { holder, .. } => holder != user,
            Self::Distrusted { .. } => true,
        }
    }
}

/// All servers that are not free.
pub type Occupied = BTreeMap<NodeName, Occupation>;

/// The servers that are not free, while they are followed. A clone is the same one.
#[derive(Debug, Clone)]
pub(super) struct Board {
    shown: watch::Sender<Arc<Occupied>>,
    /// Raised when what was judged is to be judged again.
    again: watch::Sender<()>,
}

/// What is followed.
#[derive(Debug, Default)]
struct Following(BTreeMap<NodeName, Known>);

#[derive(Debug)]
struct Known {
    occupation: Occupation,
    /// When it is free if nobody says anything more.
    until: Moment,
}

impl Board {
    pub(super) fn new() -> Self {
        Self {
            shown: watch::Sender::default(),
            again: watch::Sender::new(()),
        }
    }

    pub(super) fn changes(&self) -> watch::Receiver<Arc<Occupied>> {
        self.shown.subscribe()
    }

    /// Judges all values again, because other keys hold now.
    pub(super) fn judge_again(&self) {
        self.again.send_replace(());
    }

    /// Follows all servers, or one alone, for as long as it is polled.
    pub(super) async fn follow(self, places: Arc<Places>, of: Prefix) {
        let mut again = self.again.subscribe();
        loop {
            let following = async {
                let watch = places.store().watch(&of).await?;
                self.follow_watch(&places, watch).await
            };
            tokio::select! {
                ended = following => if let Err(cause) = ended {
                    debug!(%cause, "reservations cannot be watched now");
                    sleep(AGAIN_AFTER).await;
                },
                _rotated = again.changed() => {}
            }
        }
    }

    async fn follow_watch(&self, places: &Places, mut watch: Watch) -> Result<(), ClusterError> {
        let mut following = Following::default();
        loop {
            let next = following.0.values().map(|known| known.until).min();
            let news = tokio::select! {
                change = watch.next() => following.learn(places, change?),
                // one of them is free, which nobody says
                () = reached(next) => following.forget_free(),
            };
            if news {
                self.show(&following);
            }
        }
    }

    fn show(&self, following: &Following) {
        let known = following.0.iter();
        let occupied = known.map(|(server, known)| (server.clone(), known.occupation.clone()));
        self.shown.send_replace(Arc::new(occupied.collect()));
    }
}

impl Following {
    /// Whether that was news to those who see only who has what.
    fn learn(&mut self, places: &Places, change: Change) -> bool {
        match change {
            Change::Snapshot(all) => {
                places.look_anew();
                if all.len() > MOST_SERVERS {
                    error!(
                        there = all.len(),
                        most = MOST_SERVERS,
                        "there are more reservations than are followed"
                    );
                }
                self.0.clear();
                for entry in all {
                    self.put(places, &entry);
                }
                true
            }
            Change::Put(entry) => self.put(places, &entry),
            Change::Deleted(key) => {
                let server = places.server_of(&key);
                server.is_some_and(|server| self.0.remove(&server).is_some())
            }
        }
    }

    fn put(&mut self, places: &Places, entry: &Entry) -> bool {
        let Some(server) = places.server_of(&entry.key) else {
            return false;
        };
        let Some((occupation, left)) = occupation(places, entry) else {
            return self.0.remove(&server).is_some();
        };
        if self.0.len() >= MOST_SERVERS && !self.0.contains_key(&server) {
            return false;
        }
        let until = Moment::now().after(left);
        let before = self.0.insert(
            server,
            Known {
                occupation: occupation.clone(),
                until,
            },
        );
        before.is_none_or(|before| before.occupation != occupation)
    }

    fn forget_free(&mut self) -> bool {
        let (before, now) = (self.0.len(), Moment::now());
        self.0.retain(|_, known| known.until > now);
        self.0.len() != before
    }
}

/// Who has a server, and how long if nobody says anything more; none if it is free.
pub(super) fn occupation(places: &Places, entry: &Entry) -> Option<(Occupation, Duration)> {
    let current = match places.judge(entry) {
        Ok(current) => current.filter(|current| !current.is_over())?,
        Err(cause) => {
            let cause = cause.to_string();
            return Some((Occupation::Distrusted { cause }, LONGEST));
        }
    };
    let left = current.left();
    let occupation = match &current.value.state {
        State::Held(held) => Occupation::Held {
            account: held.account.clone(),
            source: held.source.clone(),
            id: held.id.clone(),
        },
        State::Reserved(reserved) => Occupation::Reserved {
            holder: reserved.holder.clone(),
            token: current.token(reserved),
            since: reserved.since_ms,
            logins: reserved.logins.keys().cloned().collect(),
        },
    };
    Some((occupation, left))
}

async fn reached(moment: Option<Moment>) {
    match moment {
        Some(moment) => moment.reached().await,
        None => std::future::pending().await,
    }
}
