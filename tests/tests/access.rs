//! Who is let in, and as whom: logins, networks, client certificates, PROXY headers in and out.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use sallyport_tests::balancer::{CLIENT, PROXY, balancer, headers};
use sallyport_tests::service::{Certificate, Nginx};
use sallyport_tests::{Answer, Curl, Gateway, Port, Relay, Site, run_ok};

/// A raw port of a gateway that leads to a session.
fn raw_port(port: &Port, session: &str) -> String {
    format!(
        "[[tcp]]\nlisten = \"127.0.0.1:{}\"\nsession = \"{session}\"\n",
        port.number()
    )
}

/// Plain HTTP to a raw port from an address of our own.
fn get_raw(site: &Site, port: &Port, from: Ipv4Addr, args: &[&str]) -> Answer {
    get_port(site, port.number(), from, args)
}

fn get_port(site: &Site, port: u16, from: Ipv4Addr, args: &[&str]) -> Answer {
    Curl::new(Path::new("/dev/null"), site.path())
        .args(&["--interface", &from.to_string(), "--max-time", "20"])
        .args(args)
        .arg(format!("http://127.0.0.1:{port}/who"))
        .go()
}

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

#[test]
fn who_is_not_told_to_be_let_in_must_log_in() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let gateway = site.gateway("gw");
    let session = |id: &str, access: &str| {
        format!(
            "[[session]]\nid = \"{id}\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{}\"\n{access}\n",
            nginx.port.number()
        )
    };
    let _relay = site.relay(
        "node-a",
        &gateway,
        &[
            session("plain", ""),
            session("login", "access = \"login\""),
            session("staff", "access = { groups = [\"staff\"] }"),
            session("sourced", "sources = [\"127.0.0.0/8\"]"),
        ]
        .concat(),
    );
    for id in ["plain", "login", "staff", "sourced"] {
        gateway.wait_session(id);

        let answer = gateway
            .curl()
            .arg(gateway.session_url(id, "/echo"))
            .go()
            .expect(401);

        assert!(!answer.text().contains("host="), "{}", answer.text());
    }
}

#[test]
fn sources_let_in_and_shut_out_raw_streams() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "location = /who { return 200 $remote_addr; }");
    let (closed, public) = (Port::reserve(), Port::reserve());
    let extra = raw_port(&closed, "closed") + &raw_port(&public, "public");
    let gateway = site.gateway_with("gw", "127.0.0.1", &extra);
    let session = |id: &str, rule: &str| {
        format!(
            "[[session]]\nid = \"{id}\"\nprotocol = \"tcp\"\ntarget = \"127.0.0.1:{}\"\n{rule}\n",
            nginx.port.number()
        )
    };
    let relay = site.relay(
        "node-a",
        &gateway,
        &(session("closed", "sources = [\"127.0.0.8/29\"]")
            + &session("public", "access = \"public\"")),
    );
    gateway.wait_session("closed");
    gateway.wait_session("public");

    drop(get_raw(&site, &closed, THERE, &[]).expect(200));
    drop(get_raw(&site, &public, HERE, &[]).expect(200));
    let shut_out = get_raw(&site, &closed, HERE, &[]);
    assert_ne!(shut_out.exit, Some(0), "{}", shut_out.text());
    assert!(shut_out.body.is_empty() && shut_out.head.is_empty());
    drop(relay.wait_for_line(&["stream not let in", "forbidden", "127.0.0.1"]));
}

#[test]
fn a_stream_without_identity_needs_a_rule_at_start() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    for protocol in ["tcp", "tls", "udp"] {
        let config = format!(
            "[[session]]\nid = \"bare\"\nprotocol = \"{protocol}\"\ntarget = \"127.0.0.1:9\"\n"
        );
        let mut relay = site.relay_stopped("node-a", &[&gateway], &config);

        let checked = relay.command(&["check"]);
        relay.start();
        let ended = relay.daemon().wait();

        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        for said in [said, relay.log()] {
            assert!(
                said.contains("relay.toml: line 4: session `bare`") && said.contains("sources"),
                "{said}"
            );
        }
        assert_eq!((checked.status.code(), ended.code()), (Some(78), Some(78)));
        assert!(!gateway.has_session("bare"));
    }
}

