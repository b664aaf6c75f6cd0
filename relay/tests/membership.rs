//! Who is seen in a cluster, and when: proven on tokio's paused clock, with a bus whose parts can be cut off.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _};
use sallyport_cluster::{
    Answer, Bus, ClusterError, Delivery, Embedded, Key, Limits, Prefix, ReplyTo, Subscription,
};
use sallyport_link::{ClusterKeys, Key as Secret};
use sallyport_node::Server;
use sallyport_node::members::Incarnation;
use sallyport_ops::Tasks;
use sallyport_placement::pending::Pending;
use sallyport_relay::membership::{Here, Observer, Reach, Speaker};
use sallyport_wire::Scope;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// A node that has come is seen within this time.
const SEEN: Duration = Duration::from_secs(3);

/// A node that is gone is not seen any more after this time.
const GONE: Duration = Duration::from_secs(6);

/// What one node has of the bus: a line that can be cut.
#[derive(Debug, Clone)]
struct Line {
    bus: Embedded,
    cut: Arc<AtomicBool>,
}

impl Line {
    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }
}

impl Bus for Line {
    fn publish<'a>(&'a self, topic: &'a Key, payload: Bytes) -> Answer<'a, ()> {
        if self.is_cut() {
            return async { Err(ClusterError::Unreachable("cut".to_owned())) }.boxed();
        }
        self.bus.publish(topic, payload)
    }

    fn subscribe<'a>(&'a self, topics: &'a Prefix) -> Answer<'a, Subscription> {
        async move {
            let (heard, line) = (self.bus.subscribe(topics).await?, self.clone());
            let passing = stream::unfold((heard, line), |(mut heard, line)| async move {
                loop {
                    let delivery: Delivery = heard.next().await?;
                    if !line.is_cut() {
                        return Some((delivery, (heard, line)));
                    }
                }
            });
            Ok(Subscription::new(passing))
        }
        .boxed()
    }

    fn request<'a>(
        &'a self,
        topic: &'a Key,
        payload: Bytes,
        within: Duration,
    ) -> Answer<'a, Bytes> {
        self.bus.request(topic, payload, within)
    }

    fn answer<'a>(&'a self, to: &'a ReplyTo, payload: Bytes) -> Answer<'a, ()> {
        self.bus.answer(to, payload)
    }
}

/// A bus, and the keys that those on it share.
struct World {
    bus: Embedded,
    keys: watch::Sender<Arc<ClusterKeys>>,
    _dir: TempDir,
}

/// One relay's part.
struct Node {
    speaker: Speaker,
    observer: Observer,
    line: Line,
    tasks: Tasks,
    says: Arc<Mutex<u64>>,
    prompts: watch::Sender<()>,
    pending: Pending,
}

fn secret() -> Secret {
    Secret::generate(Scope::default(), None).expect("randomness")
}

fn keys(keys: &[&Secret]) -> Arc<ClusterKeys> {
    Arc::new(ClusterKeys {
        keys: keys.iter().map(|key| (*key).clone()).collect(),
    })
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let bus = Embedded::open(&dir.path().join("store"), Limits::default());
        Self {
            bus: bus.expect("a new store"),
            keys: watch::Sender::new(keys(&[&secret()])),
            _dir: dir,
        }
    }

    fn node(&self, name: &str, generation: u64) -> Node {
        self.node_with(name, generation, self.keys.subscribe())
    }

    fn node_with(
        &self,
        name: &str,
        generation: u64,
        keys: watch::Receiver<Arc<ClusterKeys>>,
    ) -> Node {
        self.machine((name, "key"), generation, keys)
    }

    /// A node on the machine with the node key `id`.
    fn machine(
        &self,
        (name, id): (&str, &str),
        generation: u64,
        keys: watch::Receiver<Arc<ClusterKeys>>,
    ) -> Node {
        let line = Line {
            bus: self.bus.clone(),
            cut: Arc::default(),
        };
        let says = Arc::new(Mutex::new(0));
        let (said, name) = (Arc::clone(&says), name.to_owned());
        let pending = Pending::default();
        let placed = pending.clone();
        let describe = {
            let name = name.clone();
            move || Here {
                server: server(&name, generation, *said.lock().expect("not poisoned")),
                reach: Reach::default(),
                placing: placed.own(),
            }
        };
        let own = || Incarnation {
            node: name.parse().expect("a name"),
            id: id.to_owned(),
            generation,
        };
        let bus = || Arc::new(line.clone());
        let speaker = Speaker::new(own(), Arc::new(describe), bus(), keys.clone());
        let speaker = speaker.expect("a topic");
        let observer = Observer::new(own(), bus(), keys, pending.clone()).expect("a topic");
        let (tasks, prompts) = (Tasks::new(), watch::Sender::new(()));
        let prompted = stream::unfold(prompts.subscribe(), |mut changes| async move {
            changes.changed().await.ok()?;
            Some(((), changes))
        });
        observer.observe(&tasks);
        speaker.speak(prompted.boxed(), &tasks);
        Node {
            speaker,
            observer,
            line,
            tasks,
            says,
            prompts,
            pending,
        }
    }
}

