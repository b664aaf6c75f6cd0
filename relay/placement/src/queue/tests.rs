//! On the embedded store and the paused clock. That it outlives whoever runs it is shown on every store by the suite.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream;
use sallyport_cluster::{Election, Embedded};
use sallyport_wire::NodeName;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;

const TTL: Duration = Duration::from_secs(10);

struct Site {
    _dir: TempDir,
    store: Arc<Embedded>,
    tasks: Tasks,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

fn key() -> ClusterKey {
    ClusterKey::new("k1", &[7; 32], None).expect("long enough")
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        let store = Embedded::open(&path, sallyport_cluster::Limits::default()).expect("a store");
        Self {
            _dir: dir,
            store: Arc::new(store),
            tasks: Tasks::new(),
        }
    }

    /// The queue as another relay sees it.
    fn queue(&self) -> Queue {
        let queue = Queue::new(Arc::clone(&self.store) as _, Seal::with(&[key()]));
        let queue = queue.expect("keys");
        queue.follow(&self.tasks);
        queue
    }

    /// Has a relay run the queue, prompted by whoever holds what is returned.
    fn run(&self, queue: &Queue, nodes: &Arc<Nodes>) -> mpsc::Sender<()> {
        let seats = "seats".parse().expect("a prefix");
        let store = Arc::clone(&self.store) as _;
        let election = Election::new(store, &seats, "queue", "one", TTL).expect("keys");
        let seat = election.seat();
        self.tasks
            .spawn(info_span!("seat"), election.stand(pending()));
        let (prompt, prompts) = mpsc::channel(1);
        let prompts = stream::unfold(prompts, |mut prompts: mpsc::Receiver<()>| async move {
            prompts.recv().await.map(|prompt| (prompt, prompts))
        });
        let running = run(queue.clone(), seat, Arc::clone(nodes) as _, prompts.boxed());
        self.tasks.spawn(info_span!("runner"), running);
        prompt
    }
}

/// Servers with room for so many each, on which some things never start.
#[derive(Debug, Default)]
struct Nodes {
    room: Mutex<BTreeMap<String, usize>>,
    started: Mutex<Vec<String>>,
    broken: BTreeSet<String>,
}

impl Nodes {
    fn give_room(&self, kind: &str, room: usize) {
        self.room
            .lock()
            .expect("whole")
            .insert(kind.to_owned(), room);
    }

    fn started(&self) -> Vec<String> {
        self.started.lock().expect("whole").clone()
    }
}

fn kind(ticket: &Ticket) -> String {
    ticket.what["kind"].as_str().unwrap_or_default().to_owned()
}

impl Starter for Nodes {
    fn choose<'a>(&'a self, ticket: &'a Ticket) -> BoxFuture<'a, Result<NodeName, String>> {
        Box::pin(async move {
            let kind = kind(ticket);
            let mut room = self.room.lock().expect("whole");
            match room.get_mut(&kind) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    Ok(kind.parse().expect("a name"))
                }
                _ => Err(format!("all {kind} servers are in use")),
            }
        })
    }

    fn start<'a>(
        &'a self,
        ticket: &'a Ticket,
        _server: &'a NodeName,
        _token: u64,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            if self.broken.contains(&ticket.user) {
                self.give_room(&kind(ticket), 1);
                return Err(Failure::NotStarted("no home directory".to_owned()));
            }
            self.started
                .lock()
                .expect("whole")
                .push(ticket.user.clone());
            Ok(())
        })
    }
}

async fn wait_until(queue: &Queue, holds: impl FnMut(&Arc<Waiting>) -> bool) -> Arc<Waiting> {
    let mut changes = queue.changes();
    let shown = changes.wait_for(holds).await.expect("it is followed");
    Arc::clone(&shown)
}

fn users(waiting: &Waiting) -> Vec<(&str, Option<usize>)> {
    let user = |placed: &'_ Placed| placed.position;
    waiting
        .iter()
        .map(|placed| (placed.ticket.user.as_str(), user(placed)))
        .collect()
}

