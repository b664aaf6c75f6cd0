//! Two socat, one behind the other, a process for each connection.

use std::net::SocketAddr;

use sallyport_tests::Port;

use super::{Running, Way};
use crate::host::Host;
use crate::lab::Lab;
use crate::peers;

pub(super) fn start(lab: &Lab) -> Result<Running, String> {
    let socat = peers::find("socat")?;
    let site = lab.site();
    let (first, second) = (Port::reserve(), Port::reserve());
    let hop = |host: &Host, port: &Port, to: SocketAddr| {
        let listen = format!(
            "TCP-LISTEN:{},bind={},reuseaddr,fork,nodelay,backlog=512",
            port.number(),
            host.ip()
        );
        let args = [&*listen, &format!("TCP:{to},nodelay")];
        let started = host.daemon(site.path(), &socat, &args);
        host.wait_listening(port.number());
        started
    };
    let inner = hop(&lab.far, &second, lab.origin.address());
    let outer = hop(&lab.near, &first, lab.far.at(second.number()));
    let running = Running::at(Way::Socat, lab, first).process("outer", outer);
    Ok(running.process("inner", inner).keep(second).keep(site))
}
