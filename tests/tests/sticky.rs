//! What keeps clients with one member of a pool: a cookie of the gateway, their address, or nothing.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use sallyport_tests::member::{http_service, service, source, visit};
use sallyport_tests::service::{Certificate, Nginx, PythonPeer};
use sallyport_tests::{Answer, BOUND, Curl, Gateway, Port, Raw, Relay, Site, eventually};
use serde_json::Value;

const PATH: &str = "__Secure-sallyport-pool";
const HOST: &str = "__Host-sallyport-pool";

/// What a hostile member would like clients to show.
const EVIL: &str = "00000000000000000000000000000bad";

struct Pool {
    gateway: Gateway,
    a: Relay,
    b: Relay,
    _apps: [Nginx; 2],
    site: Site,
}

/// A program that tells its name and the cookies that it was shown, has one of its own, and sets ours.
fn app(site: &Site, name: &str) -> Nginx {
    let cookies = [
        "theme=dark; Path=/".to_owned(),
        format!("{PATH}={EVIL}; Path=/s/web/; Secure"),
        format!("{HOST}={EVIL}; Path=/; Secure"),
        format!("={HOST}={EVIL}; Path=/; Secure"),
    ];
    let set: String = cookies
        .iter()
        .map(|cookie| format!("add_header Set-Cookie \"{cookie}\" always; "))
        .collect();
    let who = format!("{set} location = /who {{ return 200 \"{name} saw $http_cookie\"; }}");
    let folder = site.path().join(name);
    Nginx::start(&folder, &who)
}

fn member(name: &str, port: u16, sticky: &str) -> String {
    format!(
        "[[session]]\nid = \"web-{name}\"\npool = \"web\"\nprotocol = \"http\"\naccess = \"public\"\n\
         target = \"127.0.0.1:{port}\"\n{sticky}\n"
    )
}

const COOKIE: &str = "sticky = \"cookie\"";

/// A pool whose clients are known by a cookie. Its second member is not up before it is started.
fn pool(site: Site, gateway: Gateway) -> Pool {
    let apps = ["a", "b"].map(|name| app(&site, name));
    let [a, b] = [("a", &apps[0]), ("b", &apps[1])].map(|(name, app)| {
        let session = member(name, app.port.number(), COOKIE);
        site.relay_stopped(&format!("node-{name}"), &[&gateway], &session)
    });
    let a = a.started();
    gateway.wait_session("web-a");
    Pool {
        gateway,
        a,
        b,
        _apps: apps,
        site,
    }
}

impl Pool {
    fn new() -> Self {
        let site = Site::new();
        let gateway = site.gateway("gw");
        pool(site, gateway)
    }

    fn both(mut self) -> Self {
        self.b.start();
        self.gateway.wait_session("web-b");
        self
    }

    fn url(&self) -> String {
        self.gateway.session_url("web", "/who")
    }

    /// A browser's memory, empty at first.
    fn jar(&self, number: usize) -> PathBuf {
        self.site.path().join(format!("jar-{number}"))
    }

    fn ask_with(&self, jar: &Path) -> Answer {
        let curl = with_jar(self.gateway.curl(), jar);
        curl.arg(self.url()).go().expect(200)
    }

    /// The member that each of these jars meets.
    fn met(&self, jars: &[PathBuf]) -> Vec<String> {
        jars.iter().map(|jar| name(&self.ask_with(jar))).collect()
    }
}

fn with_jar(curl: Curl, jar: &Path) -> Curl {
    curl.arg("--cookie").arg(jar).arg("--cookie-jar").arg(jar)
}

/// The member that answered.
fn name(answer: &Answer) -> String {
    let text = answer.text();
    let (name, saw) = text.split_once(" saw ").expect("an answer of a member");
    assert!(!saw.contains("sallyport"), "a member saw {saw}");
    name.to_owned()
}

/// The cookies of ours that an answer sets.
fn given(answer: &Answer) -> Vec<&str> {
    let head = answer.head.lines();
    let set = head.filter_map(|line| line.split_once(": "));
    set.filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))
        .map(|(_, value)| value)
        .filter(|value| value.contains("sallyport"))
        .collect()
}

fn both() -> BTreeSet<String> {
    ["a", "b"].map(str::to_owned).into()
}

