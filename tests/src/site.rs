//! An installation on loopback: gateways and relays as an administrator sets them up.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Curl, run, run_ok};
use crate::daemon::Daemon;
use crate::port::Port;
use crate::program;
use crate::wait::{eventually, eventually_some};

/// A temporary folder that holds everything of one test.
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
            port,
            folder,
            url,
            certificate,
            network: None,
            daemon: None,
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
            fs::copy(gateway.folder.join("gateway.json"), copy).expect("gateway.json is there");
        }
        let toml = format!("node = \"{node}\"\ngateway_file = \"gateways\"\n{config}");
        fs::write(folder.join("relay.toml"), toml).expect("the folder is writable");
        Relay {
            node: node.to_owned(),
            folder,
            network: None,
            daemon: None,
        }
    }
}

/// A gateway of a [`Site`].
#[derive(Debug)]
pub struct Gateway {
    port: Port,
    folder: PathBuf,
    url: String,
    certificate: PathBuf,
    network: Option<String>,
    daemon: Option<Daemon>,
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

    /// Its configuration folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
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
        let path = self.folder.join("gateway.toml");
        let text = fs::read_to_string(&path).expect("gateway.toml is there");
        let first = if extra.starts_with('[') {
            Some(0)
        } else {
            extra.find("\n[").map(|place| place + 1)
        };
        let (keys, tables) = extra.split_at(first.unwrap_or(extra.len()));
        fs::write(&path, format!("{keys}\n{text}\n{tables}\n")).expect("gateway.toml is writable");
    }

    /// Puts it into a network namespace from its next start on.
    pub fn enter(&mut self, network: &str) {
        self.network = Some(network.to_owned());
    }

    /// Starts it.
    pub fn start(&mut self) {
        self.start_prepared(|_command| {});
    }

    /// Starts it after `prepare`.
    pub fn start_prepared(&mut self, prepare: impl FnOnce(&mut Command)) {
        let (start, args) =
            in_network(self.network.as_deref(), "sallyport-gateway", &self.config());
        self.daemon = Some(Daemon::start_with(
            &start,
            &args,
            &self.folder.join("log"),
            |command| {
                command.env("LOGLEVEL", "debug");
                prepare(command);
            },
        ));
    }

    /// Waits until it takes connections.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_ready(&self) {
        let port = self.port();
        eventually(
            &format!("the gateway listens; log:\n{}", self.log()),
            || {
                let listens = || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
                (self.network.is_some() || listens()) && self.status().is_some()
            },
        );
    }

    /// The running process.
    ///
    /// # Panics
    /// If it was not started.
    pub const fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("the gateway was started")
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("gateway.toml")
    }

    /// Runs one of its commands.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program("sallyport-gateway"));
        command.args(args).arg("--config").arg(self.config());
        run(&mut command)
    }

    /// `status --json`, if it answers.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        let output = self.command(&["status", "--json"]);
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).ok())?
    }

    /// Waits until `session` is up.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn wait_session(&self, session: &str) {
        eventually(
            &format!("session {session} is up; status {:?}", self.status()),
            || self.has_session(session),
        );
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

    /// A line of its log with all of `parts`.
    ///
    /// # Panics
    /// If no such line comes.
    pub fn wait_for_line(&self, parts: &[&str]) -> String {
        eventually_some(
            &format!("the gateway logs {parts:?}; log:\n{}", self.log()),
            || {
                let log = self.log();
                log.lines()
                    .find(|line| parts.iter().all(|part| line.contains(part)))
                    .map(str::to_owned)
            },
        )
    }

    /// A curl call that trusts its certificate.
    #[must_use]
    pub fn curl(&self) -> Curl {
        Curl::new(&self.certificate, &self.folder)
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
    node: String,
    folder: PathBuf,
    network: Option<String>,
    daemon: Option<Daemon>,
}

impl Relay {
    /// Puts it into a network namespace from its next start on.
    pub fn enter(&mut self, network: &str) {
        self.network = Some(network.to_owned());
    }

    /// Starts it.
    #[must_use]
    pub fn started(mut self) -> Self {
        self.start();
        self
    }

    /// Starts it, again if it was ended.
    pub fn start(&mut self) {
        self.start_prepared(|_command| {});
    }

    /// Starts it after `prepare`.
    pub fn start_prepared(&mut self, prepare: impl FnOnce(&mut Command)) {
        let (start, args) = in_network(self.network.as_deref(), "sallyport-relay", &self.config());
        self.daemon = Some(Daemon::start_with(
            &start,
            &args,
            &self.folder.join("log"),
            |command| {
                command.env("LOGLEVEL", "debug");
                prepare(command);
            },
        ));
    }

    /// Node name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its configuration folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("relay.toml")
    }

    /// The running process.
    ///
    /// # Panics
    /// If it was not started.
    pub const fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("the relay was started")
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// A line of its log with all of `parts`.
    ///
    /// # Panics
    /// If no such line comes.
    pub fn wait_for_line(&self, parts: &[&str]) -> String {
        eventually_some(
            &format!("the relay logs {parts:?}; log:\n{}", self.log()),
            || {
                let log = self.log();
                log.lines()
                    .find(|line| parts.iter().all(|part| line.contains(part)))
                    .map(str::to_owned)
            },
        )
    }

    /// Runs one of its commands.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program("sallyport-relay"));
        command.args(args).arg("--config").arg(self.config());
        run(&mut command)
    }

    /// `status --json`, if it answers.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        let output = self.command(&["status", "--json"]);
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).ok())?
    }
}

/// How to start one of our programs, inside a network namespace if one is given.
fn in_network(network: Option<&str>, name: &str, config: &Path) -> (PathBuf, Vec<OsString>) {
    let run = [
        "run".into(),
        "--config".into(),
        config.as_os_str().to_owned(),
    ];
    let Some(network) = network else {
        return (program(name), run.into());
    };
    let inside = [
        "netns".into(),
        "exec".into(),
        network.into(),
        program(name).into_os_string(),
    ];
    (PathBuf::from("ip"), inside.into_iter().chain(run).collect())
}
