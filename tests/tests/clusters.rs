//! Several clusters on one gateway: the same names on each side, and nothing of one is found, taken or ended by another.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use sallyport_tests::client::Answer;
use sallyport_tests::service::Certificate;
use sallyport_tests::{BOUND, Curl, Gateway, Port, Relay, Site, eventually};
use serde_json::Value;

/// The default cluster, and two more.
const CLUSTERS: [&str; 3] = ["", "bio", "geo"];

/// Answers every request with `name`, and connections that ask nothing as well.
fn service(name: &str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let name = name.to_owned();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let name = name.clone();
            thread::spawn(move || talk(client, &name));
        }
    });
    port
}

/// Answers every datagram with `name`.
fn datagram_service(name: &str) -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = socket.local_addr().expect("bound").port();
    let name = name.to_owned();
    thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _lost = socket.send_to(name.as_bytes(), from);
        }
    });
    port
}

/// Until the client is done, an answer for each empty line.
fn talk(mut client: TcpStream, name: &str) -> Option<()> {
    let mut tail = [0; 4];
    let mut byte = [0; 1];
    while client.read(&mut byte).ok()? > 0 {
        tail.rotate_left(1);
        *tail.last_mut()? = *byte.first()?;
        if tail == *b"\r\n\r\n" {
            let length = name.len();
            write!(
                client,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}"
            )
            .ok()?;
        }
    }
    client.write_all(name.as_bytes()).ok()?;
    client.shutdown(Shutdown::Write).ok()
}

fn session(id: &str, protocol: &str, port: u16) -> String {
    format!(
        "[[session]]\nid = \"{id}\"\nprotocol = \"{protocol}\"\ntarget = \"127.0.0.1:{port}\"\naccess = \"public\"\n"
    )
}

/// What a cluster is called in files and answers.
const fn called(cluster: &str) -> &str {
    if cluster.is_empty() {
        "default"
    } else {
        cluster
    }
}

/// The session that only this cluster has.
fn own_session(cluster: &str) -> String {
    format!("only-{}", called(cluster))
}

fn key_file(site: &Site, cluster: &str) -> PathBuf {
    site.path().join(format!("{}.json", called(cluster)))
}

struct Clusters {
    gateway: Gateway,
    /// Of each cluster, all on a node of the same name.
    relays: Vec<Relay>,
    /// Raw ports to `shell` of each cluster, and to its pool `shells`.
    ports: Vec<[Port; 2]>,
    /// Ports for datagrams to `names` of each cluster.
    datagrams: Vec<Port>,
    /// Of the relays that end TLS themselves for `desk` of each cluster.
    desk: Certificate,
    site: Site,
    _folders: Vec<Site>,
}

/// The name under which TLS to `desk` of a cluster passes through.
fn desk_of(cluster: &str) -> String {
    format!("desk.{}.example.org", called(cluster))
}

/// What [`datagrams`](Clusters::datagrams) and `desk` of each cluster need of the gateway.
fn blind(gateway: &Gateway) -> Vec<Port> {
    let ports: Vec<_> = CLUSTERS.iter().map(|_| Port::reserve()).collect();
    for (cluster, port) in CLUSTERS.iter().zip(&ports) {
        gateway.extend(&format!(
            "[[udp]]\nlisten = \"127.0.0.1:{}\"\nsession = \"names\"\ncluster = \"{cluster}\"\n\
             [[passthrough]]\nsni = \"{}\"\nsession = \"desk\"\ncluster = \"{cluster}\"\n",
            port.number(),
            desk_of(cluster),
        ));
    }
    ports
}

