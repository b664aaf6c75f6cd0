//! Clients at the port of a node itself: public sessions of that node and of others, without a gateway.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::Ipv4Addr;

use std::thread;

use rustix::process::Signal;
use sallyport_tests::balancer::{CLIENT, PROXY, balancer, headers};
use sallyport_tests::service::{Certificate, Nginx, PythonPeer, python_talk, sha256};
use sallyport_tests::{Answer, Curl, Endless, Port, Relay, Site, eventually};
use serde_json::Value;

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn session(id: &str, port: u16, more: &str) -> String {
    format!(
        "[[session]]\nid = \"{id}\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{port}\"\n{more}\n"
    )
}

const PUBLIC: &str = "access = \"public\"";

/// Node `near`, which clients come to, and node `far`, which it reaches over the LAN.
struct Nodes {
    near: Relay,
    far: Relay,
    port: Port,
    certificate: Certificate,
    nginx: Nginx,
    _chat: PythonPeer,
    site: Site,
    _far_port: Port,
}

/// With more in `[direct]` of the near node, and after that.
fn nodes(of_direct: &str, of_near: &str) -> Nodes {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let chat = PythonPeer::serve(site.path(), "websocket_peer.py");
    let certificate = Certificate::make(site.path(), "node", "DNS:localhost");
    let (port, far_port) = (Port::reserve(), Port::reserve());
    let web = nginx.port.number();
    let direct = format!(
        "[direct]\nlisten = \"127.0.0.1:{number}\"\nurl = \"https://localhost:{number}\"\ncert = \"{}\"\nkey = \"{}\"\n{of_direct}\n",
        certificate.cert.display(),
        certificate.key.display(),
        number = port.number(),
    );
    // What a gateway would not let in either, and what it lets in.
    let sessions = |node: &str| {
        [
            session(&format!("{node}-open"), web, PUBLIC),
            session(&format!("{node}-login"), web, "access = \"login\""),
            session(
                &format!("{node}-elsewhere"),
                web,
                &format!("{PUBLIC}\nsources = [\"192.0.2.0/24\"]"),
            ),
            session(&format!("{node}-raw"), web, "access = \"public\"")
                .replace("\"http\"", "\"tcp\""),
            session(&format!("{node}-chat"), chat.port.number(), PUBLIC),
            session(
                &format!("{node}-down"),
                9,
                &format!("{PUBLIC}\nhealth = \"tcp\""),
            ),
        ]
        .concat()
    };
    let listen = format!("[direct]\nlisten = \"127.0.0.1:{}\"\n", far_port.number());
    let peer = format!(
        "[[peer]]\nnode = \"far\"\naddress = \"127.0.0.1:{}\"\n",
        far_port.number()
    );
    let fast = "health_every = \"1s\"\nhealth_failures = 1\n";
    let near = format!(
        "{direct}{peer}[limits]\n{fast}{of_near}\n{}",
        sessions("near")
    );
    let near = site.relay_stopped("near", &[], &near);
    let far = format!("{listen}[limits]\n{fast}{}", sessions("far"));
    let far = site.relay_stopped("far", &[], &far);
    assert!(near.command(&["cluster-key", "add"]).status.success());
    let keys = "cluster-keys.json";
    fs::copy(near.path().join(keys), far.path().join(keys)).expect("copied");
    Nodes {
        near: near.started(),
        far: far.started(),
        port,
        certificate,
        nginx,
        _chat: chat,
        site,
        _far_port: far_port,
    }
}

impl Nodes {
    fn up(self) -> Self {
        eventually("the other node's sessions are reached", || {
            self.get("far-open", &[]).status() == 200
        });
        self
    }

    fn curl(&self) -> Curl {
        Curl::new(&self.certificate.cert, self.site.path()).args(&["--ipv4", "--max-time", "20"])
    }

    fn url(&self, id: &str, path: &str) -> String {
        format!("https://localhost:{}/s/{id}{path}", self.port.number())
    }

    fn get(&self, id: &str, args: &[&str]) -> Answer {
        self.curl().args(args).arg(self.url(id, "/echo")).go()
    }
}

/// What a stranger sees of an answer: all but what differs by request.
fn seen(answer: &Answer, id: &str) -> String {
    let head = answer.head.lines();
    let same = head.filter(|line| {
        let line = line.to_ascii_lowercase();
        !["x-request-id", "date"]
            .iter()
            .any(|name| line.starts_with(name))
    });
    let lines: Vec<_> = same.collect();
    let request = answer.header("x-request-id").unwrap_or_default();
    let body = answer.text().replace(&request, "").replace(id, "");
    lines.join("\n") + &body
}