#[test]
fn a_cookie_keeps_a_client_with_its_member_and_is_for_the_gateway_alone() {
    let pool = Pool::new().both();
    let jar = pool.jar(1);

    let first = pool.ask_with(&jar);
    let ours = given(&first);
    assert!(
        matches!(ours[..], [one] if one.starts_with(&format!("{PATH}="))
            && one.ends_with("; Path=/s/web/; Secure; HttpOnly; SameSite=Lax") && !one.contains(EVIL)),
        "{}",
        first.head
    );
    for version in ["--http1.1", "--http2"].into_iter().cycle().take(20) {
        let curl = with_jar(pool.gateway.curl(), &jar);
        let again = curl.arg(version).arg(pool.url()).go().expect(200);
        assert_eq!(name(&again), name(&first));
        assert!(again.text().ends_with("saw theme=dark"), "{}", again.text());
        assert!(given(&again).is_empty(), "{}", again.head);
    }

    let strangers = (0..40).map(|_| pool.gateway.curl().arg(pool.url()).go().expect(200));
    let met: BTreeSet<String> = strangers.map(|answer| name(&answer)).collect();
    assert_eq!(met, both(), "without it, clients are spread");

    let forged = format!("{PATH}=node-a");
    let curl = pool.gateway.curl().args(&["--cookie", &forged]);
    let answer = curl.arg(pool.url()).go().expect(200);
    assert_eq!(given(&answer).len(), 1, "a forged one is replaced");
    assert_eq!(name(&answer).len(), 1);
}

#[test]
fn a_client_moves_when_its_member_goes_and_stays_where_it_is_then() {
    let mut pool = Pool::new().both();
    // So many that some begin at each.
    let jars: Vec<_> = (0..30).map(|number| pool.jar(number)).collect();
    assert_eq!(BTreeSet::from_iter(pool.met(&jars)), both());

    assert!(pool.a.daemon().terminate().success());
    for jar in &jars {
        let answer = pool.ask_with(jar);
        assert_eq!(name(&answer), "b");
        assert!(given(&answer).is_empty(), "its cookie is still good");
    }
    pool.a.start();
    pool.gateway.wait_session("web-a");
    assert_eq!(pool.met(&jars), ["b"; 30], "who moved stays");

    let drained = pool.b.command(&["drain", "node-b"]);
    assert!(drained.status.success(), "{drained:?}");
    eventually("a drain sends clients to the other member", || {
        pool.met(&jars) == ["a"; 30]
    });
}

#[test]
fn a_member_that_comes_takes_nobody_away() {
    let pool = Pool::new();
    let jars: Vec<_> = (0..12).map(|number| pool.jar(number)).collect();
    assert_eq!(pool.met(&jars), ["a"; 12]);

    let pool = pool.both();

    assert_eq!(pool.met(&jars), ["a"; 12]);
    let strangers = (0..40).map(|_| pool.gateway.curl().arg(pool.url()).go().expect(200));
    let met: BTreeSet<String> = strangers.map(|answer| name(&answer)).collect();
    assert_eq!(met, both(), "it has its share of new ones");
}

#[test]
fn a_gateway_that_has_forgotten_all_sends_clients_to_the_same_members() {
    let mut pool = Pool::new().both();
    let jars: Vec<_> = (0..12).map(|number| pool.jar(number)).collect();
    let before = pool.met(&jars);

    assert!(pool.gateway.daemon().terminate().success());
    pool.gateway.start();
    pool.gateway.wait_ready();
    for session in ["web-a", "web-b"] {
        pool.gateway.wait_session(session);
    }

    assert_eq!(pool.met(&jars), before);
}

#[test]
fn a_pool_with_a_host_of_its_own_has_a_cookie_of_that_host() {
    let site = Site::new();
    let names = "IP:127.0.0.1,DNS:*.sessions.example.org";
    let certificate = Certificate::make(site.path(), "site", names);
    let args = certificate.init_args();
    let mut gateway = site.gateway_init("gw", "127.0.0.1", &args.each_ref().map(String::as_str));
    gateway.extend("sessions_domain = \"sessions.example.org\"\n");
    gateway.start();
    gateway.wait_ready();
    let pool = pool(site, gateway).both();
    let port = pool.gateway.port();
    let host = format!("web.sessions.example.org:{port}");
    let jar = pool.jar(1);
    let ask = || {
        with_jar(pool.gateway.curl(), &jar)
            .args(&["--resolve", &format!("{host}:127.0.0.1")])
            .arg(format!("https://{host}/who"))
            .go()
            .expect(200)
    };

    let first = ask();
    let ours = given(&first);
    assert!(
        matches!(ours[..], [one] if one.starts_with(&format!("{HOST}="))
            && one.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax") && !one.contains(EVIL)),
        "{}",
        first.head
    );
    for _ in 0..10 {
        let again = ask();
        assert_eq!(name(&again), name(&first));
        assert!(given(&again).is_empty(), "{}", again.head);
    }
}

const OPEN: &str = "GET /s/web/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A WebSocket that is open, and the head of its answer.
fn open(gateway: &Gateway, cookie: &str) -> (Raw, String) {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, gateway.port()));
    let mut raw = Raw::connect(to, "http/1.1");
    raw.send(format!("{OPEN}{cookie}\r\n").as_bytes());
    let head = raw.read_until(b"\r\n\r\n", BOUND);
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    (raw, head)
}

