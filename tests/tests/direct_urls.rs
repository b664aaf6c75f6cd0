//! Direct URLs: clients who are led to a session's own node, by a ticket or by a redirect, and pages that find out whether
//! they would get there.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;

use sallyport_tests::service::{Certificate, Nginx};
use sallyport_tests::{Answer, Curl, Gateway, Port, Relay, Site, eventually, eventually_some};
use serde_json::Value;

/// Node `near` with a gateway, which sends browsers on; `twin`, which does so, too, under the URL of `far`; and `far`, which
/// has the sessions.
struct Nodes {
    near: Relay,
    twin: Relay,
    far: Relay,
    ports: [Port; 3],
    certificate: Certificate,
    gateway: Gateway,
    _nginx: Nginx,
    site: Site,
}

fn session(id: &str, port: u16, access: &str) -> String {
    format!(
        "[[session]]\nid = \"{id}\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{port}\"\naccess = \"{access}\"\n"
    )
}

fn nodes() -> Nodes {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let certificate = Certificate::make(site.path(), "node", "DNS:localhost");
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    let [near_port, twin_port, far_port] = [0, 1, 2].map(|nth: usize| ports[nth].number());
    let direct = |listen: u16, url: u16, more: &str| {
        format!(
            "[direct]\nlisten = \"127.0.0.1:{listen}\"\nurl = \"https://localhost:{url}\"\ncert = \"{}\"\nkey = \"{}\"\n{more}\n",
            certificate.cert.display(),
            certificate.key.display(),
        )
    };
    let to_far = format!("[[peer]]\nnode = \"far\"\naddress = \"127.0.0.1:{far_port}\"\n");
    let web = nginx.port.number();
    let gateway = site.gateway("gateway");
    let sends = "redirect = true";
    let near = direct(near_port, near_port, sends) + &to_far + &session("near-open", web, "public");
    let near = site.relay_stopped("near", &[&gateway], &near);
    let twin = direct(twin_port, far_port, sends) + &to_far;
    let twin = site.relay_stopped("twin", &[], &twin);
    let sessions = [
        session("far-open", web, "public"),
        session("far-login", web, "login"),
        session("far-other", web, "login"),
    ];
    let far = direct(far_port, far_port, "") + "[limits]\ntickets = 2\n" + &sessions.concat();
    let far = site.relay_stopped("far", &[], &far);
    assert!(near.command(&["cluster-key", "add"]).status.success());
    for other in [&twin, &far] {
        let keys = "cluster-keys.json";
        fs::copy(near.path().join(keys), other.path().join(keys)).expect("copied");
    }
    let nodes = Nodes {
        near: near.started(),
        twin: twin.started(),
        far: far.started(),
        ports,
        certificate,
        gateway,
        _nginx: nginx,
        site,
    };
    for port in [near_port, twin_port] {
        eventually("the other node's sessions are reached", || {
            nodes.get(port, "/s/far-open/echo", &[]).status() == 200
        });
    }
    nodes
}

impl Nodes {
    fn near(&self) -> u16 {
        self.ports[0].number()
    }

    fn far(&self) -> u16 {
        self.ports[2].number()
    }

    fn curl(&self, url: &str, args: &[&str]) -> Answer {
        Curl::new(&self.certificate.cert, self.site.path())
            .args(&["--ipv4", "--max-time", "20"])
            .args(args)
            .arg(url)
            .go()
    }

    fn get(&self, port: u16, path: &str, args: &[&str]) -> Answer {
        self.curl(&format!("https://localhost:{port}{path}"), args)
    }

    /// What `near` says when it is asked for a way to a session.
    fn direct_url(&self, session: &str) -> Value {
        let made = self.near.command(&["direct-url", session, "--json"]);
        assert!(made.status.success(), "{made:?}");
        serde_json::from_slice(&made.stdout).expect("JSON")
    }

    /// Enters a session by a ticket.
    fn enter(&self, session: &str, args: &[&str]) -> Answer {
        let made = self.direct_url(session);
        self.curl(made["url"].as_str().expect("a URL"), args)
    }
}

/// An answer but for the request's id and the time.
fn seen(answer: &Answer) -> String {
    let request = answer.header("x-request-id").unwrap_or_default();
    let lines = answer.head.lines();
    let same = lines.filter(|line| !line.to_ascii_lowercase().starts_with("date"));
    let head: Vec<_> = same.collect();
    (head.join("\n") + &answer.text()).replace(&request, "")
}

