//! frp: frps and frpc, as they come (one multiplexed TLS connection).

use std::fs;

use sallyport_tests::{Port, service};

use super::{Running, Way, daemon};
use crate::lab::Lab;
use crate::peers;

pub(super) fn start(lab: &Lab) -> Result<Running, String> {
    peers::find("frps")?;
    peers::find("frpc")?;
    let site = lab.site();
    let (control, raw) = (Port::reserve(), Port::reserve());
    let origin = lab.origin.address();
    let server = format!(
        "bindAddr = \"127.0.0.1\"\nbindPort = {}\n",
        control.number()
    );
    let client = format!(
        "serverAddr = \"127.0.0.1\"\nserverPort = {}\n[[proxies]]\nname = \"raw\"\ntype = \"tcp\"\n\
         localIP = \"{}\"\nlocalPort = {}\nremotePort = {}\n",
        control.number(),
        origin.ip(),
        origin.port(),
        raw.number(),
    );
    let start = |program: &str, config: String| {
        let path = site.path().join(format!("{program}.toml"));
        fs::write(&path, config).map_err(|error| error.to_string())?;
        Ok::<_, String>(daemon(
            site.path(),
            program,
            &["-c", &path.display().to_string()],
        ))
    };
    let server = start("frps", server)?;
    service::wait_listening(control.number());
    let client = start("frpc", client)?;
    service::wait_listening(raw.number());
    let running = Running::at(Way::Frp, raw).process("frps", server);
    Ok(running.process("frpc", client).keep(control).keep(site))
}