async fn submitted(queue: &Queue, user: &str, kind: &str) -> Ticket {
    let what = json!({ "kind": kind });
    let ticket = queue.submit(user, what, "no server is free").await;
    // so that no two come in the same millisecond
    std::thread::sleep(Duration::from_millis(2));
    ticket.expect("there is room")
}

#[tokio::test(start_paused = true)]
async fn every_relay_sees_who_waits_why_and_in_which_place() {
    let site = Site::new();
    let (one, other) = (site.queue(), site.queue());
    let ann = submitted(&one, "ann", "gpu").await;
    let bob = submitted(&other, "bob", "gpu").await;
    let seen = wait_until(&other, |waiting| waiting.len() == 2).await;
    assert_eq!(users(&seen), [("ann", Some(1)), ("bob", Some(2))]);
    assert_eq!(seen[0].ticket.reason, "no server is free");

    other.hold(&ann.id).await.expect("it waits");
    let seen = wait_until(&one, |waiting| waiting[0].ticket.id == bob.id).await;
    assert_eq!(users(&seen), [("bob", Some(1)), ("ann", None)]);
    one.release(&ann.id).await.expect("it is held");
    let seen = wait_until(&other, |waiting| waiting[0].ticket.id == ann.id).await;
    assert_eq!(
        users(&seen),
        [("ann", Some(1)), ("bob", Some(2))],
        "its place was kept"
    );
    one.cancel(&ann.id).await.expect("it waits");
    let seen = wait_until(&other, |waiting| waiting.len() == 1).await;
    assert_eq!(users(&seen), [("bob", Some(1))]);
    assert_eq!(*seen, other.list().await.expect("listed"));

    for id in [&ann.id, "none", "not/a key"] {
        let refused = one.cancel(id).await.expect_err("there is none");
        assert!(matches!(refused, QueueError::NoTicket(_)), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn so_much_may_wait_and_no_more() {
    let site = Site::new();
    let queue = site.queue();
    queue.limit(Limits {
        all: 3,
        per_user: 2,
    });
    for user in ["ann", "ann", "bob"] {
        submitted(&queue, user, "any").await;
    }
    let refused = queue.submit("ann", json!(1), "").await;
    assert!(matches!(refused, Err(QueueError::Full(3))), "{refused:?}");
    queue.limit(Limits {
        all: 4,
        per_user: 2,
    });
    let refused = queue.submit("ann", json!(1), "").await;
    assert!(
        matches!(refused, Err(QueueError::FullForUser(2))),
        "{refused:?}"
    );
    let large = queue.submit("eve", json!("x".repeat(MAX_WHAT)), "").await;
    assert!(matches!(large, Err(QueueError::TooLarge(_))), "{large:?}");
    let nobody = queue.submit("", json!(1), "").await;
    assert!(matches!(nobody, Err(QueueError::User)), "{nobody:?}");
    submitted(&queue, "eve", "any").await;
}

#[tokio::test(start_paused = true)]
async fn whose_turn_it_is_is_started_when_servers_change_and_others_are_told_why_not() {
    let site = Site::new();
    let (queue, nodes) = (site.queue(), Arc::new(Nodes::default()));
    submitted(&queue, "ann", "gpu").await;
    submitted(&queue, "bob", "gpu").await;
    submitted(&queue, "eve", "cpu").await;
    let held = submitted(&queue, "zoe", "gpu").await;
    queue.hold(&held.id).await.expect("it waits");
    let prompt = site.run(&queue, &nodes);
    let told = |waiting: &Arc<Waiting>| {
        let waiting = waiting.iter().filter(|placed| placed.position.is_some());
        waiting
            .filter(|placed| placed.ticket.reason.contains("in use"))
            .count()
            == 3
    };
    wait_until(&queue, told).await;
    assert_eq!(nodes.started(), [] as [&str; 0]);

    // she is not held up by those before her
    nodes.give_room("cpu", 1);
    prompt.send(()).await.expect("it runs");
    wait_until(&queue, |waiting| waiting.len() == 3).await;
    assert_eq!(nodes.started(), ["eve"]);
    nodes.give_room("gpu", 1);
    prompt.send(()).await.expect("it runs");
    let left = wait_until(&queue, |waiting| waiting.len() == 2).await;
    assert_eq!(nodes.started(), ["eve", "ann"]);
    assert_eq!(users(&left), [("bob", Some(1)), ("zoe", None)]);
    // without any news it is looked now and then
    nodes.give_room("gpu", 1);
    wait_until(&queue, |waiting| waiting.len() == 1).await;
    assert_eq!(nodes.started(), ["eve", "ann", "bob"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_started_is_held_after_some_attempts() {
    let site = Site::new();
    let nodes = Arc::new(Nodes {
        broken: ["ann".to_owned()].into(),
        ..Nodes::default()
    });
    nodes.give_room("any", 1);
    let queue = site.queue();
    let ann = submitted(&queue, "ann", "any").await;
    site.run(&queue, &nodes);

    let held = |waiting: &Arc<Waiting>| {
        let first = waiting.first().map(|placed| &placed.ticket);
        first.is_some_and(|ticket| ticket.state == State::Held)
    };
    let seen = wait_until(&queue, held).await;
    let reason = &seen[0].ticket.reason;
    assert!(
        reason.contains("after 3 starts") && reason.contains("no home"),
        "{reason}"
    );
    assert_eq!(seen[0].ticket.attempts, MOST_ATTEMPTS);
    assert_eq!(queue.release(&ann.id).await.expect("held").attempts, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_being_started_is_not_taken_away() {
    #[derive(Debug)]
    struct Slow;
    impl Starter for Slow {
        fn choose<'a>(&'a self, _: &'a Ticket) -> BoxFuture<'a, Result<NodeName, String>> {
            Box::pin(async { Ok("n1".parse().expect("a name")) })
        }
        fn start<'a>(
            &'a self,
            _: &'a Ticket,
            _: &'a NodeName,
            _: u64,
        ) -> BoxFuture<'a, Result<(), Failure>> {
            Box::pin(pending())
        }
    }
    let site = Site::new();
    let queue = site.queue();
    let ann = submitted(&queue, "ann", "any").await;
    let seats = "seats".parse().expect("a prefix");
    let store = Arc::clone(&site.store) as _;
    let election = Election::new(store, &seats, "queue", "one", TTL).expect("keys");
    let running = run(
        queue.clone(),
        election.seat(),
        Arc::new(Slow),
        stream::pending().boxed(),
    );
    site.tasks
        .spawn(info_span!("seat"), election.stand(pending()));
    site.tasks.spawn(info_span!("runner"), running);
    wait_until(&queue, |waiting| {
        waiting
            .first()
            .is_some_and(|placed| matches!(placed.ticket.state, State::Starting { .. }))
    })
    .await;

    for refused in [queue.cancel(&ann.id).await, queue.hold(&ann.id).await] {
        let refused = refused.expect_err("it is too late");
        assert!(
            refused.to_string().contains("being started on n1"),
            "{refused}"
        );
    }
    // who does not answer in time may have started it: the same node is asked again, and nothing is lost
    let waits = |waiting: &Arc<Waiting>| {
        waiting
            .first()
            .is_some_and(|placed| placed.ticket.reason.contains("did not answer"))
    };
    let seen = wait_until(&queue, waits).await;
    assert!(matches!(seen[0].ticket.state, State::Starting { .. }));
}

#[tokio::test(start_paused = true)]
async fn what_relays_did_not_sign_is_not_in_the_queue() {
    let site = Site::new();
    let forger = ClusterKey::new("k1", &[9; 32], None).expect("long enough");
    let forged = Queue::new(Arc::clone(&site.store) as _, Seal::with(&[forger])).expect("keys");
    submitted(&forged, "root", "any").await;
    let queue = site.queue();
    submitted(&queue, "ann", "any").await;

    let seen = wait_until(&queue, |waiting| !waiting.is_empty()).await;

    assert_eq!(users(&seen), [("ann", Some(1))]);
    assert_eq!(
        users(&queue.list().await.expect("listed")),
        [("ann", Some(1))]
    );
}
