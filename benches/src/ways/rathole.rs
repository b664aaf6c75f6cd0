//! rathole: a server and a client, over plain TCP or encrypted with noise.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use sallyport_tests::{Daemon, Port, Site, run_ok};

use super::{Running, Way};
use crate::host::Host;
use crate::lab::Lab;
use crate::peers;

pub(super) fn start(way: Way, lab: &Lab) -> Result<Running, String> {
    let site = lab.site();
    let tunnel = tunnel(lab, &site, way, lab.origin.address())?;
    let running = Running::at(way, lab, tunnel.raw).process("server", tunnel.server);
    let running = running.process("client", tunnel.client);
    Ok(running.keep(tunnel.control).keep(site))
}

/// A server and a client, and the port that leads to their target.
pub(super) struct Tunnel {
    pub(super) raw: Port,
    pub(super) control: Port,
    pub(super) server: Daemon,
    pub(super) client: Daemon,
}

pub(super) fn tunnel(
    lab: &Lab,
    site: &Site,
    way: Way,
    target: SocketAddr,
) -> Result<Tunnel, String> {
    let rathole = peers::find("rathole")?;
    let (control, raw) = (Port::reserve(), Port::reserve());
    let [of_server, of_client] = if way == Way::RatholeNoise {
        noise()
    } else {
        [String::new(), String::new()]
    };
    let meeting = lab.near.at(control.number());
    let server = format!(
        "[server]\nbind_addr = \"{meeting}\"\ndefault_token = \"bench\"\n{of_server}\
         [server.services.raw]\nbind_addr = \"{}\"\n",
        lab.near.at(raw.number()),
    );
    let client = format!(
        "[client]\nremote_addr = \"{meeting}\"\ndefault_token = \"bench\"\n{of_client}\
         [client.services.raw]\nlocal_addr = \"{target}\"\n",
    );
    let start = |host: &Host, role: &str, config: String| {
        let path = site.path().join(format!("{role}.toml"));
        fs::write(&path, config).map_err(|error| error.to_string())?;
        let path = path.display().to_string();
        Ok::<_, String>(host.daemon(site.path(), &rathole, &[&format!("--{role}"), &path]))
    };
    let server = start(&lab.near, "server", server)?;
    lab.near.wait_listening(control.number());
    let client = start(&lab.far, "client", client)?;
    lab.near.wait_listening(raw.number());
    Ok(Tunnel {
        raw,
        control,
        server,
        client,
    })
}

/// Transport tables of the server and of the client.
fn noise() -> [String; 2] {
    let keys = run_ok(Command::new("rathole").arg("--genkey"));
    let mut keys = keys
        .lines()
        .filter(|line| !line.ends_with(':') && !line.is_empty());
    let (private, public) = (
        keys.next().unwrap_or_default(),
        keys.next().unwrap_or_default(),
    );
    let table = |role: &str, which: &str, key: &str| {
        format!(
            "[{role}.transport]\ntype = \"noise\"\n[{role}.transport.noise]\n{which} = \"{key}\"\n"
        )
    };
    [
        table("server", "local_private_key", private),
        table("client", "remote_public_key", public),
    ]
}
