use std::sync::atomic::AtomicUsize;

use futures::FutureExt as _;
use sallyport_cluster::{Embedded, Limits, STORE_FILE};
use sallyport_link::Key as LinkKey;
use sallyport_wire::Scope;
use tempfile::TempDir;
use tokio::task::yield_now;

use super::*;

const SHORT: Duration = Duration::from_millis(200);
const DRAIN: What = What::Drain { within: None };

struct Lab {
    one: Far,
    two: Far,
    bus: Arc<dyn Bus>,
    obeyed: Arc<AtomicUsize>,
    tasks: Tasks,
    _folder: TempDir,
}

fn keys() -> Arc<ClusterKeys> {
    let key = LinkKey::generate(Scope::default(), None).expect("random bytes");
    Arc::new(ClusterKeys { keys: vec![key] })
}

fn far(node: &str, generation: u64, bus: &Arc<dyn Bus>, keys: &Arc<ClusterKeys>) -> Far {
    let own = (node.parse().expect("a name"), generation);
    let keys = watch::Sender::new(Arc::clone(keys)).subscribe();
    Far::new(own, Arc::clone(bus), keys)
}

/// Two nodes on one bus, of which the second obeys.
async fn lab(keys_of_two: Option<Arc<ClusterKeys>>) -> Lab {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(STORE_FILE);
    let bus = Embedded::open(&path, Limits::default()).expect("a store");
    let bus: Arc<dyn Bus> = Arc::new(bus);
    let keys = keys();
    let two = far(
        "two",
        7,
        &bus,
        &keys_of_two.unwrap_or_else(|| Arc::clone(&keys)),
    );
    let (obeyed, tasks) = (Arc::new(AtomicUsize::new(0)), Tasks::new());
    let counted = Arc::clone(&obeyed);
    let obey = move |what, by: String| {
        counted.fetch_add(1, Ordering::SeqCst);
        let done = match what {
            What::Drain { .. } => Ok(drained()),
            What::Undrain => Err(format!("not for {by}")),
        };
        std::future::ready(done).boxed()
    };
    two.obey(Arc::new(obey), &tasks);
    let nobody: Key = "drains/two/nobody".parse().expect("a topic");
    let listens = async || {
        let asked = bus.request(&nobody, Bytes::new(), SHORT).await;
        !matches!(asked, Err(ClusterError::NobodyAnswers(_)))
    };
    while !listens().await {
        yield_now().await;
    }
    Lab {
        one: far("one", 5, &bus, &keys),
        two,
        bus,
        obeyed,
        tasks,
        _folder: folder,
    }
}

fn drained() -> Drained {
    Drained {
        node: "two".parse().expect("a name"),
        draining: true,
        since: None,
        deadline: None,
        streams: 3,
    }
}

impl Lab {
    async fn ask(&self, generation: u64, what: What) -> Result<Drained, NotDone> {
        self.one.ask((&self.two.0.node, generation), what).await
    }

    fn obeyed(&self) -> usize {
        self.obeyed.load(Ordering::SeqCst)
    }

    /// The order that goes over the bus while `asking`.
    async fn caught(&self, asking: impl Future<Output = Result<Drained, NotDone>>) -> Message {
        let topics = "drains".parse().expect("a prefix");
        let mut spy = self.bus.subscribe(&topics).await.expect("it listens");
        drop(asking.await);
        match spy.next().await {
            Some(Delivery::Message(message)) => message,
            other => panic!("no message: {other:?}"),
        }
    }

    async fn repeat(&self, topic: &Key, payload: Bytes) -> Result<Bytes, ClusterError> {
        self.bus.request(topic, payload, SHORT).await
    }
}

#[tokio::test]
async fn a_node_is_asked_and_says_what_came_of_it() {
    let lab = lab(None).await;

    assert_eq!(lab.ask(7, DRAIN).await.expect("done"), drained());
    let refused = lab.ask(7, What::Undrain).await.expect_err("it refuses");
    assert_eq!(refused.to_string(), "it refuses: not for one");
    assert_eq!(lab.obeyed(), 2);
    lab.tasks.stop();
}

#[tokio::test]
async fn an_order_is_obeyed_once_and_only_as_it_was_signed() {
    let lab = lab(None).await;
    let first = lab.caught(lab.ask(7, DRAIN)).await;
    let second = lab.caught(lab.ask(7, DRAIN)).await;
    assert_eq!(lab.obeyed(), 2);

    for message in [&second, &first] {
        let again = lab.repeat(&message.topic, message.payload.clone()).await;
        assert!(matches!(again, Err(ClusterError::TimedOut)), "{again:?}");
    }
    let altered: Vec<u8> = first.payload.iter().copied().chain(*b" ").collect();
    let posing: Key = "drains/two/three".parse().expect("a topic");
    for (topic, payload) in [
        (&first.topic, Bytes::from(altered)),
        (&posing, second.payload.clone()),
        (&posing, Bytes::from_static(b"drain!")),
    ] {
        let refused = lab.repeat(topic, payload).await;
        assert!(
            matches!(refused, Err(ClusterError::TimedOut)),
            "{refused:?}"
        );
    }
    assert_eq!(lab.obeyed(), 2);
    lab.tasks.stop();
}

#[tokio::test(start_paused = true)]
async fn an_order_for_another_process_or_of_another_cluster_is_not_obeyed() {
    let own = lab(None).await;
    let old = own.ask(6, DRAIN).await.expect_err("that process is gone");
    assert!(
        old.to_string().contains("did not answer within 5 s"),
        "{old}"
    );

    let foreign = lab(Some(keys())).await;
    assert!(matches!(
        foreign.ask(7, DRAIN).await,
        Err(NotDone::Silent(_))
    ));
    assert_eq!((own.obeyed(), foreign.obeyed()), (0, 0));
    let mute = far("one", 5, &own.bus, &Arc::new(ClusterKeys::default()));
    let node = &own.two.0.node;
    assert!(matches!(
        mute.ask((node, 7), DRAIN).await,
        Err(NotDone::NoKey)
    ));
}

#[test]
fn the_last_orders_of_so_many_nodes_are_remembered() {
    let mut taken = Taken::default();
    let order = |node: usize| {
        format!("drains/two/n{node}")
            .parse::<Key>()
            .expect("a topic")
    };
    let claim = |node: usize, version: u64, expires: SystemTime| Claim {
        owner: format!("n{node}"),
        version,
        expires,
    };
    let (long_ago, later) = (SystemTime::UNIX_EPOCH, SystemTime::now() + GOOD_FOR);
    for node in 0..MOST_SENDERS {
        let taken = taken.take(&order(node), &claim(node, 1, later));
        assert!(taken.is_ok(), "{taken:?}");
    }
    let more = taken.take(&order(MOST_SENDERS), &claim(MOST_SENDERS, 1, later));
    assert!(matches!(more, Err(NotObeyed::Full)), "{more:?}");
    let again = taken.take(&order(0), &claim(0, 1, later));
    assert!(matches!(again, Err(NotObeyed::Repeated)), "{again:?}");
    assert!(taken.take(&order(0), &claim(0, 2, long_ago)).is_ok());

    let room = taken.take(&order(MOST_SENDERS), &claim(MOST_SENDERS, 1, later));
    assert!(room.is_ok(), "one has expired: {room:?}");
}