/// The sessions of the streams that are open now.
fn carried(gateway: &Gateway) -> Vec<String> {
    let status = gateway.status().unwrap_or_default();
    let streams = status.get("streams").and_then(Value::as_array).cloned();
    let session = |stream: &Value| stream.get("session")?.as_str().map(str::to_owned);
    streams
        .unwrap_or_default()
        .iter()
        .filter_map(session)
        .collect()
}

#[test]
fn websockets_go_by_the_cookie() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let _members = ["a", "b"].map(|name| {
        let folder = site.path().join(name);
        std::fs::create_dir(&folder).expect("the folder is writable");
        let peer = PythonPeer::serve(&folder, "websocket_peer.py");
        let session = member(name, peer.port.number(), COOKIE);
        let relay = site.relay(&format!("node-{name}"), &gateway, &session);
        gateway.wait_session(&format!("web-{name}"));
        (peer, relay)
    });

    let (first, head) = open(&gateway, "");
    let set = head
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "));
    let (cookie, _) = set.and_then(|set| set.split_once(';')).expect("a cookie");
    let more: Vec<_> = (0..7)
        .map(|_| open(&gateway, &format!("Cookie: {cookie}\r\n")))
        .collect();

    assert!(more.iter().all(|(_, head)| !head.contains("set-cookie")));
    let sessions = carried(&gateway);
    assert_eq!(sessions.len(), 8, "{sessions:?}");
    assert!(
        sessions.iter().all(|session| session == &sessions[0]),
        "{sessions:?}"
    );
    drop((first, more));
}

#[test]
fn a_source_stays_with_its_member_of_an_http_pool_where_that_is_asked() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let _relays = ["a", "b"].map(|name| {
        let session = member(name, http_service(name), "sticky = \"source\"");
        let relay = site.relay(&format!("node-{name}"), &gateway, &session);
        gateway.wait_session(&format!("web-{name}"));
        relay
    });
    let ask = |number| {
        let from = source(number).to_string();
        let curl = gateway.curl().args(&["--interface", &from]);
        let answer = curl.arg(gateway.session_url("web", "/")).go().expect(200);
        assert!(given(&answer).is_empty(), "{}", answer.head);
        answer.text()
    };

    let before: Vec<String> = (1..=8).map(ask).collect();
    assert_eq!(BTreeSet::from_iter(before.iter().cloned()), both());
    for _ in 0..3 {
        // Nine in a round, so that whoever has a turn is another one each time.
        assert_eq!((1..=8).map(ask).collect::<Vec<_>>(), before);
        let _turn = ask(9);
    }
}

#[test]
fn a_raw_port_is_balanced_anew_for_each_connection_where_nothing_is_sticky() {
    let site = Site::new();
    let port = Port::reserve();
    let listen = format!(
        "[[tcp]]\nlisten = \"127.0.0.1:{}\"\npool = \"web\"\n",
        port.number()
    );
    let gateway = site.gateway_with("gw", "127.0.0.1", &listen);
    let _relays = ["a", "b"].map(|name| {
        let session = member(name, service(name), "sticky = \"none\"").replace("http", "tcp");
        let relay = site.relay(&format!("node-{name}"), &gateway, &session);
        gateway.wait_session(&format!("web-{name}"));
        relay
    });

    let visits = (0..20).map(|_| visit(port.number(), source(1)));
    let met: BTreeSet<String> = visits.collect();
    assert_eq!(met, ["a hello", "b hello"].map(str::to_owned).into());
}

#[test]
fn status_shows_what_is_sticky() {
    let pool = Pool::new();
    for (status, id) in [(pool.gateway.status(), "web-a"), (pool.a.status(), "web-a")] {
        let status = status.expect("it runs");
        let sessions = status.get("sessions").and_then(Value::as_array);
        let found = sessions
            .into_iter()
            .flatten()
            .find(|session| session["id"] == id);
        assert_eq!(found.expect("shown")["sticky"], "cookie", "{status}");
    }
}