fn cookie(answer: &Answer) -> String {
    let set = answer.header("set-cookie").expect("a cookie");
    for word in ["__Host-sallyport=", "Secure", "HttpOnly", "Path=/"] {
        assert!(set.contains(word), "{set}");
    }
    let pair = set.split(';').next().unwrap_or_default();
    format!("Cookie: {pair}")
}

#[test]
fn a_ticket_lets_in_to_one_session_at_its_own_node_once() {
    let nodes = nodes();
    let unknown = seen(&nodes.get(nodes.far(), "/nothing", &[]).expect(404));
    let strange = nodes.get(nodes.far(), "/s/far-login/echo", &[]).expect(404);

    // as soon as a direct URL is told
    drop(nodes.enter("far-login", &[]).expect(303));
    let made = nodes.direct_url("far-login");
    let url = made["url"].as_str().expect("a URL").to_owned();
    assert!(
        url.starts_with(&format!("https://localhost:{}/.sallyport/", nodes.far())),
        "{url}"
    );
    assert_eq!(
        (&made["node"], &made["seconds"]),
        (&"far".into(), &20.into())
    );
    for method in ["HEAD", "POST", "OPTIONS"] {
        let args: &[&str] = if method == "HEAD" {
            &["--head"]
        } else {
            &["-X", method]
        };
        assert_eq!(nodes.curl(&url, args).status(), 404, "{method}");
    }
    let elsewhere = url.replace("far-login", "far-other");
    assert_eq!(seen(&nodes.curl(&elsewhere, &[]).expect(404)), unknown);
    let entered = nodes.curl(&url, &[]).expect(303);
    assert_eq!(entered.header("location").as_deref(), Some("/s/far-login/"));
    assert_eq!(seen(&nodes.curl(&url, &[]).expect(404)), unknown, "once");

    let pass = cookie(&entered);
    let with = |path: &str| nodes.get(nodes.far(), path, &["-H", &pass]);
    let inside = with("/s/far-login/echo").expect(200);
    assert!(!inside.text().contains("__Host"), "{inside:?}");
    assert_eq!(with("/s/far-other/echo").status(), 404);
    let through = nodes.get(nodes.near(), "/s/far-login/echo", &["-H", &pass]);
    assert_eq!(seen(&through.expect(404)), seen(&strange), "there alone");

    // Of those that were used within a life of a ticket, two are remembered, and more are not taken.
    eventually("there are no more places", || {
        let more = nodes.enter("far-other", &["-H", &pass]);
        let is_refused = more.status() == 404 && seen(&more) == unknown;
        is_refused && nodes.far.log().contains("limits.tickets")
    });
}

#[test]
fn a_node_that_was_started_again_takes_new_tickets_at_once_and_none_of_before() {
    let mut nodes = nodes();
    let direct_url = |nodes: &Nodes| {
        let made = nodes.near.command(&["direct-url", "far-login", "--json"]);
        let made: Option<Value> = serde_json::from_slice(&made.stdout).ok();
        made.and_then(|made| made["url"].as_str().map(str::to_owned))
    };
    let before = direct_url(&nodes).expect("it is told");

    nodes.far.daemon().kill();
    eventually("the node is missed", || direct_url(&nodes).is_none());
    nodes.far.start();
    let after = eventually_some("it is told again", || direct_url(&nodes));

    assert_eq!(nodes.curl(&before, &[]).status(), 404);
    drop(
        nodes
            .far
            .wait_for_line(&["a ticket was not taken", "before it was started again"]),
    );
    drop(nodes.curl(&after, &[]).expect(303));
}

