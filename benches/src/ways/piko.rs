//! piko: a server, an agent at the origin, and a forwarder for raw TCP at the client.

use sallyport_tests::Port;

use super::{Running, Way};
use crate::lab::Lab;
use crate::peers;

pub(super) fn start(lab: &Lab) -> Result<Running, String> {
    let piko = peers::find("piko")?;
    let (site, raw) = (lab.site(), Port::reserve());
    let ports: [Port; 4] = std::array::from_fn(|_| Port::reserve());
    let [proxy, upstream, admin, gossip] = ports
        .each_ref()
        .map(|port| lab.near.at(port.number()).to_string());
    let server = [
        ["--proxy.bind-addr", &proxy],
        ["--upstream.bind-addr", &upstream],
        ["--admin.bind-addr", &admin],
        ["--gossip.bind-addr", &gossip],
    ];
    let server = [&["server"], server.as_flattened()].concat();
    let server = lab.near.daemon(site.path(), &piko, &server);
    let [_proxy, meeting, ..] = &ports;
    lab.near.wait_listening(meeting.number());
    let (proxy, upstream) = (format!("http://{proxy}"), format!("http://{upstream}"));
    let (origin, port) = (lab.origin.address().to_string(), raw.number().to_string());
    let agent = ["agent", "tcp", "raw", &origin, "--connect.url", &upstream];
    let agent = lab.far.daemon(site.path(), &piko, &agent);
    let forward = ["forward", "tcp", &port, "raw", "--connect.url", &proxy];
    let forward = lab.near.daemon(site.path(), &piko, &forward);
    lab.near.wait_listening(raw.number());
    let running = Running::at(Way::Piko, lab, raw)
        .process("server", server)
        .process("agent", agent)
        .process("forward", forward);
    Ok(running.keep(ports).keep(site))
}