#[test]
fn public_sessions_of_any_node_are_reached_and_no_others() {
    let nodes = nodes("", "").up();
    for node in ["near", "far"] {
        for version in ["--http1.1", "--http2"] {
            let open = nodes.get(&format!("{node}-open"), &[version]).expect(200);
            let text = open.text();
            assert!(
                text.contains("for=127.0.0.1 proto=https prefix=/s/"),
                "{text}"
            );
        }
        let nobody = nodes.get("nobody", &[]).expect(404);
        for which in ["login", "elsewhere", "raw"] {
            let id = format!("{node}-{which}");
            let refused = nodes.get(&id, &[]).expect(404);
            assert_eq!(seen(&refused, &id), seen(&nobody, "nobody"), "{id}");
        }
        let down = format!("{node}-down");
        eventually("it is known to be down", || {
            nodes.get(&down, &[]).status() == 503
        });
    }

    let refused = nodes.far.log();
    assert!(
        refused.contains("stream not let in"),
        "the home decides: {refused}"
    );
    drop(
        nodes
            .curl()
            .arg(nodes.url("", "").replace("/s/", "/"))
            .go()
            .expect(404),
    );
    let other = ["-H", "Host: other.example.org"];
    assert_eq!(nodes.get("near-open", &other).status(), 421);
    let unknown = nodes.curl().args(&[
        "--connect-to",
        &format!("::localhost:{}", nodes.port.number()),
    ]);
    let unknown = unknown
        .arg("https://other.example.org/s/near-open/echo")
        .go();
    assert_eq!(unknown.exit, Some(35), "no handshake: {unknown:?}");
}

#[test]
fn a_lost_node_is_missed_by_name_and_one_that_was_not_heard_yet_as_well() {
    let mut nodes = nodes("", "").up();

    nodes.far.daemon().kill();
    eventually("its sessions are missed", || {
        nodes.get("far-open", &[]).status() == 503
    });
    drop(nodes.get("nobody", &[]).expect(404));

    nodes.near.daemon().kill();
    nodes.near.start();
    eventually("the node is there again", || {
        nodes.get("near-open", &[]).status() == 200
    });
    let unheard = nodes.get("far-open", &[]).expect(503);
    assert!(unheard.header("retry-after").is_some(), "{unheard:?}");
    nodes.far.start();
    eventually("it is reached again", || {
        nodes.get("far-open", &[]).status() == 200
    });
}

#[test]
fn websockets_and_bodies_pass_both_ways() {
    let nodes = nodes("", "").up();
    let ca = nodes.certificate.cert.display().to_string();
    for node in ["near", "far"] {
        let url = nodes
            .url(&format!("{node}-chat"), "/")
            .replace("https", "wss");
        python_talk("websocket_peer.py", &["talk", &url, &ca]);

        let sum = nodes.nginx.random_file(node, 3 << 20);
        let got = nodes.site.path().join("got");
        let url = nodes.url(&format!("{node}-open"), &format!("/{node}"));
        let fetched = nodes.curl().arg("--output").arg(&got).arg(&url).go();
        drop(fetched.expect(200));
        assert_eq!(sha256(&got), sum);
        let upload = nodes.url(&format!("{node}-open"), &format!("/upload/{node}"));
        drop(
            nodes
                .curl()
                .arg("--upload-file")
                .arg(&got)
                .arg(upload)
                .go()
                .expect(201),
        );
    }
}

#[test]
fn a_trusted_proxy_names_the_client_and_other_nodes_come_without_it() {
    let trusts =
        format!("trusted_proxies = [\"{PROXY}/32\", \"127.0.0.1/32\"]\nproxy_protocol = true");
    let nodes = nodes(&trusts, "");
    let through = |header: Vec<u8>, id: &str, args: &[&str]| {
        let front = balancer(nodes.port.number(), header);
        let to = format!("::127.0.0.1:{front}");
        nodes.get(id, &[&["--connect-to", &to], args].concat())
    };
    for header in headers() {
        for id in ["near-open", "far-open"] {
            eventually("it is reached", || {
                through(header.clone(), id, &[]).status() == 200
            });
            let spoofed = ["-H", "X-Forwarded-For: 198.51.100.7"];
            let answer = through(header.clone(), id, &spoofed).expect(200);
            let text = answer.text();
            assert!(text.contains(&format!("for={CLIENT} ")), "{text}");
        }
    }
    let bare = nodes.get("near-open", &[]);
    assert!(bare.exit != Some(0) && bare.head.is_empty(), "{bare:?}");

    // A node at a trusted address dials by itself and sends no header.
    let other = format!(
        "[[peer]]\nnode = \"near\"\naddress = \"127.0.0.1:{}\"\n",
        nodes.port.number()
    );
    let other = nodes.site.relay_stopped("other", &[], &other);
    let keys = "cluster-keys.json";
    fs::copy(nodes.near.path().join(keys), other.path().join(keys)).expect("copied");
    let other = other.started();
    drop(other.wait_for_line(&["peer tunnel up", "near"]));
}

