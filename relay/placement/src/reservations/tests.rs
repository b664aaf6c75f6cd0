//! On the embedded store and the paused clock, with two relays. What every store has in common, and what a crash at any
//! step leaves, is shown by the conformance suite.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::FutureExt as _;
use sallyport_cluster::{Answer, Embedded, Entry, Key, Limits, Prefix, Revision, Watch};
use tempfile::TempDir;
use tokio::time::{advance, sleep};

use super::*;

const TERMS: Terms = Terms {
    ttl: Duration::from_secs(30),
    hold: Duration::from_secs(60),
    holds: 8,
};

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const OFFICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

const SECOND: Duration = Duration::from_secs(1);

/// A store that can be cut off.
#[derive(Debug)]
struct Cut {
    inner: Embedded,
    is_cut: AtomicBool,
}

impl Cut {
    fn so<'a, T: Send + 'a>(&'a self, answer: Answer<'a, T>) -> Answer<'a, T> {
        async move {
            if self.is_cut.load(Ordering::SeqCst) {
                return Err(ClusterError::Unreachable(
                    "nats1:4222 fails at tcp".to_owned(),
                ));
            }
            answer.await
        }
        .boxed()
    }
}

impl Store for Cut {
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Option<Entry>> {
        self.so(self.inner.get(key))
    }

    fn put<'a>(&'a self, key: &'a Key, value: Bytes) -> Answer<'a, Revision> {
        self.so(self.inner.put(key, value))
    }

    fn create<'a>(&'a self, key: &'a Key, value: Bytes) -> Answer<'a, Revision> {
        self.so(self.inner.create(key, value))
    }

    fn replace<'a>(&'a self, key: &'a Key, value: Bytes, known: Revision) -> Answer<'a, Revision> {
        self.so(self.inner.replace(key, value, known))
    }

    fn delete<'a>(&'a self, key: &'a Key, known: Option<Revision>) -> Answer<'a, ()> {
        self.so(self.inner.delete(key, known))
    }

    fn list<'a>(&'a self, prefix: &'a Prefix) -> Answer<'a, Vec<Entry>> {
        self.so(self.inner.list(prefix))
    }

    fn watch<'a>(&'a self, prefix: &'a Prefix) -> Answer<'a, Watch> {
        self.inner.watch(prefix)
    }
}

struct Site {
    _dir: TempDir,
    store: Arc<Cut>,
    server: NodeName,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        let inner = Embedded::open(&path, Limits::default()).expect("a store");
        Self {
            _dir: dir,
            store: Arc::new(Cut {
                inner,
                is_cut: AtomicBool::new(false),
            }),
            server: name("desk"),
        }
    }

    fn cut(&self, is_cut: bool) {
        self.store.is_cut.store(is_cut, Ordering::SeqCst);
    }

    fn relay(&self, node: &str) -> Relay {
        self.relay_with(node, &[key("k1")])
    }

    fn relay_with(&self, node: &str, keys: &[ClusterKey]) -> Relay {
        self.relay_of(node, TERMS, keys)
    }

    fn relay_of(&self, node: &str, terms: Terms, keys: &[ClusterKey]) -> Relay {
        let (store, tasks) = (Arc::clone(&self.store) as _, Tasks::new());
        let seal = Seal::with(keys);
        let reservations = Reservations::new(store, seal, name(node), terms, tasks.clone());
        Relay {
            reservations: reservations.expect("keys"),
            tasks,
            server: self.server.clone(),
        }
    }
}

