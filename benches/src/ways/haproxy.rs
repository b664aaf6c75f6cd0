//! Two HAProxy in TCP mode, one behind the other.

use std::fs;

use sallyport_tests::{Port, service};

use super::{Running, Way, daemon, ours};
use crate::lab::Lab;
use crate::peers;

pub(super) fn start(way: Way, lab: &Lab) -> Result<Running, String> {
    peers::find("haproxy")?;
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
        "  default_backend next\n".to_owned()
    };
    let hop = |name: &str, port: u16, choose: &str, to: &str| {
        let config = format!(
            "global\n  maxconn 4096\ndefaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n  \
             timeout client 10m\n  timeout server 10m\nfrontend in\n  bind 127.0.0.1:{port}\n{choose}\
             backend next\n  server next {to}\n",
        );
        let path = site.path().join(format!("{name}.cfg"));
        fs::write(&path, config).map_err(|error| error.to_string())?;
        let path = path.display().to_string();
        let started = daemon(site.path(), "haproxy", &["-db", "-f", &path]);
        service::wait_listening(port);
        Ok::<_, String>(started)
    };
    let origin = lab.origin.address().to_string();
    let inner = hop(
        "inner",
        second.number(),
        "  default_backend next\n",
        &origin,
    )?;
    let outer = hop(
        "outer",
        first.number(),
        &choose,
        &format!("127.0.0.1:{}", second.number()),
    )?;
    let running = Running::at(way, first)
        .process("outer", outer)
        .process("inner", inner);
    let running = if by_name {
        running.greeting(ours::client_hello(ours::BLIND))
    } else {
        running
    };
    Ok(running.keep(second).keep(site))
}
