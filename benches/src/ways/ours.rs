//! Ours: one gateway, one relay, one tunnel.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::ClientConnection;
use sallyport_tests::{Gateway, Port, Relay, Site};

use super::{Running, Way};
use crate::cost::Process;
use crate::lab::Lab;

/// Server name of the passthrough.
pub(super) const BLIND: &str = "blind.example.org";

pub(super) fn start(way: Way, lab: &Lab) -> Running {
    let site = lab.site();
    let mut gateway = site.gateway_init("gateway", "127.0.0.1", &[]);
    let raw = Port::reserve();
    gateway.extend(&format!(
        "[[tcp]]\nlisten = \"127.0.0.1:{}\"\nsession = \"raw\"\n\
         [[passthrough]]\nsni = \"{BLIND}\"\nsession = \"blind\"\n",
        raw.number()
    ));
    start_gateway(&mut gateway);
    let relay = relay(lab, &site, &gateway, way);
    gateway.wait_session("blind");
    let running = if way == Way::Blind {
        let front = gateway.address(Ipv4Addr::LOCALHOST.into());
        Running::new(way, front).greeting(client_hello(BLIND))
    } else {
        Running::new(way, (Ipv4Addr::LOCALHOST, raw.number()).into())
    };
    with_processes(running, gateway, relay).keep(raw).keep(site)
}

/// Without the debug lines that tests want.
fn start_gateway(gateway: &mut Gateway) {
    gateway.start_prepared(|command| {
        command.env("LOGLEVEL", "info");
    });
    gateway.wait_ready();
}

fn relay(lab: &Lab, site: &Site, gateway: &Gateway, way: Way) -> Relay {
    let transport = if way == Way::Quic { "quic" } else { "tls" };
    let mut config = format!("transport = \"{transport}\"\ntunnels = 1\n");
    for (id, protocol) in [("raw", "tcp"), ("blind", "tls")] {
        let session = format!(
            "[[session]]\nid = \"{id}\"\nprotocol = \"{protocol}\"\ntarget = \"{}\"\naccess = \"public\"\n",
            lab.origin.address()
        );
        config.write_str(&session).expect("into memory");
    }
    let mut relay = site.relay_stopped("node", &[gateway], &config);
    relay.start_prepared(|command| {
        command.env("LOGLEVEL", "info");
    });
    relay
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