fn server(name: &str, generation: u64, sessions: u64) -> Server {
    serde_json::from_value(json!({
        "serverId": name, "generation": generation, "loginEnabled": true, "startEnabled": true, "reservable": false,
        "version": "1", "lastUpdate": 0, "sessions": sessions,
    }))
    .expect("a server")
}

impl Node {
    /// As a killed process: it says nothing more.
    fn kill(&self) {
        self.tasks.stop();
    }

    fn cut(&self, cut: bool) {
        self.line.cut.store(cut, Ordering::Relaxed);
    }

    fn sees(&self) -> BTreeSet<String> {
        let others = self.observer.others().into_iter();
        others
            .map(|other| other.server.server_id.to_string())
            .collect()
    }

    /// How long until it sees just these.
    async fn until_it_sees(&self, names: &[&str]) -> Duration {
        let names: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let since = Instant::now();
        while self.sees() != names {
            assert!(
                since.elapsed() < Duration::from_secs(600),
                "{:?}",
                self.sees()
            );
            sleep(Duration::from_millis(5)).await;
        }
        since.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_places_counts_at_the_others_until_it_is_there_or_the_node_is_gone() {
    let world = World::new();
    let nodes = ["a", "b", "c"].map(|name| world.node(name, 1));
    let [a, b, _] = &nodes;
    a.until_it_sees(&["b", "c"]).await;
    let server = "c".parse().expect("a name");
    let there = |node: &Node| node.pending.counts(|_| None).get(&server).copied();
    let until = async |count: Option<u64>, node: &Node| {
        let since = Instant::now();
        while there(node) != count {
            sleep(Duration::from_millis(10)).await;
            assert!(since.elapsed() < 2 * GONE, "{:?}", there(node));
        }
        since.elapsed()
    };

    let first = b.pending.insist(&server);
    let _second = b.pending.insist(&server);
    b.prompts.send_replace(());
    assert!(until(Some(2), a).await < SEEN);
    drop(first);
    b.prompts.send_replace(());
    assert!(until(Some(1), a).await < SEEN);
    b.kill();
    assert!(until(None, a).await < GONE);
}

#[tokio::test(start_paused = true)]
async fn a_new_node_is_seen_at_once_and_sees_the_others_within_three_seconds() {
    let world = World::new();
    let old = world.node("old", 1);
    sleep(Duration::from_secs(60)).await;
    let new = world.node("new", 1);

    assert!(old.until_it_sees(&["new"]).await < Duration::from_millis(500));
    assert!(new.until_it_sees(&["old"]).await <= SEEN);
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_is_gone_within_six_seconds_and_one_that_leaves_at_once() {
    let world = World::new();
    let sees = world.node("sees", 1);
    for dies_after in (0..2_000).step_by(170).map(Duration::from_millis) {
        let dies = world.node("dies", 1);
        sees.until_it_sees(&["dies"]).await;
        sleep(dies_after).await;
        dies.kill();
        let gone = sees.until_it_sees(&[]).await;
        assert!(gone <= GONE, "{gone:?}");
    }

    let leaves = world.node("leaves", 1);
    sees.until_it_sees(&["leaves"]).await;
    leaves.kill();
    leaves.speaker.leave().await;
    assert!(sees.until_it_sees(&[]).await < Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_at_once() {
    let world = World::new();
    let (sees, tells) = (world.node("sees", 1), world.node("tells", 1));
    sees.until_it_sees(&["tells"]).await;
    sleep(Duration::from_secs(30)).await;

    *tells.says.lock().expect("not poisoned") = 7;
    tells.prompts.send_replace(());
    sleep(Duration::from_millis(500)).await;

    let others = sees.observer.others();
    let sessions = others.first().map(|other| other.server.usage.sessions);
    assert_eq!(sessions, Some(7));
}

#[tokio::test(start_paused = true)]
async fn who_is_cut_off_keeps_what_it_knew_as_stale_and_others_take_it_for_gone() {
    let world = World::new();
    let nodes = ["a", "b", "c"].map(|name| world.node(name, 1));
    let [a, b, c] = &nodes;
    c.until_it_sees(&["a", "b"]).await;
    a.until_it_sees(&["b", "c"]).await;

    c.cut(true);
    assert!(a.until_it_sees(&["b"]).await <= GONE);
    sleep(Duration::from_secs(300)).await;
    assert!(c.observer.is_stale() && !a.observer.is_stale());
    assert_eq!(c.sees(), ["a".to_owned(), "b".to_owned()].into());

    // one goes meanwhile; the other is never missed
    b.kill();
    let mut changes = c.observer.changes();
    changes.mark_unchanged();
    c.cut(false);
    assert!(a.until_it_sees(&["c"]).await <= GONE);
    let healed = c.until_it_sees(&["a"]).await;
    assert!(healed <= GONE + SEEN, "{healed:?}");
    assert!(!c.observer.is_stale());
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_is_away_for_minutes_takes_nobody_with_it() {
    let world = World::new();
    let nodes = ["a", "b", "c"].map(|name| world.node(name, 1));
    nodes[0].until_it_sees(&["b", "c"]).await;
    for away in [1, 4, 6, 120].map(Duration::from_secs) {
        for node in &nodes {
            node.cut(true);
        }
        sleep(away).await;
        for node in &nodes {
            node.cut(false);
        }
        let mut changes = nodes[0].observer.changes();
        changes.mark_unchanged();
        sleep(Duration::from_secs(30)).await;
        assert!(!changes.has_changed().expect("open"), "after {away:?}");
        assert_eq!(nodes[0].sees().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rebooted_node_takes_the_place_of_its_ghost() {
    let world = World::new();
    let sees = world.node("sees", 1);
    let before = world.node("node", 5);
    sees.until_it_sees(&["node"]).await;
    before.kill();
    let after = world.node("node", 6);
    sleep(Duration::from_secs(1)).await;

    // the end of the old process is told late
    before.speaker.leave().await;
    sleep(Duration::from_secs(30)).await;

    let others = sees.observer.others();
    let generations: Vec<_> = others.iter().map(|other| other.server.generation).collect();
    assert_eq!(generations, [6]);
    assert!(!after.observer.is_stale());
}

#[tokio::test(start_paused = true)]
async fn keys_are_rotated_node_by_node_and_nobody_is_missed() {
    let world = World::new();
    let (old, new) = (secret(), secret());
    let held = [(); 3].map(|()| watch::Sender::new(keys(&[&old])));
    let names = ["a", "b", "c"];
    let nodes: Vec<_> = names
        .iter()
        .zip(&held)
        .map(|(name, held)| world.node_with(name, 1, held.subscribe()))
        .collect();
    nodes[0].until_it_sees(&["b", "c"]).await;
    let mut changes: Vec<_> = nodes.iter().map(|node| node.observer.changes()).collect();
    sleep(Duration::from_secs(10)).await;
    for change in &mut changes {
        change.mark_unchanged();
    }

    for step in [keys(&[&old, &new]), keys(&[&new])] {
        for held in &held {
            held.send_replace(Arc::clone(&step));
            sleep(Duration::from_secs(60)).await;
        }
    }

    let missed = changes
        .iter()
        .any(|change| change.has_changed().expect("open"));
    assert!(!missed && nodes[2].sees().len() == 2);
}

#[tokio::test(start_paused = true)]
async fn who_has_no_key_of_the_cluster_is_no_node() {
    let world = World::new();
    let sees = world.node("sees", 1);
    let stranger = watch::Sender::new(keys(&[&secret()]));
    let stranger = world.node_with("stranger", 1, stranger.subscribe());
    let nobody = watch::Sender::new(keys(&[]));
    let nobody = world.node_with("nobody", 1, nobody.subscribe());
    sleep(Duration::from_secs(30)).await;

    assert!(sees.sees().is_empty() && nobody.sees().is_empty());
    let why = sees.observer.distrusted().expect("somebody spoke");
    assert!(
        why.contains("`stranger`") && why.contains("cluster key"),
        "{why}"
    );
    let survey = stranger.observer.survey(&stranger.tasks).await;
    assert!(survey.others.is_empty() && survey.distrusted.is_some());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_observe_sees_all_within_one_round() {
    let world = World::new();
    let nodes: Vec<_> = (0..20).map(|n| world.node(&format!("n{n}"), 1)).collect();
    sleep(Duration::from_secs(10)).await;
    let survey = nodes[0].observer.survey(&nodes[0].tasks).await;
    assert_eq!(survey.others.len(), 19);
}

#[tokio::test(start_paused = true)]
async fn who_comes_under_a_name_that_is_taken_hides_nobody_and_falls_silent() {
    let world = World::new();
    let machine = |id, generation| world.machine(("n", id), generation, world.keys.subscribe());
    let sees = world.node("sees", 1);
    let first = machine("a", 1_000);
    sees.until_it_sees(&["n"]).await;
    let seen = |node: &Node| {
        let others = node.observer.others().into_iter();
        let others = others.map(|other| other.server.generation);
        others.max()
    };

    let second = machine("b", 2_000);
    sleep(Duration::from_millis(500)).await;
    assert!(second.speaker.tenure().is_refused() && !first.speaker.tenure().is_refused());
    let late = world.node("late", 1);
    sleep(GONE + SEEN).await;
    assert_eq!((seen(&sees), seen(&late)), (Some(1_000), Some(1_000)));
    assert_eq!(sees.observer.distrusted(), None);
    for (node, refused) in [(&first, false), (&second, true)] {
        let shown = node.speaker.tenure().show();
        let cure = shown["cure"].as_str().expect("a text");
        assert!(
            shown["refused"] == refused && cure.contains("node = "),
            "{shown}"
        );
    }

    // the first is started again: the second leaves it its name
    first.kill();
    sees.until_it_sees(&["late"]).await;
    sleep(GONE).await;
    assert_eq!(sees.sees().len(), 1);
    let again = machine("a", 3_000);
    assert!(sees.until_it_sees(&["late", "n"]).await < Duration::from_millis(500));

    // where it is gone for good, whoever starts now has the name
    again.kill();
    second.kill();
    again.speaker.leave().await;
    sees.until_it_sees(&["late"]).await;
    let third = machine("b", 4_000);
    assert!(sees.until_it_sees(&["late", "n"]).await < Duration::from_millis(500));
    sleep(SEEN).await;
    assert!(!third.speaker.tenure().is_refused());
}

#[tokio::test(start_paused = true)]
async fn two_that_were_apart_agree_on_who_was_first() {
    let world = World::new();
    let machine = |id, generation| world.machine(("n", id), generation, world.keys.subscribe());
    let sees = world.node("sees", 1);
    let first = machine("a", 1_000);
    sees.until_it_sees(&["n"]).await;
    first.cut(true);
    sees.until_it_sees(&[]).await;
    let second = machine("b", 2_000);
    sees.until_it_sees(&["n"]).await;

    first.cut(false);
    sleep(2 * SEEN).await;

    let others = sees.observer.others();
    let generations: Vec<_> = others.iter().map(|other| other.server.generation).collect();
    assert_eq!(generations, [1_000]);
    assert!(second.speaker.tenure().is_refused() && !first.speaker.tenure().is_refused());
}

#[tokio::test(start_paused = true)]
async fn who_is_not_heard_for_a_minute_has_lost_the_name() {
    let world = World::new();
    let machine = |id, generation| world.machine(("n", id), generation, world.keys.subscribe());
    let sees = world.node("sees", 1);
    let first = machine("a", 1_000);
    sees.until_it_sees(&["n"]).await;
    let second = machine("b", 2_000);
    sleep(Duration::from_secs(100)).await;
    assert!(
        second.speaker.tenure().is_refused(),
        "the first is still heard"
    );

    first.kill();
    sleep(Duration::from_secs(50)).await;
    assert!(sees.sees().is_empty(), "it may be started again");
    sleep(Duration::from_secs(15)).await;

    assert!(!second.speaker.tenure().is_refused());
    assert!(sees.sees().contains("n"));
}
