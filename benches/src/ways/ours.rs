//! Ours: one gateway and one relay, with one tunnel unless a row is about several.

use std::net::SocketAddr;

use sallyport_tests::{Gateway, Port, Relay, Site, client_hello, eventually};

use super::{Running, Way, nginx};
use crate::cost::Process;
use crate::lab::Lab;

/// Server name of the passthrough.
pub(super) const BLIND: &str = "blind.example.org";

/// Session of web pages and WebSockets.
const WEB: &str = "web";

/// Streams that one tunnel takes, less some for those that are still being closed.
const STREAMS_PER_TUNNEL: u32 = 4_000;

/// A raw port, a passthrough or a WebSocket that leads to the origin.
pub(super) fn start(way: Way, lab: &Lab, clients: u32) -> Running {
    let site = lab.site();
    let raw = Port::reserve();
    let ports = format!(
        "[[tcp]]\nlisten = \"{}\"\nsession = \"raw\"\n\
         [[passthrough]]\nsni = \"{BLIND}\"\nsession = \"blind\"\n",
        lab.near.at(raw.number())
    );
    let protocols = [("raw", "tcp"), ("blind", "tls"), (WEB, "http")];
    let origin = lab.origin.address();
    let sessions = protocols.map(|(id, protocol)| session(id, protocol, origin));
    let pair = Pair::start(lab, &site, way, (clients, &ports, &sessions.concat()));
    let running = if way == Way::Blind {
        Running::new(way, lab, pair.front(lab)).greeting(client_hello(BLIND))
    } else if way == Way::Upgraded {
        let url = pair.gateway.session_url(WEB, "/");
        Running::new(way, lab, pair.front(lab)).serving(url)
    } else {
        Running::at(way, lab, raw)
    };
    pair.run(running).keep(site)
}

/// HTTPS that the gateway ends, in front of nginx.
pub(super) fn start_https(lab: &Lab, clients: u32) -> Result<Running, String> {
    let site = lab.site();
    let pages = nginx::pages(&site)?;
    let sessions = session(WEB, "http", lab.far.at(pages.port.number()));
    let pair = Pair::start(lab, &site, Way::Https, (clients, "", &sessions));
    let url = pair.gateway.session_url(WEB, &format!("/{}", super::PAGE));
    let running = Running::new(Way::Https, lab, pair.front(lab)).serving(url);
    Ok(pair
        .run(running)
        .keep((pages.daemon, pages.port))
        .keep(site))
}

/// One gateway and one relay.
struct Pair {
    gateway: Gateway,
    relay: Relay,
}

impl Pair {
    /// Starts them for so many clients at once, with further configuration of each, and waits for [`WEB`].
    fn start(
        lab: &Lab,
        site: &Site,
        way: Way,
        (clients, ports, sessions): (u32, &str, &str),
    ) -> Self {
        let mut gateway = site.gateway_init("gateway", &lab.near.ip().to_string(), &[]);
        // All clients come from one address here; a connection is not ended for the number of its requests.
        gateway.extend(&format!(
            "{ports}[limits]\nconnections_per_source = {}\nmax_requests = 1000000\n",
            clients + 64
        ));
        if let Some(network) = lab.near.network() {
            gateway.enter(network);
        }
        gateway.start_quietly();
        gateway.wait_ready();

        let config = tunnels(way, clients) + sessions;
        let mut relay = site.relay_stopped("node", &[&gateway], &config);
        if let Some(network) = lab.far.network() {
            relay.enter(network);
        }
        relay.start_quietly();
        gateway.wait_session(WEB);
        if way == Way::Shipped {
            eventually("both tunnels are up", || gateway.tunnels().len() > 1);
        }
        Self { gateway, relay }
    }

    /// Where the gateway's own port is.
    fn front(&self, lab: &Lab) -> SocketAddr {
        lab.near.at(self.gateway.port())
    }

    fn run(self, mut running: Running) -> Running {
        let Self {
            mut gateway,
            mut relay,
        } = self;
        running.processes = vec![
            Process::new("gateway", gateway.daemon().id()),
            Process::new("relay", relay.daemon().id()),
        ];
        running.keep(relay).keep(gateway)
    }
}

fn session(id: &str, protocol: &str, target: SocketAddr) -> String {
    format!(
        "[[session]]\nid = \"{id}\"\nprotocol = \"{protocol}\"\ntarget = \"{target}\"\naccess = \"public\"\n"
    )
}

/// What a relay is told of its tunnels.
fn tunnels(way: Way, clients: u32) -> String {
    if way == Way::Shipped {
        return String::new();
    }
    let transport = if way == Way::Quic { "quic" } else { "tls" };
    let tunnels = clients.div_ceil(STREAMS_PER_TUNNEL);
    format!("transport = \"{transport}\"\ntunnels = {tunnels}\n")
}
