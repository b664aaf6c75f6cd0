//! Ours: one gateway, one relay, one tunnel.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use rustls::ClientConnection;
use sallyport_tests::{Gateway, Port, Relay, Site};

use super::{Running, Way, nginx};
use crate::cost::Process;
use crate::lab::Lab;

/// Server name of the passthrough.
pub(super) const BLIND: &str = "blind.example.org";

/// Session of the web pages.
const WEB: &str = "web";

/// A raw port or a passthrough that leads to the origin.
pub(super) fn start(way: Way, lab: &Lab) -> Running {
    let site = lab.site();
    let raw = Port::reserve();
    let gateway = gateway(
        &site,
        &format!(
            "[[tcp]]\nlisten = \"127.0.0.1:{}\"\nsession = \"raw\"\n\
             [[passthrough]]\nsni = \"{BLIND}\"\nsession = \"blind\"\n",
            raw.number()
        ),
    );
    let origin = lab.origin.address();
    let sessions = [
        session("raw", "tcp", origin),
        session("blind", "tls", origin),
    ]
    .concat();
    let relay = relay(&site, &gateway, way, &sessions);
    gateway.wait_session("blind");
    let running = if way == Way::Blind {
        let front = gateway.address(Ipv4Addr::LOCALHOST.into());
        Running::new(way, front).greeting(client_hello(BLIND))
    } else {
        Running::new(way, (Ipv4Addr::LOCALHOST, raw.number()).into())
    };
    with_processes(running, gateway, relay).keep(raw).keep(site)
}

/// HTTPS that the gateway ends, in front of nginx.
pub(super) fn start_https(lab: &Lab) -> Result<Running, String> {
    let site = lab.site();
    let pages = nginx::pages(&site)?;
    let gateway = gateway(&site, "[limits]\nmax_requests = 1000000\n");
    let target = (Ipv4Addr::LOCALHOST, pages.port.number()).into();
    let relay = relay(&site, &gateway, Way::Https, &session(WEB, "http", target));
    gateway.wait_session(WEB);
    let front = gateway.address(Ipv4Addr::LOCALHOST.into());
    let url = gateway.session_url(WEB, &format!("/{}", super::PAGE));
    let running = Running::new(Way::Https, front).serving(url);
    let running = with_processes(running, gateway, relay);
    Ok(running.keep((pages.daemon, pages.port)).keep(site))
}

fn gateway(site: &Site, extra: &str) -> Gateway {
    let mut gateway = site.gateway_init("gateway", "127.0.0.1", &[]);
    gateway.extend(extra);
    gateway.start_prepared(quietly);
    gateway.wait_ready();
    gateway
}

fn relay(site: &Site, gateway: &Gateway, way: Way, sessions: &str) -> Relay {
    let transport = if way == Way::Quic { "quic" } else { "tls" };
    let config = format!("transport = \"{transport}\"\ntunnels = 1\n{sessions}");
    let mut relay = site.relay_stopped("node", &[gateway], &config);
    relay.start_prepared(quietly);
    relay
}

/// Without the debug lines that tests want.
fn quietly(command: &mut Command) {
    command.env("LOGLEVEL", "info");
}

fn session(id: &str, protocol: &str, target: SocketAddr) -> String {
    format!(
        "[[session]]\nid = \"{id}\"\nprotocol = \"{protocol}\"\ntarget = \"{target}\"\naccess = \"public\"\n"
    )
}

fn with_processes(mut running: Running, mut gateway: Gateway, mut relay: Relay) -> Running {
    running.processes = vec![
        Process::new("gateway", gateway.daemon().id()),
        Process::new("relay", relay.daemon().id()),
    ];
    running.keep(relay).keep(gateway)
}

/// A ClientHello as a real TLS stack writes it.
pub(super) fn client_hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider's versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().expect("a DNS name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("into memory");
    hello
}
