//! Two HAProxy in TCP mode, one behind the other.

use std::fs;
use std::net::SocketAddr;

use sallyport_tests::{Port, client_hello};

use super::{Running, Way, ours};
use crate::host::Host;
use crate::lab::Lab;
use crate::peers;

/// What is done with every connection.
const ALL: &str = "  default_backend next\n";

pub(super) fn start(way: Way, lab: &Lab) -> Result<Running, String> {
    let haproxy = peers::find("haproxy")?;
    let site = lab.site();
    let (first, second) = (Port::reserve(), Port::reserve());
    let by_name = way == Way::HaproxyBlind;
    let choose = if by_name {
        format!(
            "  tcp-request inspect-delay 5s\n  tcp-request content accept if {{ req.ssl_hello_type 1 }}\n  \
             use_backend next if {{ req.ssl_sni -i {} }}\n",
            ours::BLIND
        )
    } else {
        ALL.to_owned()
    };
    let hop = |host: &Host, name: &str, port: &Port, (choose, to): (&str, SocketAddr)| {
        let config = format!(
            "global\n  maxconn 4096\ndefaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n  \
             timeout client 10m\n  timeout server 10m\nfrontend in\n  bind {}\n{choose}\
             backend next\n  server next {to}\n",
            host.at(port.number())
        );
        let path = site.path().join(format!("{name}.cfg"));
        fs::write(&path, config).map_err(|error| error.to_string())?;
        let path = path.display().to_string();
        let started = host.daemon(site.path(), &haproxy, &["-db", "-f", &path]);
        host.wait_listening(port.number());
        Ok::<_, String>(started)
    };
    let inner = hop(&lab.far, "inner", &second, (ALL, lab.origin.address()))?;
    let next = lab.far.at(second.number());
    let outer = hop(&lab.near, "outer", &first, (&choose, next))?;
    let running = Running::at(way, lab, first)
        .process("outer", outer)
        .process("inner", inner);
    let running = if by_name {
        running.greeting(client_hello(ours::BLIND))
    } else {
        running
    };
    Ok(running.keep(second).keep(site))
}
