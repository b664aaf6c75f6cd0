//! Two users log in at one reservable server at the same instant, and the relay of one of them is killed at every step of
//! it: the server is never both's, and never nobody's for longer than the time to live.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use sallyport_cluster::{ClusterKey, Moment, Seal, Store};
use sallyport_ops::Tasks;
use sallyport_placement::reservations::{
    Hold, Kind, Login, Refused, Reservation, Reservations, Terms,
};
use sallyport_tests::broker::NatsVersion;
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::crashing::{Crash, Crashing};
use crate::pair::{Pair, soon};

/// How many requests an authentication takes.
const REQUESTS: usize = 3;

/// Operations of a whole login on the store, from its hold to its logout, with a renewal and some that conflict.
const STEPS: usize = 12;

/// A round of each case, in the suite that every store is put through.
const FEW: usize = 2 * 2 * 2 * (STEPS + 1);

/// As many as were asked for.
const MANY: usize = 1000;

/// Rounds under way at once, each with a server of its own.
const AT_ONCE: usize = 64;

/// In real time: short, since it is waited for.
const SHORT: Duration = Duration::from_secs(1);

/// Between two tries of who waits until a server is free.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// On the paused clock.
const LONG: Duration = Duration::from_secs(20);

pub(crate) async fn two_users_never_have_one_server(pair: &Pair) {
    rounds(pair, FEW).await;
}

pub(crate) async fn rounds(pair: &Pair, rounds: usize) {
    let rounds =
        stream::iter(0..rounds).map(|number| Box::pin(Round::new(pair, number, SHORT).play()));
    let outcomes: Vec<_> = rounds.buffer_unordered(AT_ONCE).collect().await;
    show_that_all_happened(&outcomes);
}

/// On the paused clock a thousand rounds take no longer than what they do.
#[tokio::test(start_paused = true)]
async fn two_users_never_have_one_server_a_thousand_times() {
    let pair = crate::embedded::pair();
    let mut outcomes = Vec::new();
    for number in 0..MANY {
        outcomes.push(Box::pin(Round::new(&pair, number, LONG).play()).await);
    }
    show_that_all_happened(&outcomes);
}

#[tokio::test]
#[ignore = "takes a minute: run by name"]
async fn heavy_two_users_never_have_one_server_a_thousand_times_on_nats() {
    rounds(&crate::nats::pair(NatsVersion::Debian).await, MANY).await;
}

#[tokio::test]
#[ignore = "takes a minute: run by name"]
async fn heavy_two_users_never_have_one_server_a_thousand_times_on_current_nats() {
    rounds(&crate::nats::pair(NatsVersion::Current).await, MANY).await;
}

#[tokio::test]
#[ignore = "takes a minute: run by name"]
async fn heavy_two_users_never_have_one_server_a_thousand_times_on_redis() {
    rounds(&crate::redis::pair().await, MANY).await;
}

/// What a round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    /// Who had the server first; none if the relay of ann was killed before anybody had it.
    first: Option<User>,
    was_killed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    Ann,
    Bob,
}

fn show_that_all_happened(outcomes: &[Outcome]) {
    let count =
        |what: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| what(outcome)).count();
    let counts = [
        count(|outcome| outcome.first == Some(User::Ann) && outcome.was_killed),
        count(|outcome| outcome.first == Some(User::Ann) && !outcome.was_killed),
        count(|outcome| outcome.first == Some(User::Bob) && outcome.was_killed),
    ];
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

/// The relay that a user came to.
struct Relay {
    user: User,
    reservations: Reservations,
    server: String,
    tasks: Tasks,
    crashed: CancellationToken,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl User {
    const fn name(self) -> &'static str {
        match self {
            Self::Ann => "ann",
            Self::Bob => "bob",
        }
    }

    fn source(self) -> IpAddr {
        match self {
            Self::Ann => [10, 0, 0, 1].into(),
            Self::Bob => [10, 0, 0, 2].into(),
        }
    }
}

impl Relay {
    fn new(user: User, store: Arc<dyn Store>, server: &str, ttl: Duration, crash: Crash) -> Self {
        let store = Arc::new(Crashing::new(store, crash));
        let (crashed, tasks) = (store.crashed(), Tasks::new());
        let key = ClusterKey::new("k1", &[7; 32], None).expect("long enough");
        let terms = Terms {
            ttl,
            hold: ttl,
            holds: 8,
        };
        let node = user.name().parse().expect("a name");
        let made = Reservations::new(store, Seal::with(&[key]), node, terms, tasks.clone());
        Self {
            user,
            reservations: made.expect("keys"),
            server: server.to_owned(),
            tasks,
            crashed,
        }
    }

    /// One login; none if the relay was killed in it. `hurried` goes on though the server is held for somebody else.
    async fn log_in(&self, hurried: bool) -> Option<Result<Reservation, Refused>> {
        let done = self
            .crashed
            .run_until_cancelled(self.authenticate(hurried))
            .await;
        if done.is_none() {
            self.tasks.stop();
        }
        done
    }

