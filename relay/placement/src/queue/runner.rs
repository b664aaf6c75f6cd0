//! What the one relay does that runs the queue: it tries those whose turn it is whenever something changes.
//!
//! A start is written down before it is begun, with the fencing token of whoever does it. Who takes over finds it there
//! and sees it through with a higher token, so that nothing is lost, and nothing is started by two.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use sallyport_cluster::{Moment, Seat, Term};
use sallyport_wire::NodeName;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::ticket::{State, Ticket};
use super::{Queue, QueueError, WAITS_FOR};
use crate::values::Decision;

/// Without any news it is tried so often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Several changes in a row are one.
const SETTLE: Duration = Duration::from_millis(50);

/// How many are tried in one turn: those behind one that finds no server are not held up by it.
const MOST_TRIED: usize = 64;

/// How many are started at once.
const MOST_STARTING: usize = 16;

/// What a start may take.
const START_WITHIN: Duration = Duration::from_secs(60);

/// After so many starts that failed it is held.
pub const MOST_ATTEMPTS: u32 = 3;

/// Chooses servers for what waits, and starts it there.
pub trait Starter: fmt::Debug + Send + Sync {
    /// The server for it now, or why there is none. Nothing is begun.
    fn choose<'a>(&'a self, ticket: &'a Ticket) -> BoxFuture<'a, Result<NodeName, String>>;

    /// Starts it there. What has the same id as something that was started is that and is not started again, and whoever
    /// starts refuses a token that is lower than one that he has seen: so a relay that was taken for dead cannot begin late
    /// what its successor has begun.
    fn start<'a>(
        &'a self,
        ticket: &'a Ticket,
        server: &'a NodeName,
        token: u64,
    ) -> BoxFuture<'a, Result<(), Failure>>;
}

/// Why something was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It certainly was not: it may be started elsewhere.
    #[error("{0}")]
    NotStarted(String),
    /// It may have been: it is asked for again at the same place.
    #[error("{0}")]
    Unknown(String),
}