struct Relay {
    reservations: Reservations,
    tasks: Tasks,
    server: NodeName,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Relay {
    async fn hold(&self, account: &str, source: IpAddr) -> Result<Hold, Refused> {
        self.reservations.hold(&self.server, account, source).await
    }

    async fn confirm(&self, hold: Hold, user: &str, id: &str) -> Result<Reservation, Refused> {
        let login = Login {
            id: id.to_owned(),
            user: user.to_owned(),
            kind: Kind::Person,
        };
        let confirmed = self.reservations.confirm(hold, login).await?;
        Ok(confirmed.expect("a person reserves"))
    }

    /// From the start to the end, as a user who knows his password.
    async fn log_in(&self, user: &str, id: &str) -> Result<Reservation, Refused> {
        let hold = self.hold(user, HOME).await?;
        self.confirm(hold, user, id).await
    }

    async fn is_free(&self) -> bool {
        self.reservations.list().await.expect("listed").is_empty()
    }

    /// When what is followed is so.
    async fn shows(&self, holds: impl FnMut(&Arc<Occupied>) -> bool) {
        let mut occupied = self.reservations.occupied();
        occupied.wait_for(holds).await.expect("it is followed");
    }
}

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn key(kid: &str) -> ClusterKey {
    let secret = kid.repeat(16);
    ClusterKey::new(kid, secret.as_bytes(), None).expect("long enough")
}

fn is_reserved_by<T>(result: Result<T, Refused>, user: &str) -> bool {
    matches!(result, Err(Refused::Reserved { by, .. }) if by == user)
}

#[tokio::test(start_paused = true)]
async fn one_user_has_it_from_the_first_login_to_the_last_logout() {
    let site = Site::new();
    let (one, other) = (site.relay("one"), site.relay("other"));
    let first = one.log_in("ann", "1").await.expect("it is free");
    let second = other.log_in("ann", "2").await.expect("ann shares it");
    assert_eq!(first.token(), second.token());

    let told = one
        .hold("bob", OFFICE)
        .await
        .expect_err("before bob types a password");
    assert!(told.for_user().contains("reserved") && !told.for_user().contains("ann"));
    assert!(told.to_string().contains("ann"), "the log knows");

    for _ in 0..10 {
        sleep(TERMS.ttl).await;
        assert!(first.is_held() && second.is_held());
        assert!(is_reserved_by(other.hold("bob", OFFICE).await, "ann"));
    }
    one.reservations.release(first).await.expect("released");
    assert!(
        is_reserved_by(other.hold("bob", OFFICE).await, "ann"),
        "one login is left"
    );
    other.reservations.release(second).await.expect("released");
    assert!(one.is_free().await);
    let bob = one.log_in("bob", "3").await.expect("it is free at once");
    assert!(bob.is_held());
}

#[tokio::test(start_paused = true)]
async fn each_login_lasts_as_long_as_its_own_relay_counts_on() {
    let site = Site::new();
    let relay = |node, seconds| {
        let ttl = Duration::from_secs(seconds);
        site.relay_of(node, Terms { ttl, ..TERMS }, &[key("k1")])
    };
    let (patient, hurried) = (relay("one", 3600), relay("other", 2));
    let first = patient.log_in("ann", "1").await.expect("free");
    let second = hurried.log_in("ann", "2").await.expect("ann shares it");
    // the one renews every twenty minutes, the other every second
    sleep(600 * SECOND).await;
    assert!(first.is_held() && second.is_held());
    hurried
        .reservations
        .release(second)
        .await
        .expect("released");
    sleep(500 * SECOND).await;

    assert!(first.is_held());
    assert!(
        is_reserved_by(hurried.hold("bob", OFFICE).await, "ann"),
        "nobody gets what somebody counts on"
    );
    patient.tasks.stop(); // as if it was killed
    // it stands as the release has left it
    sleep(3099 * SECOND).await;
    assert!(is_reserved_by(hurried.hold("bob", OFFICE).await, "ann"));
    sleep(SECOND).await;
    hurried.log_in("bob", "3").await.expect("free now");
}

#[tokio::test(start_paused = true)]
async fn a_hold_tells_rivals_and_ends_when_it_first_would() {
    let site = Site::new();
    let (one, other) = (site.relay("one"), site.relay("other"));
    let _held = one.hold("ann", HOME).await.expect("free");
    assert!(is_reserved_by(other.hold("bob", OFFICE).await, "ann"));

    sleep(TERMS.hold / 2).await;
    // neither the same again nor another account from there makes it longer
    one.hold("ann", HOME).await.expect("hers");
    one.hold("eve", HOME).await.expect("from the same source");
    assert!(is_reserved_by(other.hold("bob", OFFICE).await, "eve"));
    sleep(TERMS.hold / 2).await;

    let taken = other.hold("bob", OFFICE).await.expect("the turn of others");
    assert!(taken.id.is_some());
    other.reservations.let_go(taken).await.expect("let go");
    let late = one.hold("eve", HOME).await.expect("she may log in");
    assert_eq!(
        late.id, None,
        "who held it for nothing has no hold for a while"
    );
    assert!(other.log_in("carol", "1").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_authenticates_first_has_it() {
    let site = Site::new();
    let (one, other) = (site.relay("one"), site.relay("other"));
    let hers = one.hold("ann", HOME).await.expect("free");
    assert!(is_reserved_by(other.hold("bob", OFFICE).await, "ann"));
    sleep(TERMS.hold).await;
    let his = other.hold("bob", OFFICE).await.expect("hers is over");

    let ann = one.confirm(hers, "ann", "1").await.expect("she was faster");

    assert!(is_reserved_by(other.confirm(his, "bob", "2").await, "ann"));
    assert!(ann.is_held());
}

#[tokio::test(start_paused = true)]
async fn link_daemons_neither_hold_nor_prolong() {
    let site = Site::new();
    let relay = site.relay("one");
    let daemon = |id: &str| Login {
        id: id.to_owned(),
        user: "ann".to_owned(),
        kind: Kind::LinkDaemon,
    };
    let hold = relay.hold("ann", HOME).await.expect("free");
    let made = relay.reservations.confirm(hold, daemon("d")).await;
    assert!(made.expect("it may run").is_none());
    assert!(relay.is_free().await);

    let ann = relay.log_in("ann", "1").await.expect("free");
    let beside = Hold::none(site.server.clone());
    let made = relay.reservations.confirm(beside, daemon("e")).await;
    assert!(made.expect("it may run").is_none());
    relay.reservations.release(ann).await.expect("released");
    assert!(relay.is_free().await, "the daemon does not keep it");
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_it_is_free_when_its_time_is_over_and_not_before() {
    let site = Site::new();
    let (one, other) = (site.relay("one"), site.relay("other"));
    let ann = one.log_in("ann", "1").await.expect("free");
    assert!(is_reserved_by(other.hold("bob", OFFICE).await, "ann"));

    one.tasks.stop(); // as if it was killed
    sleep(TERMS.ttl - SECOND).await;
    assert!(is_reserved_by(other.hold("bob", OFFICE).await, "ann"));
    assert!(!ann.is_held(), "its holder stops before others begin");
    sleep(SECOND).await;

    let bob = other.log_in("bob", "2").await.expect("free now");
    assert!(bob.token() > ann.token());
}

#[tokio::test(start_paused = true)]
async fn without_the_store_nobody_gets_a_server_and_who_has_one_keeps_it_for_its_time() {
    let site = Site::new();
    let one = site.relay("one");
    let ann = one.log_in("ann", "1").await.expect("free");
    site.cut(true);

    let refused = one.hold("ann", HOME).await.expect_err("nobody can tell");
    assert!(refused.to_string().contains("fails at tcp"), "{refused}");
    assert!(
        refused.for_user().contains("cannot be told"),
        "{}",
        refused.for_user()
    );
    let refused = one
        .confirm(Hold::none(site.server.clone()), "bob", "2")
        .await;
    assert!(matches!(refused, Err(Refused::Store(_))), "{refused:?}");
    sleep(TERMS.ttl / 2).await;
    assert!(ann.is_held());
    sleep(TERMS.ttl).await;
    assert!(!ann.is_held());

    site.cut(false);
    sleep(TERMS.ttl / 10).await;
    assert!(ann.is_held(), "nobody took it meanwhile");
}

#[tokio::test(start_paused = true)]
async fn who_loses_it_by_order_learns_it_at_once() {
    let site = Site::new();
    let (one, other) = (site.relay("one"), site.relay("other"));
    one.reservations.follow(&Scope::All).expect("keys");
    let ann = one.log_in("ann", "1").await.expect("free");
    one.shows(|occupied| occupied.contains_key(&site.server))
        .await;
    let ordered = Moment::now();

    assert!(other.reservations.free(&site.server).await.expect("freed"));
    let mut standing = ann.standing();
    let lost = standing.wait_for(|standing| *standing == Standing::Lost);
    lost.await.expect("told");

    assert!(Moment::now().since(ordered) < SECOND && !ann.is_held());
    let bob = other.log_in("bob", "2").await.expect("free");
    one.reservations.release(ann).await.expect("nothing to do");
    assert!(bob.is_held() && is_reserved_by(one.hold("ann", HOME).await, "bob"));
    assert!(
        !other
            .reservations
            .free(&name("elsewhere"))
            .await
            .expect("nothing there")
    );
}

#[tokio::test(start_paused = true)]
async fn what_relays_did_not_sign_is_not_believed_and_gives_the_server_to_nobody() {
    let site = Site::new();
    let (ours, theirs) = (site.relay("ours"), site.relay_with("theirs", &[key("zz")]));
    theirs
        .log_in("eve", "1")
        .await
        .expect("nobody asked them for more");

    let refused = ours.hold("ann", HOME).await.expect_err("not believed");
    assert!(
        refused.to_string().contains("reservations free desk"),
        "{refused}"
    );
    let listed = ours.reservations.list().await.expect("listed");
    let distrusted = listed.get(&site.server).expect("it is shown");
    assert!(matches!(distrusted, Occupation::Distrusted { .. }) && distrusted.closes_to("eve"));

    theirs.tasks.stop();
    ours.reservations.free(&site.server).await.expect("freed");
    ours.log_in("ann", "2").await.expect("free");
    let keyless = site.relay_with("keyless", &[]);
    let refused = keyless.reservations.hold(&name("other"), "ann", HOME).await;
    assert!(matches!(refused, Err(Refused::NoKey)), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_believed_is_forgotten_when_nobody_can_be_keeping_it_up() {
    let site = Site::new();
    let (ours, theirs) = (site.relay("ours"), site.relay_with("theirs", &[key("zz")]));
    theirs.log_in("eve", "1").await.expect("free");
    theirs.tasks.stop();
    assert!(ours.hold("ann", HOME).await.is_err());
    advance(value::LONGEST - SECOND).await;
    assert!(ours.hold("ann", HOME).await.is_err());
    advance(SECOND).await;
    assert!(ours.log_in("ann", "2").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_follows_sees_what_comes_and_what_ends_without_a_word() {
    let site = Site::new();
    let (one, other) = (site.relay("one"), site.relay("other"));
    other.reservations.follow(&Scope::All).expect("keys");
    let narrow = site.relay("elsewhere");
    narrow
        .reservations
        .follow(&Scope::Only(name("elsewhere")))
        .expect("keys");
    let hold = one.hold("ann", HOME).await.expect("free");
    let is_held = |occupied: &Arc<Occupied>| matches!(occupied.get(&site.server), Some(Occupation::Held { account, .. }) if account == "ann");
    other.shows(is_held).await;

    let ann = one.confirm(hold, "ann", "1").await.expect("hers");
    other
        .shows(|occupied| {
            let desk = occupied.get(&site.server);
            desk.is_some_and(|desk| desk.closes_to("bob") && !desk.closes_to("ann"))
                && matches!(desk, Some(Occupation::Reserved { token, .. }) if *token == ann.token())
        })
        .await;
    one.tasks.stop();
    let crashed = Moment::now();
    other.shows(|occupied| occupied.is_empty()).await;

    let took = Moment::now().since(crashed);
    assert!(took <= TERMS.ttl + SECOND, "{took:?}");
    assert!(
        narrow.reservations.occupied().borrow().is_empty(),
        "that is not its own"
    );
    assert_eq!(other.reservations.sweep().await.expect("swept"), 1);
    assert_eq!(site.store.list(&Prefix::all()).await.expect("listed"), []);
}

#[tokio::test(start_paused = true)]
async fn the_login_of_a_relay_that_crashed_does_not_outlast_the_others() {
    let site = Site::new();
    let (one, other) = (site.relay("one"), site.relay("other"));
    let _lost = one.log_in("ann", "1").await.expect("free");
    let kept = other.log_in("ann", "2").await.expect("shared");
    one.tasks.stop();
    sleep(TERMS.ttl * 2).await;

    let listed = other.reservations.list().await.expect("listed");
    let Some(Occupation::Reserved { logins, .. }) = listed.get(&site.server) else {
        panic!("{listed:?}");
    };
    assert_eq!(logins.iter().collect::<Vec<_>>(), ["2"]);
    other.reservations.release(kept).await.expect("released");
    assert!(other.is_free().await);
}

#[tokio::test(start_paused = true)]
async fn keys_are_rotated_while_a_server_is_reserved() {
    let site = Site::new();
    let (one, other) = (site.relay("one"), site.relay("other"));
    other.reservations.follow(&Scope::All).expect("keys");
    let ann = one.log_in("ann", "1").await.expect("free");

    for keys in [&[key("k1"), key("k2")][..], &[key("k2")]] {
        one.reservations.rotate(keys);
        other.reservations.rotate(keys);
        sleep(TERMS.ttl).await;
    }

    assert!(ann.is_held() && is_reserved_by(other.hold("bob", OFFICE).await, "ann"));
    other
        .shows(|occupied| {
            occupied
                .get(&site.server)
                .is_some_and(|desk| !desk.closes_to("ann"))
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn there_are_bounds() {
    let site = Site::new();
    let relay = site.relay("one");
    let long = "a".repeat(MAX_NAME + 1);
    for name in ["", &long] {
        assert!(matches!(relay.hold(name, HOME).await, Err(Refused::Name)));
    }
    let mut logins = Vec::new();
    for n in 0..MOST_LOGINS {
        let login = relay.log_in("ann", &n.to_string()).await;
        logins.push(login.expect("she shares it"));
    }
    let refused = relay.log_in("ann", "more").await;
    assert!(
        matches!(refused, Err(Refused::TooManyLogins(_))),
        "{refused:?}"
    );

    for n in 0..=u8::try_from(TERMS.holds).expect("few") {
        let source = IpAddr::from([10, 1, 0, n]);
        let (server, account) = (name(&format!("n{n}")), format!("u{n}"));
        let hold = relay.reservations.hold(&server, &account, source);
        hold.await.expect("free");
    }
    let listed = relay.reservations.list().await.expect("listed");
    let holds = listed
        .values()
        .filter(|at| matches!(at, Occupation::Held { .. }));
    assert_eq!(holds.count(), TERMS.holds);
    assert!(!listed.contains_key(&name("n0")), "the oldest went");
}
