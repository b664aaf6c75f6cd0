//! Two socat, one behind the other, a process for each connection.

use sallyport_tests::{Port, service};

use super::{Running, Way, daemon};
use crate::lab::Lab;
use crate::peers;

pub(super) fn start(lab: &Lab) -> Result<Running, String> {
    peers::find("socat")?;
    let site = lab.site();
    let (first, second) = (Port::reserve(), Port::reserve());
    let hop = |port: u16, to: &str| {
        let listen = format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,nodelay,backlog=512");
        let started = daemon(
            site.path(),
            "socat",
            &[&listen, &format!("TCP:{to},nodelay")],
        );
        service::wait_listening(port);
        started
    };
    let inner = hop(second.number(), &lab.origin.address().to_string());
    let outer = hop(first.number(), &format!("127.0.0.1:{}", second.number()));
    let running = Running::at(Way::Socat, first).process("outer", outer);
    Ok(running.process("inner", inner).keep(second).keep(site))
}
