//! chisel: a reverse port over SSH in a WebSocket.

use sallyport_tests::{Port, service};

use super::{Running, Way, daemon};
use crate::lab::Lab;
use crate::peers;

pub(super) fn start(lab: &Lab) -> Result<Running, String> {
    peers::find("chisel")?;
    let site = lab.site();
    let (control, raw) = (Port::reserve(), Port::reserve());
    let number = control.number().to_string();
    let server = [
        "server",
        "--reverse",
        "--host",
        "127.0.0.1",
        "--port",
        &number,
    ];
    let server = daemon(site.path(), "chisel", &server);
    service::wait_listening(control.number());
    let forward = format!("R:127.0.0.1:{}:{}", raw.number(), lab.origin.address());
    let client = ["client", &format!("http://127.0.0.1:{number}"), &forward];
    let client = daemon(site.path(), "chisel", &client);
    service::wait_listening(raw.number());
    let running = Running::at(Way::Chisel, raw).process("server", server);
    Ok(running.process("client", client).keep(control).keep(site))
}
