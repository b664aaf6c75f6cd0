//! chisel: a reverse port over SSH in a WebSocket.

use sallyport_tests::Port;

use super::{Running, Way};
use crate::lab::Lab;
use crate::peers;

pub(super) fn start(lab: &Lab) -> Result<Running, String> {
    let chisel = peers::find("chisel")?;
    let site = lab.site();
    let (control, raw) = (Port::reserve(), Port::reserve());
    let (ip, port) = (lab.near.ip().to_string(), control.number().to_string());
    let server = ["server", "--reverse", "--host", &ip, "--port", &port];
    let server = lab.near.daemon(site.path(), &chisel, &server);
    lab.near.wait_listening(control.number());
    let url = format!("http://{}", lab.near.at(control.number()));
    let forward = format!("R:{}:{}", lab.near.at(raw.number()), lab.origin.address());
    let client = ["client", &*url, &*forward];
    let client = lab.far.daemon(site.path(), &chisel, &client);
    lab.near.wait_listening(raw.number());
    let running = Running::at(Way::Chisel, lab, raw).process("server", server);
    Ok(running.process("client", client).keep(control).keep(site))
}