/// A certificate for a client, issued by `authority`.
fn client_certificate(site: &Site, authority: &Certificate, name: &str) -> Certificate {
    let file = |ending: &str| site.path().join(format!("{name}.{ending}"));
    let issued = Certificate {
        cert: file("pem"),
        key: file("key"),
    };
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]);
    openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    openssl.args(["-subj", &format!("/CN={name}")]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl.args(["-addext", "extendedKeyUsage=clientAuth"]);
    openssl
        .arg("-CA")
        .arg(&authority.cert)
        .arg("-CAkey")
        .arg(&authority.key);
    run_ok(
        openssl
            .arg("-keyout")
            .arg(&issued.key)
            .arg("-out")
            .arg(&issued.cert),
    );
    issued
}

/// A gateway and a relay that asks for certificates of `authority`, for HTTP and for plain bytes.
fn checked(
    site: &Site,
    nginx: &Nginx,
    server: &Certificate,
    authority: &Certificate,
) -> (Gateway, Relay) {
    let gateway = site.gateway_with(
        "gw",
        "127.0.0.1",
        "[[passthrough]]\nsni = \"lab.example.org\"\nsession = \"lab\"\n\
         [[passthrough]]\nsni = \"raw.example.org\"\nsession = \"raw\"\n",
    );
    let session = |id: &str, protocol: &str| {
        format!(
            "[[session]]\nid = \"{id}\"\nprotocol = \"{protocol}\"\ntarget = \"127.0.0.1:{}\"\n\
             tls = {{ cert = \"{}\", key = \"{}\" }}\nclient_ca = \"{}\"\n",
            nginx.port.number(),
            server.cert.display(),
            server.key.display(),
            authority.cert.display(),
        )
    };
    let sessions = session("lab", "http") + &session("raw", "tcp");
    let relay = site.relay("node-a", &gateway, &sessions);
    (gateway, relay)
}

#[test]
fn a_client_certificate_opens_what_the_relay_ends_tls_for() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let make = |name: &str, names: &str| Certificate::make(site.path(), name, names);
    let server = make("lab", "DNS:lab.example.org,DNS:raw.example.org");
    let authority = make("authority", "DNS:authority.example.org");
    let stranger = make("stranger", "DNS:stranger.example.org");
    let (gateway, relay) = checked(&site, &nginx, &server, &authority);
    let known = client_certificate(&site, &authority, "ada");
    let unknown = client_certificate(&site, &stranger, "eve");
    let curl = |id: &str, certificate: Option<&Certificate>| {
        let name = format!("{id}.example.org:{}", gateway.port());
        let curl = Curl::new(&server.cert, site.path())
            .args(&["--resolve", &format!("{name}:127.0.0.1")])
            .args(&["--http1.1", "--max-time", "20"])
            .arg(format!("https://{name}/echo"));
        match certificate {
            Some(own) => curl
                .arg("--cert")
                .arg(&own.cert)
                .arg("--key")
                .arg(&own.key)
                .go(),
            None => curl.go(),
        }
    };

    for id in ["lab", "raw"] {
        gateway.wait_session(id);
        let answer = curl(id, Some(&known)).expect(200);
        assert!(
            answer.text().contains(&format!("host={id}")),
            "{}",
            answer.text()
        );
        for certificate in [None, Some(&unknown)] {
            let refused = curl(id, certificate);
            assert_ne!(refused.exit, Some(0), "{id}: {}", refused.text());
            assert!(refused.head.is_empty() && refused.body.is_empty());
            assert!(refused.errors.contains("alert"), "{}", refused.errors);
        }
        for cause in ["sent no certificates", "invalid peer certificate"] {
            drop(relay.wait_for_line(&["TLS handshake failed", id, "127.0.0.1", cause]));
        }
    }
    let log = gateway.log();
    assert!(!log.contains("internal"), "{log}");
}

/// nginx that wants a PROXY header, sessions of every kind that send one, and a gateway that believes
/// 127.0.0.2 only.
struct Proxied {
    gateway: Gateway,
    raw: [Port; 2],
    _services: (Nginx, Relay),
    site: Site,
}