#[test]
fn a_direct_url_is_made_where_there_is_one_and_says_what_is_missing() {
    let nodes = nodes();
    let refused = |relay: &Relay, session: &str| {
        let asked = relay.command(&["direct-url", session]);
        assert_eq!(asked.status.code(), Some(1), "{asked:?}");
        String::from_utf8_lossy(&asked.stderr).into_owned()
    };

    let nobodys = refused(&nodes.near, "nobody");
    assert!(
        nobodys.contains("no node is known to have a session `nobody`"),
        "{nobodys}"
    );
    let own = nodes.direct_url("near-open");
    assert_eq!(own["node"], "near");
    let said = nodes.near.command(&["direct-url", "near-open"]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("opens session near-open on node near"));

    let servers = nodes.near.command(&["servers", "--json"]).stdout;
    let servers: Value = serde_json::from_slice(&servers).expect("JSON");
    let (gateway, direct) = (
        nodes.gateway.url(),
        format!("https://localhost:{}", nodes.near()),
    );
    assert_eq!(servers[0]["urls"], serde_json::json!([gateway, direct]));

    let bare = nodes
        .site
        .relay_stopped("bare", &[], &session("desk", 9, "login"));
    let mut bare = bare.started();
    eventually("it is there", || bare.status().is_some());
    let shut = refused(&bare, "desk");
    assert!(shut.contains("node bare lets no clients in"), "{shut}");
    assert!(bare.daemon().terminate().success());
}

/// What a browser says of a request that opens a page.
const OPENS: [&str; 4] = [
    "-H",
    "Sec-Fetch-Mode: navigate",
    "-H",
    "Sec-Fetch-Dest: document",
];

#[test]
fn a_browser_that_opens_a_page_is_sent_on_and_all_else_is_passed_on() {
    let mut nodes = nodes();
    let at = |session: &str| format!("/s/{session}/echo?a=%2F&b");
    let far = format!("https://localhost:{}", nodes.far());

    let sent = nodes.get(nodes.near(), &at("far-open"), &OPENS).expect(307);
    assert_eq!(sent.header("location"), Some(far + &at("far-open")));
    assert_eq!(sent.header("cache-control").as_deref(), Some("no-store"));

    let embedded = [
        "-H",
        "Sec-Fetch-Mode: navigate",
        "-H",
        "Sec-Fetch-Dest: iframe",
    ];
    let posted = [&OPENS[..], &["--data", "x"]].concat();
    for (port, session, args) in [
        (nodes.near(), "far-open", &[][..]),
        (nodes.near(), "far-open", &embedded[..]),
        (nodes.near(), "far-open", &posted[..]),
        (nodes.near(), "near-open", &OPENS[..]),
        (nodes.far(), "far-open", &OPENS[..]),
        // under one common name there is nowhere else to go
        (nodes.ports[1].number(), "far-open", &OPENS[..]),
    ] {
        assert_eq!(
            nodes.get(port, &at(session), args).status(),
            200,
            "{port} {session} {args:?}"
        );
    }
    for session in ["far-login", "nobody"] {
        assert_eq!(
            nodes.get(nodes.near(), &at(session), &OPENS).status(),
            404,
            "{session}"
        );
    }

    nodes.far.daemon().kill();
    eventually("nobody is sent to a node that is lost", || {
        nodes.get(nodes.near(), &at("far-open"), &OPENS).status() == 503
    });
    assert!(nodes.twin.status().is_some());
}

#[test]
fn pages_of_the_gateways_find_out_whether_a_node_is_reached_and_no_others() {
    let nodes = nodes();
    let probe = nodes.direct_url("near-open")["probe"].clone();
    let probe = probe.as_str().expect("a URL");
    let unknown = seen(&nodes.get(nodes.near(), "/nothing", &[]).expect(404));
    let origin = format!("Origin: {}", nodes.gateway.url());

    let reached = nodes.curl(probe, &["-H", &origin]).expect(204);
    let allowed = reached.header("access-control-allow-origin");
    assert_eq!(allowed.as_deref(), Some(nodes.gateway.url()));
    assert_eq!(reached.header("vary").as_deref(), Some("Origin"));
    assert!(reached.body.is_empty());
    let private = "Access-Control-Request-Private-Network: true";
    let asked = nodes.curl(probe, &["-X", "OPTIONS", "-H", &origin, "-H", private]);
    let answer = asked
        .expect(204)
        .header("access-control-allow-private-network");
    assert_eq!(answer.as_deref(), Some("true"));

    let other = "Origin: https://gw.example.org";
    for args in [
        &[][..],
        &["-H", other][..],
        &["-H", "Origin: null"][..],
        &["-H", &origin, "-H", other][..],
        &["-H", &origin, "-X", "POST"][..],
    ] {
        assert_eq!(
            seen(&nodes.curl(probe, args).expect(404)),
            unknown,
            "{args:?}"
        );
    }
    let far = nodes.get(nodes.far(), "/.sallyport/probe", &["-H", &origin]);
    assert_eq!(far.status(), 404, "it knows of no gateway");
}
