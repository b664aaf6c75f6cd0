//! Clusters as `sallyport-relay cluster init` writes them, with the servers started as it says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::broker::NatsVersion;
use crate::client::run_ok;
use crate::daemon::Daemon;
use crate::network::wait_listening_inside;
use crate::port::Port;
use crate::program::binary;
use crate::service::wait_listening;
use crate::site::Relay;

/// A cluster that `cluster init` has written.
#[derive(Debug)]
pub struct Cluster {
    /// What it wrote, in one folder.
    pub folder: PathBuf,
    /// What it said.
    pub said: String,
    hosts: Vec<String>,
    _port: Option<Port>,
}

impl Cluster {
    /// One with a single server on loopback, in `cluster` below `folder`.
    #[must_use]
    pub fn single(folder: &Path) -> Self {
        let port = Port::reserve();
        let host = format!("127.0.0.1:{}", port.number());
        Self {
            _port: Some(port),
            ..Self::of(folder, &[host])
        }
    }

    /// One with servers at `hosts`, each `ADDRESS:PORT`.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn of(folder: &Path, hosts: &[String]) -> Self {
        let own = folder.join("cluster");
        let said = run_ok(&mut init(&own, hosts));
        Self {
            folder: own,
            said,
            hosts: hosts.to_vec(),
            _port: None,
        }
    }

    /// Starts a server as it was told: in its folder, with the file as it was written.
    ///
    /// # Panics
    /// If it does not listen soon.
    #[must_use]
    pub fn serve(&self, host: usize, version: NatsVersion) -> Daemon {
        let server = self.start(host, &version.program(), &[]);
        wait_listening(self.port(host));
        server
    }

    /// As [`serve`](Self::serve), inside a network namespace.
    ///
    /// # Panics
    /// As there.
    #[must_use]
    pub fn serve_inside(&self, host: usize, network: &str, version: NatsVersion) -> Daemon {
        let program = version.program().display().to_string();
        let args = ["netns", "exec", network, &program];
        let server = self.start(host, Path::new("ip"), &args);
        wait_listening_inside(network, self.port(host));
        server
    }

    fn start(&self, host: usize, program: &Path, before: &[&str]) -> Daemon {
        let folder = self.folder_of(host);
        let args = [before, &["-c", "nats-server.conf"]].concat();
        Daemon::start_with(program, &args, &folder.join("log"), |command| {
            command.current_dir(&folder);
        })
    }

    /// The folder for a server.
    #[must_use]
    pub fn folder_of(&self, host: usize) -> PathBuf {
        let name = self.hosts[host].replace(':', "_");
        self.folder.join(format!("nats-{name}"))
    }

    fn port(&self, host: usize) -> u16 {
        let port = self.hosts[host].rsplit(':').next();
        port.and_then(|port| port.parse().ok())
            .expect("ADDRESS:PORT")
    }

    /// Puts what nodes need beside a relay's configuration.
    ///
    /// # Panics
    /// If the folder is not writable.
    pub fn copy_to(&self, relay: &Relay) {
        for name in ["broker.json", "cluster-ca.pem", "cluster-keys.json"] {
            fs::copy(self.folder.join(name), relay.path().join(name)).expect("init wrote it");
        }
    }
}

/// `cluster init` for servers that keep their data in their own folders.
#[must_use]
pub fn init(folder: &Path, hosts: &[String]) -> Command {
    let mut command = Command::new(binary("relay"));
    command.args(["cluster", "init"]);
    for host in hosts {
        command.args(["--host", host]);
    }
    command.args(["--data", "jetstream", "--dir"]).arg(folder);
    command
}