fn proxied() -> Proxied {
    let site = Site::new();
    let port = Port::reserve();
    let nginx = Nginx::start(
        site.path(),
        &format!(
            "listen 127.0.0.1:{} proxy_protocol; location = /who {{ return 200 \
             \"$proxy_protocol_addr to $proxy_protocol_server_port for=$http_x_forwarded_for \"; }}",
            port.number()
        ),
    );
    let raw = [Port::reserve(), Port::reserve()];
    let [first, second] = &raw;
    let gateway = site.gateway_with(
        "gw",
        "127.0.0.1",
        &format!(
            "trusted_proxies = [\"{PROXY}/32\"]\nproxy_protocol = true\n{}{}",
            raw_port(first, "one"),
            raw_port(second, "two")
        ),
    );
    let session = |id: &str, protocol: &str, version: u8| {
        format!(
            "[[session]]\nid = \"{id}\"\nprotocol = \"{protocol}\"\ntarget = \"127.0.0.1:{}\"\n\
             access = \"public\"\nproxy_protocol = {version}\n",
            port.number()
        )
    };
    let sessions = [
        session("one", "tcp", 1),
        session("two", "tcp", 2),
        session("web", "http", 2),
    ];
    let relay = site.relay("node-a", &gateway, &sessions.concat());
    for id in ["one", "two", "web"] {
        gateway.wait_session(id);
    }
    Proxied {
        site,
        gateway,
        raw,
        _services: (nginx, relay),
    }
}

impl Proxied {
    fn get(&self, from: Ipv4Addr, args: &[&str]) -> Answer {
        self.gateway
            .curl()
            .args(&["--interface", &from.to_string(), "--max-time", "20"])
            .args(args)
            .arg(self.gateway.session_url("web", "/who"))
            .go()
    }
}

#[test]
fn a_session_sees_who_its_client_is_in_a_proxy_header() {
    let proxied = proxied();
    for (port, from) in proxied
        .raw
        .iter()
        .flat_map(|port| [(port, HERE), (port, THERE)])
    {
        let answer = get_raw(&proxied.site, port, from, &[]).expect(200);
        let expected = format!("{from} to {} ", port.number());
        assert!(answer.text().starts_with(&expected), "{}", answer.text());
    }
    // One client after the other: none is taken for the one before.
    for from in [HERE, THERE, HERE] {
        let answer = proxied.get(from, &[]).expect(200);
        let expected = format!("{from} to {} for={from} ", proxied.gateway.port());
        assert_eq!(answer.text(), expected);
    }
}

#[test]
fn a_trusted_proxy_is_believed() {
    let proxied = proxied();
    for header in headers() {
        for port in &proxied.raw {
            let front = balancer(port.number(), header.clone());
            let answer = get_port(&proxied.site, front, HERE, &[]).expect(200);
            assert!(answer.text().starts_with(CLIENT), "{}", answer.text());
        }
        let front = balancer(proxied.gateway.port(), header);
        for version in ["--http1.1", "--http2"] {
            let to = format!("::127.0.0.1:{front}");
            let answer = proxied
                .get(HERE, &["--connect-to", &to, version])
                .expect(200);
            assert!(answer.text().starts_with(CLIENT), "{}", answer.text());
            assert!(
                answer.text().contains(&format!("for={CLIENT} ")),
                "{}",
                answer.text()
            );
        }
    }
    drop(proxied.get(PROXY, &["--haproxy-protocol"]).expect(200));
}

#[test]
fn a_trusted_proxy_must_send_the_header() {
    let proxied = proxied();

    let front = proxied.get(PROXY, &[]);
    assert!(
        front.exit != Some(0) && front.head.is_empty(),
        "{}",
        front.text()
    );
    for port in &proxied.raw {
        let raw = get_raw(&proxied.site, port, PROXY, &[]);
        assert!(raw.exit != Some(0) && raw.head.is_empty(), "{}", raw.text());
    }
}

#[test]
fn a_proxy_header_from_anybody_else_is_garbage() {
    let proxied = proxied();

    let front = proxied.get(HERE, &["--haproxy-protocol"]);
    assert!(
        front.exit != Some(0) && front.head.is_empty(),
        "{}",
        front.text()
    );
    for port in &proxied.raw {
        // The session gets the bytes as they are: no request that it knows.
        let _bad = get_raw(&proxied.site, port, HERE, &["--haproxy-protocol"]).expect(400);
    }
    drop(proxied.get(HERE, &[]).expect(200));
}
