//! piko: a server, an agent at the origin, and a forwarder for raw TCP at the client.

use sallyport_tests::{Port, service};

use super::{Running, Way, daemon};
use crate::lab::Lab;
use crate::peers;

pub(super) fn start(lab: &Lab) -> Result<Running, String> {
    peers::find("piko")?;
    let site = lab.site();
    let ports: [Port; 5] = std::array::from_fn(|_| Port::reserve());
    let [proxy, upstream, admin, gossip, raw] =
        ports.each_ref().map(|port| port.number().to_string());
    let at = |port: &str| format!("127.0.0.1:{port}");
    let server = [
        "server",
        "--proxy.bind-addr",
        &at(&proxy),
        "--upstream.bind-addr",
        &at(&upstream),
        "--admin.bind-addr",
        &at(&admin),
        "--gossip.bind-addr",
        &at(&gossip),
    ];
    let server = daemon(site.path(), "piko", &server);
    service::wait_listening(ports[1].number());
    let url = format!("http://{}", at(&upstream));
    let origin = lab.origin.address().to_string();
    let agent = ["agent", "tcp", "raw", &origin, "--connect.url", &url];
    let agent = daemon(site.path(), "piko", &agent);
    let url = format!("http://{}", at(&proxy));
    let forward = ["forward", "tcp", &raw, "raw", "--connect.url", &url];
    let forward = daemon(site.path(), "piko", &forward);
    service::wait_listening(ports[4].number());
    let [proxy, upstream, admin, gossip, raw] = ports;
    let running = Running::at(Way::Piko, raw)
        .process("server", server)
        .process("agent", agent)
        .process("forward", forward);
    Ok(running.keep((proxy, upstream, admin, gossip)).keep(site))
}