#[test]
fn a_proxy_that_speaks_http_is_believed_where_it_is_trusted_and_nobody_else() {
    let nodes = nodes(&format!("trusted_proxies = [\"{PROXY}/32\"]"), "").up();
    let told = ["-H", "X-Forwarded-For: 203.0.113.9"];
    let from = |address: Ipv4Addr| {
        let interface = address.to_string();
        let args = [&told[..], &["--interface", &interface]].concat();
        nodes.get("far-open", &args).expect(200).text()
    };

    let believed = from(PROXY);
    assert!(
        believed.contains(&format!("for={CLIENT}, {PROXY}")),
        "{believed}"
    );
    let own = from(HERE);
    assert!(own.contains("for=127.0.0.1 "), "{own}");
}

#[test]
fn a_new_certificate_is_taken_on_sighup_and_a_broken_one_is_not() {
    let mut nodes = nodes("", "").up();
    let new = Certificate::make(nodes.site.path(), "new", "DNS:localhost");
    fs::copy(&new.key, &nodes.certificate.key).expect("copied");
    let old = nodes.site.path().join("old.pem");
    fs::rename(&nodes.certificate.cert, &old).expect("renamed");
    fs::copy(&new.cert, &nodes.certificate.cert).expect("copied");

    nodes.near.daemon().signal(Signal::HUP);
    drop(
        nodes
            .near
            .wait_for_line(&["certificate read again", "[direct]"]),
    );
    drop(nodes.get("near-open", &[]).expect(200));

    fs::write(&nodes.certificate.cert, "nothing").expect("writable");
    nodes.near.daemon().signal(Signal::HUP);
    drop(
        nodes
            .near
            .wait_for_line(&["the old certificate stays", "[direct]"]),
    );
    let checked = nodes.near.command(&["check"]);
    assert_eq!(checked.status.code(), Some(78), "{checked:?}");
    fs::copy(&new.cert, &nodes.certificate.cert).expect("copied");
    drop(nodes.get("near-open", &[]).expect(200));
}

impl Nodes {
    fn endless(&self) -> Endless {
        Endless::lay(&self.nginx.root);
        let url = self.url("near-open", "/large");
        let endless = Endless::of(&url, &self.certificate.cert);
        eventually("the download is listed", || is_listed(&self.near));
        endless
    }
}

/// Whether a stream of a client of its own port is open.
fn is_listed(relay: &Relay) -> bool {
    let status = relay.status().unwrap_or_default();
    let rows = status.get("streams").and_then(Value::as_array).cloned();
    let rows = rows.unwrap_or_default();
    rows.iter().any(|row| row["transport"] == "direct")
}

#[test]
fn connections_and_streams_of_clients_are_limited() {
    for (limit, is_told) in [
        ("connections", false),
        ("connections_per_source", false),
        ("client_streams", true),
        ("client_streams_per_source", true),
    ] {
        let nodes = nodes("", &format!("{limit} = 1"));
        drop(
            nodes
                .near
                .wait_for_line(&["other nodes of the cluster may come in"]),
        );
        let first = nodes.endless();

        let second = nodes.get("near-open", &[]);

        let expected = if is_told { 503 } else { 0 };
        assert_eq!(second.status(), expected, "{limit}: {second:?}");
        drop(first);
        eventually("there is room again", || {
            nodes.get("near-open", &[]).status() == 200
        });
    }
}

#[test]
fn a_drain_waits_for_what_clients_have_open() {
    let mut nodes = nodes("", "").up();
    let whole = vec![b'x'; 16 << 20];
    fs::write(nodes.nginx.root.join("slow"), &whole).expect("writable");
    let slow = nodes
        .curl()
        .args(&["--limit-rate", "4M"])
        .arg(nodes.url("far-open", "/slow"));
    let getting = thread::spawn(move || slow.go());
    eventually("the stream is listed", || is_listed(&nodes.near));

    let ended = nodes.near.daemon().terminate();

    assert!(ended.success(), "{ended}");
    let answer = getting.join().expect("curl ran").expect(200);
    assert_eq!(answer.body.len(), whole.len());
}
