//! What people notice when a process dies, and how soon all is well again.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sallyport_tests::service::Nginx;
use sallyport_tests::{Curl, Gateway, Relay, Site, eventually};

struct Web {
    nginx: Nginx,
    gateway: Gateway,
    relay: Relay,
    site: Site,
}

fn web(transport: &str) -> Web {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let gateway = site.gateway("gw");
    let relay = site.relay(
        "node-a",
        &gateway,
        &format!(
            "transport = \"{transport}\"\n[[session]]\nid = \"web\"\nprotocol = \"http\"\n\
             target = \"127.0.0.1:{}\"\naccess = \"public\"\n",
            nginx.port.number()
        ),
    );
    gateway.wait_session("web");
    Web {
        site,
        nginx,
        gateway,
        relay,
    }
}

impl Web {
    fn curl(&self) -> Curl {
        self.gateway
            .curl()
            .arg(self.gateway.session_url("web", "/echo"))
    }

    /// A download that is slow enough to be under way when something dies.
    fn slow_download(&self, version: &str, path: &str, to: &str) -> Child {
        let mut curl = Command::new("curl");
        curl.args(["-sS", version, "--limit-rate", "2M", "--cacert"])
            .arg(self.gateway.certificate());
        curl.arg("--output")
            .arg(self.site.path().join(to))
            .arg(self.gateway.session_url("web", path));
        curl.stderr(Stdio::null())
            .spawn()
            .expect("curl is installed")
    }

    fn downloaded(&self, to: &str) -> u64 {
        fs::metadata(self.site.path().join(to)).map_or(0, |file| file.len())
    }
}

fn a_killed_relay(transport: &str) {
    let mut web = web(transport);
    drop(web.nginx.random_file("big", 400_000_000));
    // A body without a length ends where the connection ends: the shape that can be mistaken for complete.
    let streamed = "/big?as-is";
    let mut downloads = [
        web.slow_download("--http1.1", "/big", "one"),
        web.slow_download("--http2", "/big", "two"),
        web.slow_download("--http1.1", streamed, "three"),
    ];
    eventually("all downloads are under way", || {
        ["one", "two", "three"]
            .iter()
            .all(|to| web.downloaded(to) > 1_000_000)
    });

    web.relay.daemon().kill();

    for download in &mut downloads {
        let mut ended = None;
        eventually("curl ends by itself", || {
            ended = download.try_wait().expect("ours");
            ended.is_some()
        });
        assert_ne!(
            ended.and_then(|status| status.code()),
            Some(0),
            "a short answer looked complete"
        );
    }
    eventually("new requests get 503", || {
        let answer = web.curl().go();
        answer.status() == 503 && answer.header("retry-after").is_some()
    });

    web.relay.start();
    eventually("the session works again", || {
        web.curl().go().status() == 200
    });
}

#[test]
fn heavy_a_killed_relay_is_a_clear_error_over_quic() {
    a_killed_relay("quic");
}

#[test]
fn heavy_a_killed_relay_is_a_clear_error_over_tls() {
    a_killed_relay("tls");
}

#[test]
fn a_relay_killed_over_quic_is_missed_before_its_tunnels_are_lost() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let probes =
        "[tunnels]\nprobe_every = \"500ms\"\nsilent_after = \"200ms\"\nprobe_misses = 1000\n";
    let gateway = site.gateway_with("gw", "127.0.0.1", probes);
    let mut relay = site.relay(
        "node-a",
        &gateway,
        &format!(
            "transport = \"quic\"\n[[session]]\nid = \"web\"\nprotocol = \"http\"\n\
             target = \"127.0.0.1:{}\"\naccess = \"public\"\n",
            nginx.port.number()
        ),
    );
    gateway.wait_session("web");
    let get = || gateway.curl().arg(gateway.session_url("web", "/echo")).go();
    drop(get().expect(200));

    relay.daemon().kill();
    eventually("no tunnel is up", || !gateway.has_session("web"));
    let answer = get().expect(503);

    assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    let log = gateway.log();
    assert!(log.contains("tunnel silent"), "{log}");
    assert!(!log.contains("tunnel ended"), "{log}");

    relay.start();
    eventually("the session works again", || get().status() == 200);
}

fn a_killed_gateway(transport: &str) {
    let mut web = web(transport);
    for away in [Duration::ZERO, Duration::from_secs(4)] {
        web.gateway.daemon().kill();
        let since = Instant::now();
        eventually("the gateway has been away", || since.elapsed() >= away);
        web.gateway.start();
        web.gateway.wait_session("web");
        drop(web.curl().go().expect(200));
    }
}

#[test]
fn a_killed_gateway_finds_its_relays_again_over_quic() {
    a_killed_gateway("quic");
}

#[test]
fn a_killed_gateway_finds_its_relays_again_over_tls() {
    a_killed_gateway("tls");
}

#[test]
fn a_session_that_dies_is_named() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let gateway = site.gateway("gw");
    let port = nginx.port.number();
    let relay = site.relay(
        "node-a",
        &gateway,
        &format!(
            "[[session]]\nid = \"watched\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{port}\"\naccess = \"public\"\nhealth = \"tcp\"\n\
             [[session]]\nid = \"bare\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{port}\"\naccess = \"public\"\n"
        ),
    );
    gateway.wait_session("watched");
    gateway.wait_session("bare");
    drop(nginx);

    let get = |id: &str| gateway.curl().arg(gateway.session_url(id, "/")).go();
    assert_eq!(get("bare").status(), 502);
    eventually("the dead session is known as such", || {
        get("watched").status() == 503
    });
    assert!(
        get("watched").text().contains("watched"),
        "{}",
        get("watched").text()
    );
    drop(relay.wait_for_line(&["bare", "127.0.0.1"]));
    let named = [
        "sallyport::access",
        "\"session\":\"bare\"",
        "\"node\":\"node-a\"",
        "\"code\":\"session_refused\"",
    ];
    drop(gateway.wait_for_line(&named));
}
