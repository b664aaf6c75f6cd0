//! Networks as they are: UDP dropped, only a proxy leads out, black holes.

use std::fs;
use std::path::Path;

use sallyport_tests::service::{Nginx, Sshd, wait_listening};
use sallyport_tests::{Apart, Daemon, Gateway, Port, Relay, Site, eventually};

#[test]
fn where_udp_passes_there_are_tunnels_of_both_transports() {
    let Some(apart) = Apart::start(None, "") else {
        return;
    };

    assert_eq!(apart.get("/hello"), "from the node");
    eventually("a tunnel over each", || {
        let mut transports = apart.transports();
        transports.sort();
        transports == ["quic", "tls"]
    });
}

#[test]
fn where_udp_is_dropped_all_tunnels_are_tls() {
    let Some(apart) = Apart::start(Some("meta l4proto udp"), "") else {
        return;
    };

    assert_eq!(apart.get("/hello"), "from the node");
    let transports = apart.transports();
    assert!(
        !transports.is_empty() && transports.iter().all(|name| name == "tls"),
        "{transports:?}"
    );
}

#[test]
fn a_black_hole_is_noticed_at_both_ends_and_healed() {
    let Some(mut apart) = Apart::start(None, "") else {
        return;
    };

    apart.cable.drop_matching("ip saddr 10.231.7.2");
    eventually("the gateway takes the session for lost", || {
        !apart.gateway.has_session("web")
    });
    drop(apart.relay.wait_for_line(&["tunnel", "lost"]));

    apart.cable.heal();
    apart.gateway.wait_session("web");
    assert_eq!(apart.get("/hello"), "from the node");
    assert!(apart.relay.daemon().is_running().expect("known"));
}

/// A gateway and a relay that knows no way out but `proxy`; the session works.
fn led_out(site: &Site, proxy: &str) -> (Gateway, Relay) {
    let gateway = site.gateway("gw");
    let nginx = Nginx::start(site.path(), "");
    let relay = site.relay(
        "node-a",
        &gateway,
        &format!(
            "proxy = \"{proxy}\"\n[[session]]\nid = \"web\"\nprotocol = \"http\"\n\
             target = \"127.0.0.1:{}\"\naccess = \"public\"\n",
            nginx.port.number()
        ),
    );
    gateway.wait_session("web");
    let url = gateway.session_url("web", "/echo");
    drop(gateway.curl().arg(url).go().expect(200));
    (gateway, relay)
}

#[test]
fn a_connect_proxy_leads_out() {
    let site = Site::new();
    let port = Port::reserve();
    let config = site.path().join("tinyproxy.conf");
    let log = site.path().join("tinyproxy.log");
    fs::write(
        &config,
        format!("Port {}\nListen 127.0.0.1\nLogFile \"{}\"\nLogLevel Connect\nMaxClients 50\nAllow 127.0.0.1\n",
            port.number(), log.display()),
    )
    .expect("writable");
    let _proxy = Daemon::start(
        Path::new("/usr/bin/tinyproxy"),
        &["-d".as_ref(), "-c".as_ref(), config.as_os_str()],
        &site.path().join("proxy-out.log"),
    );
    wait_listening(port.number());
    let (gateway, _relay) = led_out(&site, &format!("http://127.0.0.1:{}", port.number()));

    let proxied = fs::read_to_string(log).expect("tinyproxy logs");
    assert!(
        proxied.contains(&format!("CONNECT 127.0.0.1:{}", gateway.port())),
        "{proxied}"
    );
}

#[test]
fn a_socks_proxy_leads_out() {
    let site = Site::new();
    let sshd = Sshd::start(site.path());
    let port = Port::reserve();
    let mut ssh = sshd.client("ssh", sshd.port.number());
    ssh.args([
        "-N",
        "-D",
        &format!("127.0.0.1:{}", port.number()),
        "root@127.0.0.1",
    ]);
    let args: Vec<_> = ssh.get_args().map(std::ffi::OsStr::to_owned).collect();
    let proxy = Daemon::start(
        Path::new("/usr/bin/ssh"),
        &args,
        &site.path().join("proxy.log"),
    );
    wait_listening(port.number());
    let (gateway, _relay) = led_out(&site, &format!("socks5://127.0.0.1:{}", port.number()));

    // Nothing but the proxy led out.
    drop(proxy);
    eventually("the session is lost with the proxy", || {
        !gateway.has_session("web")
    });
}
