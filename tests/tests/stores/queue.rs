//! The relay that runs the queue is killed at every step of it: another one takes over, all that waited is started, and
//! nothing is started twice.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use sallyport_cluster::{ClusterKey, Election, Moment, Seal, Seat, Store, Term};
use sallyport_ops::Tasks;
use sallyport_placement::queue::{Failure, Queue, Starter, Ticket, run};
use sallyport_wire::NodeName;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;
use tracing::info_span;

use crate::crashing::{Crash, Crashing};
use crate::pair::{Pair, look_again, soon};

/// What waits when the first relay begins.
const USERS: [&str; 3] = ["ann", "bob", "eve"];

/// Operations of the first relay until all is started: for the seat, and for each that waits.
const STEPS: usize = 2 + 4 * USERS.len();

/// In real time: the shortest that there is.
const SHORT: Duration = Duration::from_secs(1);

/// On the paused clock.
const LONG: Duration = Duration::from_secs(10);

pub(crate) async fn the_queue_outlives_the_relay_that_runs_it(pair: &Pair) {
    // when one start is written down, and nobody knows yet what became of it
    let crash = Crash { at: 5, done: true };
    Box::pin(killed(pair, crash, SHORT)).await;
}

#[tokio::test(start_paused = true)]
async fn the_queue_outlives_its_relay_at_every_step() {
    for at in 1..=STEPS {
        for done in [false, true] {
            let pair = crate::embedded::pair();
            let took = Box::pin(killed(&pair, Crash { at, done }, LONG)).await;
            assert!(took <= LONG + LONG / 10, "{took:?} at {at}, {done}");
        }
    }
}

/// One relay is killed there while it runs the queue, and another one stands by. Says how long nobody ran it.
async fn killed(pair: &Pair, crash: Crash, ttl: Duration) -> Duration {
    let nodes = Arc::new(Nodes::default());
    let crashing = Arc::new(Crashing::new(Arc::clone(&pair.one) as _, crash));
    let other: Arc<dyn Store> = Arc::clone(&pair.other) as _;
    let waiting = queue(&other);
    let mut ids = Vec::new();
    for user in USERS {
        let submitted = waiting.submit(user, user.into(), "no server is free").await;
        ids.push(submitted.expect("there is room").id);
    }
    let crashed = crashing.crashed();
    let mut first = Relay::start("one", crashing, &nodes, ttl);
    tokio::select! {
        () = crashed.cancelled() => {}
        _term = first.term() => {}
    }
    let mut second = Relay::start("two", Arc::clone(&other), &nodes, ttl);

    soon("the first relay comes to its end", crashed.cancelled()).await;
    drop(first);
    let since = Moment::now();
    let took = async {
        second.term().await;
        Moment::now().since(since)
    };
    let took = soon("the second one takes over", took).await;
    let emptied = async {
        while !waiting.list().await.expect("listed").is_empty() {
            look_again().await;
        }
    };
    soon("all that waited is started", emptied).await;

    nodes.show_that_each_began_once(&ids);
    nodes.tasks.stop();
    took
}

fn seal() -> Seal {
    Seal::with(&[ClusterKey::new("k1", &[7; 32], None).expect("long enough")])
}

fn queue(store: &Arc<dyn Store>) -> Queue {
    Queue::new(Arc::clone(store), seal()).expect("keys")
}

/// One that stands for running the queue; it ends with the value as a process does that is killed.
struct Relay {
    seat: watch::Receiver<Seat>,
    tasks: Tasks,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Relay {
    fn start(name: &str, store: Arc<dyn Store>, nodes: &Arc<Nodes>, ttl: Duration) -> Self {
        let (tasks, queue) = (Tasks::new(), queue(&store));
        queue.follow(&tasks);
        let seats = "seats".parse().expect("a prefix");
        let election = Election::new(store, &seats, "queue", name, ttl).expect("keys");
        let seat = election.seat();
        tasks.spawn(info_span!("seat"), election.stand(pending()));
        let starter = Arc::clone(nodes) as _;
        let running = run(queue, seat.clone(), starter, stream::pending().boxed());
        tasks.spawn(info_span!("runner"), running);
        Self { seat, tasks }
    }

    async fn term(&mut self) -> Term {
        let own = self
            .seat
            .wait_for(|seat| matches!(seat, Seat::Own(_)))
            .await;
        match *own.expect("it stands") {
            Seat::Own(term) => term,
            Seat::Other(_) | Seat::Unknown => panic!("it was waited for"),
        }
    }
}

/// The nodes, which go on with what they were asked for when who asked is gone.
#[derive(Debug, Default)]
struct Nodes {
    tasks: Tasks,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The tokens with which each was asked for.
    asked: BTreeMap<String, Vec<u64>>,
    /// How often each has begun to run.
    begun: BTreeMap<String, usize>,
}

impl Known {
    fn is_latest(&self, id: &str, token: u64) -> bool {
        let asked = self.asked.get(id);
        asked.is_some_and(|tokens| tokens.iter().all(|asked| *asked <= token))
    }
}

impl Nodes {
    fn show_that_each_began_once(&self, ids: &[String]) {
        let known = self.known.lock().expect("whole");
        for id in ids {
            assert_eq!(known.begun.get(id), Some(&1), "{known:?}");
            // who takes over asks with a higher token, and nobody asks twice
            let tokens = &known.asked[id];
            assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]), "{known:?}");
        }
        assert_eq!(known.begun.len(), ids.len());
    }
}

impl Starter for Nodes {
    fn choose<'a>(&'a self, _ticket: &'a Ticket) -> BoxFuture<'a, Result<NodeName, String>> {
        Box::pin(async { Ok("n1".parse().expect("a name")) })
    }

    fn start<'a>(
        &'a self,
        ticket: &'a Ticket,
        _server: &'a NodeName,
        token: u64,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let (answer, answered) = oneshot::channel();
        let (known, id) = (Arc::clone(&self.known), ticket.id.clone());
        self.tasks.spawn(info_span!("node"), async move {
            {
                let mut known = known.lock().expect("whole");
                known.asked.entry(id.clone()).or_default().push(token);
            }
            sleep(SHORT / 10).await;
            let mut known = known.lock().expect("whole");
            if known.is_latest(&id, token) && !known.begun.contains_key(&id) {
                *known.begun.entry(id).or_default() += 1;
            }
            // who asked may be gone
            let _unheard = answer.send(());
        });
        Box::pin(async move {
            let gone = |_gone| Failure::Unknown("the node is gone".to_owned());
            answered.await.map_err(gone)
        })
    }
}
