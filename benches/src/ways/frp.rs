//! frp: frps and frpc, as they come (one multiplexed TLS connection).

use std::fs;
use std::path::Path;

use sallyport_tests::Port;

use super::{Running, Way};
use crate::host::Host;
use crate::lab::Lab;
use crate::peers;

pub(super) fn start(lab: &Lab) -> Result<Running, String> {
    let (frps, frpc) = (peers::find("frps")?, peers::find("frpc")?);
    let site = lab.site();
    let (control, raw) = (Port::reserve(), Port::reserve());
    let origin = lab.origin.address();
    let server = format!(
        "bindAddr = \"{}\"\nbindPort = {}\n",
        lab.near.ip(),
        control.number()
    );
    let client = format!(
        "serverAddr = \"{}\"\nserverPort = {}\n[[proxies]]\nname = \"raw\"\ntype = \"tcp\"\n\
         localIP = \"{}\"\nlocalPort = {}\nremotePort = {}\n",
        lab.near.ip(),
        control.number(),
        origin.ip(),
        origin.port(),
        raw.number(),
    );
    let start = |host: &Host, program: &Path, config: String| {
        let name = program.file_name().unwrap_or_default();
        let path = site.path().join(name).with_extension("toml");
        fs::write(&path, config).map_err(|error| error.to_string())?;
        let path = path.display().to_string();
        Ok::<_, String>(host.daemon(site.path(), program, &["-c", &path]))
    };
    let server = start(&lab.near, &frps, server)?;
    lab.near.wait_listening(control.number());
    let client = start(&lab.far, &frpc, client)?;
    lab.near.wait_listening(raw.number());
    let running = Running::at(Way::Frp, lab, raw).process("frps", server);
    Ok(running.process("frpc", client).keep(control).keep(site))
}