/// A gateway of three clusters. Each has a node `node-1` with the sessions `notebook`, `shell`, `names`, `desk` and one of its
/// own.
fn clusters() -> Clusters {
    let site = Site::new();
    let hosts =
        ["bio", "geo"].map(|name| format!("DNS:{name}.example.org,DNS:*.s.{name}.example.org"));
    let certificate = Certificate::make(
        site.path(),
        "site",
        &format!("IP:127.0.0.1,{}", hosts.join(",")),
    );
    let args = certificate.init_args();
    let mut gateway = site.gateway_init("gw", "127.0.0.1", &args.each_ref().map(String::as_str));
    let ports: Vec<_> = CLUSTERS
        .iter()
        .map(|_| [Port::reserve(), Port::reserve()])
        .collect();
    for (cluster, [shell, shells]) in CLUSTERS.iter().zip(&ports) {
        let raw = |port: &Port, to: &str| {
            format!(
                "[[tcp]]\nlisten = \"127.0.0.1:{}\"\n{to}\ncluster = \"{cluster}\"\n",
                port.number()
            )
        };
        gateway.extend(&(raw(shell, "session = \"shell\"") + &raw(shells, "pool = \"shells\"")));
    }
    let datagrams = blind(&gateway);
    for name in ["bio", "geo"] {
        gateway.extend(&format!(
            "[[cluster]]\nname = \"{name}\"\nhost = \"{name}.example.org\"\nsessions_domain = \"s.{name}.example.org\"\n"
        ));
    }
    fs::copy(gateway.path().join("gateway.json"), key_file(&site, "")).expect("init wrote it");
    for name in ["bio", "geo"] {
        let out = key_file(&site, name).display().to_string();
        let added = gateway.command(&["key", "add", "--cluster", name, "--out", &out]);
        assert!(added.status.success(), "{added:?}");
    }
    gateway.start();
    gateway.wait_ready();
    let folders: Vec<_> = CLUSTERS.iter().map(|_| Site::new()).collect();
    let names = CLUSTERS.map(|cluster| format!("DNS:{}", desk_of(cluster)));
    let desk = Certificate::make(site.path(), "desk", &names.join(","));
    let relays = CLUSTERS.iter().zip(&folders);
    let relays = relays
        .map(|(cluster, folder)| relay(folder, &site, cluster, &desk))
        .collect();
    let clusters = Clusters {
        gateway,
        relays,
        ports,
        datagrams,
        desk,
        site,
        _folders: folders,
    };
    for cluster in CLUSTERS {
        for id in ["notebook", "shell", "names", "desk", &own_session(cluster)] {
            clusters.wait_session(cluster, id);
        }
    }
    clusters
}

fn relay(folder: &Site, site: &Site, cluster: &str, desk: &Certificate) -> Relay {
    let port = service(called(cluster));
    let ended = format!(
        "tls = {{ cert = \"{}\", key = \"{}\" }}\n",
        desk.cert.display(),
        desk.key.display()
    );
    let config = session("notebook", "http", port)
        + &session(&own_session(cluster), "http", port)
        + &session("names", "udp", datagram_service(called(cluster)))
        + &(session("desk", "http", port) + &ended)
        + &session("shell", "tcp", port)
        + "pool = \"shells\"\n";
    let relay = folder.relay_stopped("node-1", &[], &config);
    fs::copy(
        key_file(site, cluster),
        relay.path().join("gateways/gw.json"),
    )
    .expect("the folder is writable");
    relay.started()
}

fn text<'v>(row: &'v Value, field: &str) -> &'v str {
    row.get(field).and_then(Value::as_str).unwrap_or_default()
}

impl Clusters {
    fn rows(&self, list: &str) -> Vec<Value> {
        let status = self.gateway.status().unwrap_or_default();
        let rows = status.get(list).and_then(Value::as_array).cloned();
        rows.unwrap_or_default()
    }

    fn wait_session(&self, cluster: &str, id: &str) {
        let is_up = |row: &Value| {
            text(row, "cluster") == cluster
                && text(row, "id") == id
                && row.get("up") == Some(&Value::Bool(true))
        };
        eventually(&format!("{id} of {cluster:?} is up"), || {
            self.rows("sessions").iter().any(is_up)
        });
    }

    /// Numbers of the tunnels of a cluster.
    fn tunnels(&self, cluster: &str) -> Vec<u64> {
        let rows = self.rows("tunnels");
        let of = rows.iter().filter(|row| text(row, "cluster") == cluster);
        of.filter_map(|row| row.get("id").and_then(Value::as_u64))
            .collect()
    }

    /// A relay has its second tunnel a moment after its first.
    fn wait_tunnels(&self) {
        for cluster in CLUSTERS {
            eventually("both tunnels are there", || {
                self.tunnels(cluster).len() == 2
            });
        }
    }

    fn host(cluster: &str) -> String {
        match cluster {
            "" => "127.0.0.1".to_owned(),
            name => format!("{name}.example.org"),
        }
    }

    /// What tells curl where a name is.
    fn resolve(&self, host: &str) -> [String; 2] {
        [
            "--resolve".to_owned(),
            format!("{host}:{}:127.0.0.1", self.gateway.port()),
        ]
    }

    fn get(&self, host: &str, path: &str) -> Answer {
        let url = format!("https://{host}:{}{path}", self.gateway.port());
        let curl: Curl = self.gateway.curl().args(&self.resolve(host));
        curl.arg(url).go()
    }

    /// Body of a session's page in path mode of a cluster.
    fn page(&self, cluster: &str, id: &str) -> String {
        self.get(&Self::host(cluster), &format!("/s/{id}/"))
            .expect(200)
            .text()
    }

    /// What a raw port leads to.
    fn said_at(port: &Port) -> String {
        let mut stream =
            TcpStream::connect((Ipv4Addr::LOCALHOST, port.number())).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a socket option");
        stream.shutdown(Shutdown::Write).expect("half closed");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("an orderly end");
        said
    }
}

