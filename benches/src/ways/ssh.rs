//! OpenSSH: a remote forward. On this machine only.

use std::path::Path;

use sallyport_tests::service::{Sshd, wait_listening};
use sallyport_tests::{Daemon, Port};

use super::{Running, Way};
use crate::cost::Process;
use crate::lab::Lab;
use crate::peers;

pub(super) fn start(lab: &Lab) -> Result<Running, String> {
    peers::find("ssh")?;
    peers::find("sshd")?;
    let site = lab.site();
    let server = Sshd::start(site.path());
    let raw = Port::reserve();
    let forward = format!("127.0.0.1:{}:{}", raw.number(), lab.origin.address());
    let mut client = server.client("ssh", server.port.number());
    client.args([
        "-N",
        "-o",
        "ExitOnForwardFailure=yes",
        "-R",
        &forward,
        "root@127.0.0.1",
    ]);
    let args: Vec<_> = client.get_args().map(ToOwned::to_owned).collect();
    let client = Daemon::start(Path::new("ssh"), &args, &site.path().join("ssh.log"));
    wait_listening(raw.number());
    let mut running = Running::at(Way::Ssh, lab, raw);
    running
        .processes
        .push(Process::new("sshd", server.daemon.id()));
    Ok(running.process("ssh", client).keep(server).keep(site))
}