/// Runs the queue whenever this relay has the `seat`, at each of the `prompts`, and whenever the queue itself changes.
pub async fn run(
    queue: Queue,
    seat: watch::Receiver<Seat>,
    starter: Arc<dyn Starter>,
    prompts: BoxStream<'static, ()>,
) {
    let mut prompts = prompts.fuse();
    let mut changes = queue.changes();
    let mut runner = Runner {
        queue,
        seat,
        starter,
        starts: FuturesUnordered::new(),
        in_hand: HashSet::new(),
        rest: HashMap::new(),
    };
    loop {
        let Some(term) = runner.term() else {
            runner.lay_down();
            if runner.seat.changed().await.is_err() {
                return;
            }
            continue;
        };
        let waiting = Arc::clone(&changes.borrow_and_update());
        runner.round(term, &waiting).await;
        tokio::select! {
            Some(()) = prompts.next() => sleep(SETTLE).await,
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                sleep(SETTLE).await;
            }
            Some(ended) = runner.starts.next() => runner.end(&ended),
            // renewed, or lost
            _changed = runner.seat.changed() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

/// A start that has ended: which, and whether it may be tried again at once.
struct Ended {
    id: String,
    has_failed: bool,
}

struct Runner {
    queue: Queue,
    seat: watch::Receiver<Seat>,
    starter: Arc<dyn Starter>,
    starts: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// What is being started here.
    in_hand: HashSet<String>,
    /// What failed, and when it is tried again.
    rest: HashMap<String, Moment>,
}

impl Runner {
    fn term(&mut self) -> Option<Term> {
        match &*self.seat.borrow_and_update() {
            Seat::Own(term) if term.is_held() => Some(*term),
            Seat::Own(_) | Seat::Other(_) | Seat::Unknown => None,
        }
    }

    /// Another relay sees to it now.
    fn lay_down(&mut self) {
        self.starts.clear();
        self.in_hand.clear();
        self.rest.clear();
    }

    fn end(&mut self, ended: &Ended) {
        self.in_hand.remove(&ended.id);
        if ended.has_failed {
            let until = Moment::now().after(LOOK_EVERY);
            self.rest.insert(ended.id.clone(), until);
        }
    }

    async fn round(&mut self, term: Term, waiting: &super::Waiting) {
        let now = Moment::now();
        self.rest.retain(|_, until| *until > now);
        for ticket in waiting.iter().map(|placed| &placed.ticket) {
            if let State::Starting { server, .. } = &ticket.state {
                self.see_through(term, ticket, server).await;
            } else if ticket.is_older_than(WAITS_FOR) {
                give_up(&self.queue, ticket).await;
            }
        }
        let turn = waiting.iter().filter(|placed| placed.position.is_some());
        for placed in turn.take(MOST_TRIED) {
            if !term.is_held() || self.starts.len() >= MOST_STARTING {
                return;
            }
            let ticket = &placed.ticket;
            if !self.is_busy(&ticket.id) {
                self.attempt(term, ticket).await;
            }
        }
    }

    fn is_busy(&self, id: &str) -> bool {
        self.in_hand.contains(id) || self.rest.contains_key(id)
    }

    /// What an earlier holder began, or could not tell the end of.
    async fn see_through(&mut self, term: Term, ticket: &Ticket, server: &NodeName) {
        if self.is_busy(&ticket.id) || self.starts.len() >= MOST_STARTING || !term.is_held() {
            return;
        }
        info!(id = %ticket.id, %server, "a start is seen through that another relay began");
        let own = starting(server, term);
        let claimed = self.queue.decide(&ticket.id, |there| {
            Ok(match there {
                Some(there) if is_ours_to_take(&there, term) => {
                    let claimed = there.with(own.clone(), &ticket.reason);
                    Decision::Put(claimed.clone(), Some(claimed))
                }
                there => Decision::Keep(there.filter(|there| there.state == own)),
            })
        });
        match claimed.await {
            Ok(Some(claimed)) => self.begin(term, claimed, server.clone()),
            Ok(None) => {}
            Err(error) => debug!(id = %ticket.id, %error, "a start cannot be seen through now"),
        }
    }

    async fn attempt(&mut self, term: Term, ticket: &Ticket) {
        let chosen = self.starter.choose(ticket).await;
        let done = match &chosen {
            Ok(server) => claim(&self.queue, term, ticket, server).await,
            Err(reason) => explain(&self.queue, ticket, reason).await.map(|()| None),
        };
        match (done, chosen) {
            (Ok(Some(claimed)), Ok(server)) => self.begin(term, claimed, server),
            (Ok(_), _) => {}
            (Err(error), _) => debug!(id = %ticket.id, %error, "it could not be tried"),
        }
    }

    fn begin(&mut self, term: Term, ticket: Ticket, server: NodeName) {
        self.in_hand.insert(ticket.id.clone());
        let (queue, starter) = (self.queue.clone(), Arc::clone(&self.starter));
        let token = term.token();
        self.starts.push(Box::pin(async move {
            let started = timeout(START_WITHIN, starter.start(&ticket, &server, token)).await;
            let started = started.unwrap_or_else(|_elapsed| {
                Err(Failure::Unknown(
                    "the node did not answer in time".to_owned(),
                ))
            });
            let has_failed = started.is_err();
            let own = State::Starting { server, token };
            if let Err(error) = conclude(&queue, &ticket, &own, started).await {
                warn!(id = %ticket.id, %error, "how a start ended could not be written down");
            }
            Ended {
                id: ticket.id,
                has_failed,
            }
        }));
    }
}

async fn give_up(queue: &Queue, ticket: &Ticket) {
    warn!(id = %ticket.id, user = %ticket.user, "it has waited for too long and is taken out");
    if let Err(error) = queue.cancel(&ticket.id).await {
        debug!(id = %ticket.id, %error, "it could not be taken out");
    }
}

/// Writes down that it is started; none if it does not wait any more.
async fn claim(
    queue: &Queue,
    term: Term,
    ticket: &Ticket,
    server: &NodeName,
) -> Result<Option<Ticket>, QueueError> {
    let own = starting(server, term);
    let claimed = queue.decide(&ticket.id, |there| {
        Ok(match there {
            Some(there) if there.state == State::Waiting => {
                let claimed = there.tried().with(own.clone(), "it is being started");
                Decision::Put(claimed.clone(), Some(claimed))
            }
            there => Decision::Keep(there.filter(|there| there.state == own)),
        })
    });
    claimed.await
}

/// Tells people why it goes on waiting, if that is news.
async fn explain(queue: &Queue, ticket: &Ticket, reason: &str) -> Result<(), QueueError> {
    if ticket.clone().with(State::Waiting, reason) == *ticket {
        return Ok(());
    }
    let told = queue.decide(&ticket.id, |there| {
        Ok(match there {
            Some(there) if there.state == State::Waiting => {
                Decision::Put(there.with(State::Waiting, reason), ())
            }
            _ => Decision::Keep(()),
        })
    });
    told.await
}

/// Writes down how a start ended, unless somebody else sees to it by now.
async fn conclude(
    queue: &Queue,
    ticket: &Ticket,
    own: &State,
    started: Result<(), Failure>,
) -> Result<(), QueueError> {
    let id = &ticket.id;
    match &started {
        Ok(()) => {
            info!(id, user = %ticket.user, attempts = ticket.attempts, "what waited was started")
        }
        Err(cause) => {
            info!(id, user = %ticket.user, attempts = ticket.attempts, %cause, "a start failed")
        }
    }
    let concluded = queue.decide(id, |there| {
        let Some(there) = there.filter(|there| there.state == *own) else {
            return Ok(Decision::Keep(()));
        };
        Ok(match &started {
            Ok(()) => Decision::Remove(()),
            Err(Failure::Unknown(reason)) => Decision::Put(there.with(own.clone(), reason), ()),
            Err(Failure::NotStarted(reason)) if there.attempts < MOST_ATTEMPTS => {
                Decision::Put(there.with(State::Waiting, reason), ())
            }
            Err(Failure::NotStarted(reason)) => {
                let reason = format!("held after {} starts that failed: {reason}", there.attempts);
                Decision::Put(there.with(State::Held, &reason), ())
            }
        })
    });
    concluded.await
}

fn starting(server: &NodeName, term: Term) -> State {
    State::Starting {
        server: server.clone(),
        token: term.token(),
    }
}

/// A start that was begun with a lower token.
fn is_ours_to_take(ticket: &Ticket, term: Term) -> bool {
    matches!(&ticket.state, State::Starting { token, .. } if *token < term.token())
}