/// A refusal without what differs from request to request.
fn refusal(answer: &Answer) -> (u16, String) {
    let id = answer.header("x-request-id").unwrap_or_default();
    (answer.status(), answer.text().replace(&id, ""))
}

#[test]
fn each_host_reaches_its_own_sessions_and_nothing_else() {
    let clusters = clusters();
    for here in CLUSTERS {
        let host = Clusters::host(here);
        assert_eq!(clusters.page(here, "notebook"), called(here));
        let unknown = clusters.get(&host, "/s/never-heard-of/");
        assert_eq!(unknown.status(), 404);
        for there in CLUSTERS.iter().filter(|there| **there != here) {
            let foreign = clusters.get(&host, &format!("/s/{}/", own_session(there)));
            assert_eq!(refusal(&foreign), refusal(&unknown), "{there:?} at {host}");
        }
        let front = clusters.gateway.curl().args(&clusters.resolve(&host));
        let front = front.args(&["-H", "Accept: application/json"]);
        let front = front
            .arg(format!("https://{host}:{}/", clusters.gateway.port()))
            .go();
        let counted: Value = serde_json::from_str(&front.expect(200).text()).expect("JSON");
        assert_eq!(
            counted.pointer("/result/public_sessions"),
            Some(&5.into()),
            "{host}"
        );
    }

    // Host mode has a domain for each.
    for here in ["bio", "geo"] {
        let host = format!("notebook.s.{here}.example.org");
        assert_eq!(clusters.get(&host, "/").expect(200).text(), called(here));
    }
    let foreign = format!("{}.s.geo.example.org", own_session("bio"));
    assert_eq!(clusters.get(&foreign, "/").status(), 404);
}

#[test]
fn one_connection_for_two_hosts_keeps_their_sessions_apart() {
    let clusters = clusters();
    let port = clusters.gateway.port();
    // By its address: a connection that has named a host may ask for no other.
    let url = format!("https://127.0.0.1:{port}/s/notebook/");
    let host = |cluster: &str| format!("Host: {cluster}.example.org:{port}");
    let ca = clusters.gateway.certificate().display().to_string();
    let mut curl = clusters.gateway.curl();
    for (place, cluster) in ["bio", "geo", "bio", "geo"].into_iter().enumerate() {
        if place > 0 {
            curl = curl.args(&["--next", "--silent", "--noproxy", "*", "--cacert", &ca]);
        }
        curl = curl.args(&[
            "--http1.1",
            "-H",
            &host(cluster),
            "-w",
            "%{num_connects} ",
            &url,
        ]);
    }

    let answer = curl.go();
    assert_eq!(answer.text(), "bio1 geo0 bio0 geo0 ", "{}", answer.errors);
}

#[test]
fn raw_ports_lead_to_the_session_or_pool_of_their_cluster() {
    let clusters = clusters();
    for (cluster, [shell, shells]) in CLUSTERS.iter().zip(&clusters.ports) {
        for _ in 0..3 {
            assert_eq!(Clusters::said_at(shell), called(cluster));
            assert_eq!(Clusters::said_at(shells), called(cluster));
        }
    }
}

impl Clusters {
    /// What the datagrams to a port are answered with; empty if they are not within a while.
    fn answered_at(port: &Port, patience: Duration) -> String {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let public = (Ipv4Addr::LOCALHOST, port.number());
        client.connect(public).expect("an address");
        let each = Duration::from_millis(500);
        client.set_read_timeout(Some(each)).expect("a bound");
        let mut buffer = [0; 2_048];
        let begun = Instant::now();
        // datagrams may be lost by right; a client asks again
        while begun.elapsed() < patience {
            client.send(b"who?").expect("sent");
            if let Ok(len) = client.recv(&mut buffer) {
                return String::from_utf8_lossy(&buffer[..len]).into_owned();
            }
        }
        String::new()
    }

    /// The page behind the TLS that passes through to `desk` of a cluster.
    fn desk(&self, cluster: &str) -> Answer {
        let (host, port) = (desk_of(cluster), self.gateway.port());
        Curl::new(&self.desk.cert, self.site.path())
            .args(&self.resolve(&host))
            .args(&["--max-time", "20"])
            .arg(format!("https://{host}:{port}/"))
            .go()
    }
}

