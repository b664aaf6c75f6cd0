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

/// Session of web pages and WebSockets.
const WEB: &str = "web";

/// Streams that one tunnel over TLS takes, less some for those that are still being closed.
const STREAMS_PER_TUNNEL: u32 = 450;

/// A raw port, a passthrough or a WebSocket that leads to the origin.
pub(super) fn start(way: Way, lab: &Lab, clients: u32) -> Running {
    let site = lab.site();
    let raw = Port::reserve();
    let ports = format!(
        "[[tcp]]\nlisten = \"127.0.0.1:{}\"\nsession = \"raw\"\n\
         [[passthrough]]\nsni = \"{BLIND}\"\nsession = \"blind\"\n",
        raw.number()
    );
    let gateway = gateway(&site, &[ports, limits(clients)].concat());
    let protocols = [("raw", "tcp"), ("blind", "tls"), (WEB, "http")];
    let origin = lab.origin.address();
    let sessions = protocols.map(|(id, protocol)| session(id, protocol, origin));
    let relay = relay(&site, &gateway, (way, clients), &sessions.concat());
    gateway.wait_session(WEB);
    let front = gateway.address(Ipv4Addr::LOCALHOST.into());
    let running = if way == Way::Blind {
        Running::new(way, front).greeting(client_hello(BLIND))
    } else if way == Way::Upgraded {
        Running::new(way, front).serving(gateway.session_url(WEB, "/"))
    } else {
        Running::new(way, (Ipv4Addr::LOCALHOST, raw.number()).into())
    };
    with_processes(running, gateway, relay).keep(raw).keep(site)
}

/// HTTPS that the gateway ends, in front of nginx.
pub(super) fn start_https(lab: &Lab, clients: u32) -> Result<Running, String> {
    let site = lab.site();
    let pages = nginx::pages(&site)?;
    let gateway = gateway(&site, &limits(clients));
    let target = (Ipv4Addr::LOCALHOST, pages.port.number()).into();
    let sessions = session(WEB, "http", target);
    let relay = relay(&site, &gateway, (Way::Https, clients), &sessions);
    gateway.wait_session(WEB);
    let front = gateway.address(Ipv4Addr::LOCALHOST.into());
    let url = gateway.session_url(WEB, &format!("/{}", super::PAGE));
    let running = Running::new(Way::Https, front).serving(url);
    let running = with_processes(running, gateway, relay);
    Ok(running.keep((pages.daemon, pages.port)).keep(site))
}

/// All clients come from one address here; a connection is not ended for the number of its requests.
fn limits(clients: u32) -> String {
    format!(
        "[limits]\nconnections_per_source = {}\nmax_requests = 1000000\n",
        clients + 64
    )
}

fn gateway(site: &Site, extra: &str) -> Gateway {
    let mut gateway = site.gateway_init("gateway", "127.0.0.1", &[]);
    gateway.extend(extra);
    gateway.start_prepared(quietly);
    gateway.wait_ready();
    gateway
}

fn relay(site: &Site, gateway: &Gateway, (way, clients): (Way, u32), sessions: &str) -> Relay {
    let transport = if way == Way::Quic { "quic" } else { "tls" };
    let tunnels = clients.div_ceil(STREAMS_PER_TUNNEL);
    let config = format!("transport = \"{transport}\"\ntunnels = {tunnels}\n{sessions}");
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