    async fn authenticate(&self, hurried: bool) -> Result<Reservation, Refused> {
        let (server, user) = (self.server.parse().expect("a name"), self.user);
        let hold = self
            .reservations
            .hold(&server, user.name(), user.source())
            .await;
        let hold = match hold {
            Err(Refused::Reserved { .. }) if hurried => Hold::none(server),
            hold => hold?,
        };
        for _request in 0..REQUESTS {
            yield_now().await;
        }
        let login = Login {
            id: format!("login of {}", user.name()),
            user: user.name().to_owned(),
            kind: Kind::Person,
        };
        let confirmed = self.reservations.confirm(hold, login).await?;
        Ok(confirmed.expect("a person reserves"))
    }

    async fn log_out(&self, reservation: Reservation) {
        let released = self.reservations.release(reservation);
        match self.crashed.run_until_cancelled(released).await {
            Some(released) => released.expect("the store answers"),
            None => self.tasks.stop(),
        }
    }

    /// Tries until the server is his.
    async fn wait_for_it(&self) -> Reservation {
        loop {
            match self.authenticate(false).await {
                Ok(reservation) => return reservation,
                Err(Refused::Reserved { .. }) => sleep(LOOK_EVERY).await,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

struct Round {
    ttl: Duration,
    /// Whether who is told that the server is held goes on all the same.
    hurried: bool,
    /// Whether ann comes first, instead of at the same instant.
    ahead: bool,
    ann: Relay,
    bob: Relay,
}

impl Round {
    /// Its number says when the relay of ann is killed, and what else is special about it.
    fn new(pair: &Pair, number: usize, ttl: Duration) -> Self {
        let server = format!("server{number}");
        let crash = Crash {
            at: number / 8 % (STEPS + 1),
            done: number.is_multiple_of(2),
        };
        let never = Crash { at: 0, done: false };
        let stores: [Arc<dyn Store>; 2] =
            [Arc::clone(&pair.one) as _, Arc::clone(&pair.other) as _];
        let [one, other] = stores;
        Self {
            ttl,
            hurried: (number / 2).is_multiple_of(2),
            ahead: (number / 4).is_multiple_of(2),
            ann: Relay::new(User::Ann, one, &server, ttl, crash),
            bob: Relay::new(User::Bob, other, &server, ttl, never),
        }
    }

    /// In real time, how late something is written or looked at is the machine's and the broker's.
    fn is_timed(&self) -> bool {
        self.ttl == LONG
    }

    async fn play(self) -> Outcome {
        let hers = self.ann.log_in(self.hurried);
        let his = self.bob.log_in(self.hurried);
        let (ann, bob) = if self.ahead {
            (hers.await, his.await)
        } else {
            tokio::join!(hers, his)
        };
        let mut ann = ann.and_then(only_refused);
        let mut bob = bob.and_then(only_refused);
        assert!(ann.is_none() || bob.is_none(), "both have it");
        let first = match (&ann, &bob) {
            (Some(_), _) => Some(User::Ann),
            (None, Some(_)) => Some(User::Bob),
            (None, None) => None,
        };
        // time for a renewal
        sleep(self.ttl / 2).await;
        if let Some(his) = bob.take() {
            assert!(his.is_held() || !self.is_timed(), "nobody took it from him");
            self.bob.log_out(his).await;
        }
        if let Some(hers) = ann.take_if(|_| !self.ann.crashed.is_cancelled()) {
            self.ann.log_out(hers).await;
        }
        self.nothing_is_left(ann).await;
        Outcome {
            first,
            was_killed: self.ann.crashed.is_cancelled(),
        }
    }

    /// `dead` is what the relay of ann had when it was killed.
    async fn nothing_is_left(&self, dead: Option<Reservation>) {
        let since = Moment::now();
        let his = soon("bob gets the server", self.bob.wait_for_it()).await;
        let took = Moment::now().since(since);
        assert!(dead.is_none_or(|dead| !dead.is_held()), "two hold it");
        if self.is_timed() {
            let most = if self.ann.crashed.is_cancelled() {
                self.ttl
            } else {
                Duration::ZERO
            };
            assert!(
                took <= most + LOOK_EVERY,
                "{took:?}, and {most:?} are allowed"
            );
        }
        self.bob.log_out(his).await;
        let server = self.bob.server.parse().expect("a name");
        let left = self.bob.reservations.list().await.expect("listed");
        assert!(!left.contains_key(&server), "{left:?}");
    }
}

/// Whoever is not let in was too late, and nothing else.
fn only_refused(login: Result<Reservation, Refused>) -> Option<Reservation> {
    match login {
        Ok(reservation) => Some(reservation),
        Err(Refused::Reserved { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}