#[test]
fn datagrams_and_tls_that_passes_through_lead_to_their_own_cluster() {
    let mut clusters = clusters();
    for (cluster, port) in CLUSTERS.iter().zip(&clusters.datagrams) {
        assert_eq!(Clusters::answered_at(port, BOUND), called(cluster));
        assert_eq!(clusters.desk(cluster).expect(200).text(), called(cluster));
    }

    // Without its node a cluster has nothing there, and gets nothing of the others, whose sessions have the same names.
    clusters.relays[1].daemon().kill();
    eventually("bio has no node", || clusters.tunnels("bio").is_empty());
    let foreign = Clusters::answered_at(&clusters.datagrams[1], Duration::from_secs(2));
    assert_eq!(foreign, "");
    let desk = clusters.desk("bio");
    assert!(desk.exit != Some(0) && desk.body.is_empty(), "{desk:?}");
    for (cluster, port) in CLUSTERS.iter().zip(&clusters.datagrams) {
        if *cluster != "bio" {
            assert_eq!(Clusters::answered_at(port, BOUND), called(cluster));
            assert_eq!(clusters.desk(cluster).expect(200).text(), called(cluster));
        }
    }
}

#[test]
fn what_befalls_a_node_befalls_nobody_of_the_same_name() {
    let mut clusters = clusters();
    clusters.wait_tunnels();
    let before = ["", "bio"].map(|cluster| clusters.tunnels(cluster));
    let bystanders = |clusters: &Clusters| {
        for cluster in ["", "bio"] {
            assert_eq!(clusters.page(cluster, "notebook"), called(cluster));
        }
        assert_eq!(["", "bio"].map(|cluster| clusters.tunnels(cluster)), before);
    };

    let geo = clusters.relays.last_mut().expect("three");
    geo.daemon().kill();
    eventually("its session is missed", || {
        clusters.get("geo.example.org", "/s/notebook/").status() == 503
    });
    bystanders(&clusters);

    let geo = clusters.relays.last_mut().expect("three");
    geo.start();
    clusters.wait_session("geo", "notebook");
    assert_eq!(clusters.page("geo", "notebook"), "geo");
    bystanders(&clusters);

    let forgotten = clusters
        .gateway
        .command(&["relays", "forget", "node-1", "--cluster", "geo"]);
    assert!(forgotten.status.success(), "{forgotten:?}");
    bystanders(&clusters);
    let elsewhere = clusters
        .gateway
        .command(&["relays", "forget", "node-1", "--cluster", "art"]);
    let said = String::from_utf8_lossy(&elsewhere.stderr);
    assert!(said.contains("bio/node-1"), "{said}");
}

#[test]
fn names_are_bound_for_each_cluster_and_last() {
    let mut clusters = clusters();
    let listed = |clusters: &Clusters| {
        let told = clusters.gateway.command(&["relays", "--json"]);
        let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        let rows = told.as_array().cloned().unwrap_or_default();
        let row = |row: &Value| ["cluster", "node", "key"].map(|field| text(row, field).to_owned());
        rows.iter().map(row).collect::<Vec<_>>()
    };
    let before = listed(&clusters);
    let named: Vec<_> = before
        .iter()
        .map(|[cluster, node, _]| (cluster.as_str(), node.as_str()))
        .collect();
    assert_eq!(named, CLUSTERS.map(|cluster| (cluster, "node-1")));

    assert!(clusters.gateway.daemon().terminate().success());
    clusters.gateway.start();
    clusters.gateway.wait_ready();
    for cluster in CLUSTERS {
        clusters.wait_session(cluster, "notebook");
    }
    assert_eq!(listed(&clusters), before);
    let table = clusters.gateway.command(&["status"]);
    let table = String::from_utf8_lossy(&table.stdout);
    assert!(
        table
            .lines()
            .any(|line| line.contains("notebook") && line.contains("geo")),
        "{table}"
    );
}

#[test]
fn what_does_not_fit_together_is_named_at_the_start() {
    let clusters = clusters();
    let gateway = &clusters.gateway;
    let check = || {
        let told = gateway.command(&["check"]);
        (told.status.success(), [told.stdout, told.stderr].concat())
    };
    let (fits, said) = check();
    let said = String::from_utf8_lossy(&said);
    assert!(
        fits && said.contains("ok  bio at bio.example.org") && !said.contains("--  bio"),
        "{said}"
    );

    let out = clusters.site.path().join("art.json").display().to_string();
    let added = gateway.command(&["key", "add", "--cluster", "art", "--out", &out]);
    assert!(added.status.success(), "{added:?}");
    drop(gateway.wait_for_line(&[
        "a cluster is not complete",
        "art has keys and no [[cluster]]",
    ]));
    let (fits, said) = check();
    let said = String::from_utf8_lossy(&said);
    assert!(
        fits && said.contains("art has keys and no [[cluster]]"),
        "{said}"
    );

    gateway.extend("[[cluster]]\nname = \"art\"\nhost = \"art.example.org\"\n");
    drop(gateway.wait_for_line(&["the certificate is used all the same", "art.example.org"]));
    let (fits, said) = check();
    let said = String::from_utf8_lossy(&said);
    assert!(
        !fits && said.contains("does not speak for art.example.org"),
        "{said}"
    );
}
