//! An installation on loopback: gateways and relays as an administrator sets them up.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Curl, run_ok};
use crate::port::Port;
use crate::program;
use crate::program::Program;
use crate::wait::eventually;

/// A temporary folder that holds everything of one test. It goes last: programs write there until they have ended.
#[derive(Debug)]
pub struct Site {
    folder: TempDir,
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// An empty installation.
    ///
    /// # Panics
    /// If the temporary folder is not writable.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("sp-")
            .tempdir()
            .expect("a temporary folder");
        Self { folder }
    }

    /// An empty installation in a folder of its own below `parent`.
    ///
    /// # Panics
    /// If `parent` is not writable.
    #[must_use]
    pub fn within(parent: &Path) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("sp-")
            .tempdir_in(parent)
            .expect("a temporary folder");
        Self { folder }
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A gateway made by `init` for `https://127.0.0.1`, and started.
    #[must_use]
    pub fn gateway(&self, name: &str) -> Gateway {
        self.gateway_with(name, "127.0.0.1", "")
    }

    /// A gateway made by `init` for `https://HOST`, its `gateway.toml` extended by `extra`, and started.
    #[must_use]
    pub fn gateway_with(&self, name: &str, host: &str, extra: &str) -> Gateway {
        let mut gateway = self.gateway_init(name, host, &[]);
        gateway.extend(extra);
        gateway.start();
        gateway.wait_ready();
        gateway
    }

    /// A gateway made by `init`, not started.
    #[must_use]
    pub fn gateway_init(&self, name: &str, host: &str, args: &[&str]) -> Gateway {
        let port = Port::reserve();
        let folder = self.path().join(name);
        let given = args
            .iter()
            .position(|arg| *arg == "--cert")
            .and_then(|at| args.get(at + 1));
        let certificate = given.map_or_else(|| folder.join("cert.pem"), PathBuf::from);
        let url = format!("https://{host}:{}", port.number());
        let mut init = Command::new(program("sallyport-gateway"));
        init.args(["init", "--url", &url, "--dir"])
            .arg(&folder)
            .args(args);
        run_ok(&mut init);
        Gateway {
            program: Program::new("gateway", folder),
            url,
            certificate,
            port,
        }
    }

    /// A relay on node `node` with the gateway's file copied beside it and these sessions, and started.
    #[must_use]
    pub fn relay(&self, node: &str, gateway: &Gateway, sessions: &str) -> Relay {
        let relay = self.relay_stopped(node, &[gateway], sessions);
        relay.started()
    }

    /// A relay that has been configured and not started.
    ///
    /// # Panics
    /// If the folder is not writable.
    #[must_use]
    pub fn relay_stopped(&self, node: &str, gateways: &[&Gateway], config: &str) -> Relay {
        let folder = self.path().join(format!("relay-{node}"));
        let files = folder.join("gateways");
        fs::create_dir_all(&files).expect("the folder is writable");
        for gateway in gateways {
            let copy = files.join(format!("{}.json", gateway.port.number()));
            fs::copy(gateway.path().join("gateway.json"), copy).expect("gateway.json is there");
        }
        let toml = format!("node = \"{node}\"\ngateway_file = \"gateways\"\n{config}");
        fs::write(folder.join("relay.toml"), toml).expect("the folder is writable");
        Relay {
            program: Program::new("relay", folder),
            node: node.to_owned(),
        }
    }
}

/// A gateway of a [`Site`].
#[derive(Debug)]
pub struct Gateway {
    program: Program,
    url: String,
    certificate: PathBuf,
    port: Port,
}

impl Deref for Gateway {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for Gateway {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}

impl Gateway {
    /// Its public port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its public URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its own certificate.
    #[must_use]
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Appends to `gateway.toml`; keys outside tables are put in front of its first table.
    ///
    /// # Panics
    /// If the file is not there.
    pub fn extend(&self, extra: &str) {
        let text = fs::read_to_string(self.config()).expect("gateway.toml is there");
        let first = if extra.starts_with('[') {
            Some(0)
        } else {
            extra.find("\n[").map(|place| place + 1)
        };
        let (keys, tables) = extra.split_at(first.unwrap_or(extra.len()));
        let all = format!("{keys}\n{text}\n{tables}\n");
        fs::write(self.config(), all).expect("gateway.toml is writable");
    }

    /// Waits until it takes connections.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_ready(&self) {
        let port = self.port();
        eventually("the gateway listens", || {
            let listens = || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
            (self.is_apart() || listens()) && self.status().is_some()
        });
    }

    /// Waits until `session` is up.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn wait_session(&self, session: &str) {
        eventually(&format!("session {session} is up"), || {
            self.has_session(session)
        });
    }

    /// Whether `session` is up just now.
    #[must_use]
    pub fn has_session(&self, session: &str) -> bool {
        let status = self.status().unwrap_or_default();
        let sessions = status
            .get("sessions")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        sessions.iter().any(|found| {
            found.get("id").and_then(Value::as_str) == Some(session)
                && found.get("up").and_then(Value::as_bool) == Some(true)
        })
    }

    /// Numbers of the tunnels that are up.
    #[must_use]
    pub fn tunnels(&self) -> Vec<u64> {
        let status = self.status().unwrap_or_default();
        let tunnels = status.get("tunnels").and_then(Value::as_array).cloned();
        let id = |tunnel: &Value| tunnel.get("id").and_then(Value::as_u64);
        tunnels.unwrap_or_default().iter().filter_map(id).collect()
    }

    /// A curl call that trusts its certificate.
    #[must_use]
    pub fn curl(&self) -> Curl {
        Curl::new(&self.certificate, self.path())
    }

    /// URL of a path in a session.
    #[must_use]
    pub fn session_url(&self, session: &str, path: &str) -> String {
        format!("{}/s/{session}{path}", self.url)
    }

    /// Address of its public port on an interface.
    #[must_use]
    pub fn address(&self, ip: IpAddr) -> std::net::SocketAddr {
        (ip, self.port()).into()
    }
}

/// A relay of a [`Site`].
#[derive(Debug)]
pub struct Relay {
    program: Program,
    node: String,
}

impl Deref for Relay {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for Relay {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}

impl Relay {
    /// Starts it.
    #[must_use]
    pub fn started(mut self) -> Self {
        self.start();
        self
    }

    /// Node name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }
}
