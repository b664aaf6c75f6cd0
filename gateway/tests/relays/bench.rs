//! A gateway as its own process, and relays that are nothing but the link crate.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sallyport_link::dial::{Dialled, Introduce};
use sallyport_link::proxy::ProxyRules;
use sallyport_link::token::Grant;
use sallyport_link::{
    Choice, DialError, Dialer, Flow, GatewayAddress, GatewayFile, Key, NodeIdentity, Settings,
    Tunnel, TunnelStream,
};
use sallyport_ops::Tasks;
use sallyport_ops::admin::ask;
use sallyport_wire::message::{
    Advertise, Advertised, ControlKind, Head, Hello, Kind, Offer, Protocol, Rotate,
};
use sallyport_wire::{BINDING_LEN, Code, NodeName, VERSIONS};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::Span;

use crate::port::Port;

/// Far above any figure that is promised.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// A running gateway in a directory of its own.
pub(crate) struct Gateway {
    dir: TempDir,
    child: Option<Child>,
    _port: Port,
}

impl Gateway {
    /// A gateway on a free port of loopback with `more` in its configuration.
    pub(crate) async fn start(more: &str) -> Self {
        let mut gateway = Self::prepare(more);
        gateway.run().await;
        gateway
    }

    /// As [`Gateway::start`], without starting the process.
    pub(crate) fn prepare(more: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let port = Port::reserve();
        let url = format!("https://127.0.0.1:{}", port.number());
        let config = dir.path().join("gw");
        let args = ["init", "--url", &url, "--dir"];
        let made = Self::command(dir.path())
            .args(args)
            .arg(&config)
            .output()
            .expect("it runs");
        assert!(made.status.success(), "{made:?}");
        let file = config.join("gateway.toml");
        let text = std::fs::read_to_string(&file).expect("written");
        let text = text.replace("[::]:", "127.0.0.1:");
        std::fs::write(&file, format!("{text}\n{more}\n")).expect("writable");
        Self {
            dir,
            child: None,
            _port: port,
        }
    }

    /// Runs the process until it ends by itself.
    pub(crate) fn run_to_its_end(&self) -> Output {
        let mut command = Self::command(self.dir.path());
        command.args(["run", "--config"]).arg(self.config());
        command.output().expect("it runs")
    }

    /// Starts the process and waits until it serves.
    pub(crate) async fn run(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"));
        let mut command = Self::command(self.dir.path());
        command
            .args(["run", "--config"])
            .arg(self.config())
            .env("LOGLEVEL", "debug");
        command.stdout(Stdio::null()).stderr(log.expect("writable"));
        self.child = Some(command.spawn().expect("it starts"));
        self.until(|status| status.get("url").is_some()).await;
    }

    /// Ends the process as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill().is_ok();
            let _reaped = child.wait().is_ok();
        }
    }

    /// Puts keys in front of its configuration and sends SIGHUP.
    pub(crate) async fn reconfigure(&self, keys: &str) {
        let text = std::fs::read_to_string(self.config()).expect("its configuration");
        std::fs::write(self.config(), format!("{keys}{text}")).expect("writable");
        self.signal("-HUP");
        eventually(async || {
            let log = self.log();
            (log.contains("configuration taken") || log.contains("not taken")).then_some(())
        })
        .await;
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    fn signal(&self, signal: &str) {
        let id = self
            .child
            .as_ref()
            .map(|child| child.id().to_string())
            .expect("it runs");
        let sent = Command::new("kill")
            .args([signal, &id])
            .status()
            .expect("kill is there");
        assert!(sent.success());
    }

    /// Waits until the process has ended by itself.
    pub(crate) async fn ended(&mut self) {
        let mut child = self.child.take().expect("it runs");
        eventually(async || child.try_wait().ok().flatten()).await;
    }

    /// `status --json`, over the admin socket.
    pub(crate) async fn status(&self) -> Option<Value> {
        let socket = self.dir.path().join("gw");
        let socket = sallyport_ops::places::admin_socket("gateway", &socket.join("gateway.toml"));
        ask(&socket, "GET", "/status", None).await.ok()
    }

    /// Waits until the status is as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = eventually(async || self.status().await.filter(|status| wanted(status)));
        tokio::select! {
            status = found => status,
            () = tokio::time::sleep(BOUND) => panic!("{:?}\n{}", self.status().await, self.log()),
        }
    }

    /// Waits until a session is up, or is not.
    pub(crate) async fn until_session(&self, id: &str, up: bool) {
        self.until(|status| {
            let sessions = status["sessions"].as_array().cloned().unwrap_or_default();
            sessions
                .iter()
                .any(|session| session["id"] == id && session["up"] == true)
                == up
        })
        .await;
    }

    /// Waits for a line of its log with all of `parts`.
    pub(crate) async fn until_logged(&self, parts: &[&str]) {
        let told = |log: String| {
            log.lines()
                .any(|line| parts.iter().all(|part| line.contains(part)))
        };
        eventually(async || told(self.log()).then_some(())).await;
    }

    /// Its public address.
    pub(crate) fn address(&self) -> SocketAddr {
        let file = self.file();
        file.gateways
            .first()
            .and_then(|own| own.url.address())
            .expect("an address")
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until a node's name is on disk.
    pub(crate) async fn until_bound(&self, node: &str) {
        let names = self.dir.path().join("state/names.json");
        let bound = || std::fs::read_to_string(&names).is_ok_and(|text| text.contains(node));
        eventually(async || bound().then_some(())).await;
    }

    /// A path in its directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("gw/gateway.toml")
    }

    /// The file that nodes get.
    pub(crate) fn file(&self) -> GatewayFile {
        GatewayFile::load(&self.dir.path().join("gw/gateway.json")).expect("its own file")
    }

    /// Runs one of its commands.
    pub(crate) fn ask(&self, args: &[&str]) -> String {
        let mut command = Self::command(self.dir.path());
        let output = command
            .args(args)
            .arg("--config")
            .arg(self.config())
            .output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Status and body of a GET, by curl.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let address = self
            .file()
            .gateways
            .first()
            .expect("itself")
            .url
            .to_string();
        let output = tokio::process::Command::new("curl")
            .args(["-sS", "-k", "--max-time", "20", "-w", "\n%{http_code}"])
            .arg(format!("{}{path}", address.trim_end_matches('/')))
            .kill_on_drop(true)
            .output()
            .await
            .expect("curl is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').expect("two lines");
        (status.parse().expect("a status"), body.to_owned())
    }

    fn command(dir: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sallyport-gateway"));
        command.env("SALLYPORT_STATE_DIR", dir.join("state"));
        command
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A node: its name, its key, and what it knows of the gateway.
pub(crate) struct Node {
    name: NodeName,
    identity: NodeIdentity,
    key: Key,
    gateway: GatewayAddress,
    tasks: Tasks,
    _dir: TempDir,
}

struct Introduction<'n> {
    node: &'n Node,
    generation: u64,
    successor_of: u64,
}

impl Introduce for Introduction<'_> {
    fn hello(&self, audience: &str, binding: &[u8; BINDING_LEN]) -> Result<Hello, String> {
        let (token, proof) = self.node.proof(audience, binding)?;
        Ok(Hello {
            oldest: *VERSIONS.start(),
            newest: *VERSIONS.end(),
            node: self.node.name.to_string(),
            generation: self.generation,
            successor_of: self.successor_of,
            token,
            node_key: self.node.identity.public().to_vec().into(),
            proof,
            ..Hello::default()
        })
    }
}

impl Node {
    /// A node with a fresh key of its own.
    pub(crate) fn new(name: &str, gateway: &Gateway) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = gateway.file();
        Self {
            name: name.parse().expect("a node name"),
            identity: NodeIdentity::load_or_create(dir.path()).expect("a fresh identity"),
            key: file.keys.first().expect("one key").clone(),
            gateway: file.gateways.first().expect("itself").clone(),
            tasks: Tasks::new(),
            _dir: dir,
        }
    }

    /// With the first key of a file instead.
    pub(crate) fn with_key_of(self, file: &Path) -> Self {
        let file = GatewayFile::load(file).expect("a fair file");
        Self {
            key: file.keys.first().expect("one key").clone(),
            ..self
        }
    }

    /// Dials over TLS with this generation.
    pub(crate) async fn dial(&self, generation: u64) -> Result<Tunnel, Code> {
        self.dial_over(Choice::Tls, generation, 0).await
    }

    /// Dials.
    pub(crate) async fn dial_over(
        &self,
        choice: Choice,
        generation: u64,
        successor_of: u64,
    ) -> Result<Tunnel, Code> {
        let dialer = Dialer::new(
            Arc::new(Settings::relay()),
            ProxyRules::none(),
            self.tasks.clone(),
        );
        let who = Introduction {
            node: self,
            generation,
            successor_of,
        };
        match dialer.dial(&self.gateway, choice, &who).await {
            Ok(Dialled { tunnel, .. }) => Ok(tunnel),
            Err(error) => Err(refusal(&error).unwrap_or_else(|| panic!("{error:?}"))),
        }
    }

    /// Dials, echoes probes, answers every HTTP stream with its name, and offers `homes`.
    pub(crate) async fn serve(&self, generation: u64, homes: &[Offer]) -> (Tunnel, Vec<Code>) {
        let tunnel = self.dial(generation).await.expect("let in");
        self.answer(&tunnel);
        let refused = advertise(&tunnel, homes).await;
        (tunnel, refused)
    }

    /// Answers streams in the background: probes by their echo, the rest by the node's name.
    pub(crate) fn answer(&self, tunnel: &Tunnel) {
        let (tunnel, tasks, name) = (tunnel.clone(), self.tasks.clone(), self.name.to_string());
        self.tasks.spawn(Span::none(), async move {
            while let Some(incoming) = tunnel.accept().await {
                let (name, tunnel) = (name.clone(), tunnel.clone());
                tasks.spawn(Span::none(), async move {
                    let Ok((head, stream)) = incoming.head(BOUND).await else {
                        return;
                    };
                    talk(&tunnel, &name, &head, stream).await;
                });
            }
        });
    }

    /// A fresh token for a live tunnel.
    pub(crate) fn rotate(&self, tunnel: &Tunnel) -> Rotate {
        let proof = self.proof(&self.gateway.url.audience(), tunnel.binding());
        let (token, proof) = proof.expect("minted");
        Rotate { token, proof }
    }

    fn proof(
        &self,
        audience: &str,
        binding: &[u8; BINDING_LEN],
    ) -> Result<(String, bytes::Bytes), String> {
        let grant = Grant {
            node: &self.name,
            audience,
            binding,
        };
        let proof = self.identity.prove(&self.key, &grant, SystemTime::now());
        proof
            .map(|proof| (proof.token, proof.proof))
            .map_err(|error| error.to_string())
    }
}

async fn talk(tunnel: &Tunnel, name: &str, head: &Head, mut stream: TunnelStream) {
    stream.accept();
    let _however_it_ends = match head.kind() {
        Kind::Probe => echo_probe(stream).await.is_ok(),
        Kind::Udp => echo_datagrams(&stream.into_flow(tunnel)).await,
        Kind::Http => answer_once(stream, name).await.is_ok(),
        Kind::Tcp | Kind::Tls => greet_and_repeat(stream, name).await.is_ok(),
    };
}

async fn echo_probe(mut stream: TunnelStream) -> io::Result<()> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    let _its_end = stream.read(&mut bytes).await?;
    stream.shutdown().await
}

async fn echo_datagrams(flow: &Flow) -> bool {
    while let Some(datagram) = flow.recv().await {
        if flow.send(datagram).await.is_err() {
            return false;
        }
    }
    true
}

async fn answer_once(mut stream: TunnelStream, name: &str) -> io::Result<usize> {
    let mut request = vec![0; 4_096];
    let _however_much = stream.read(&mut request).await?;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
        name.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await?;
    stream.read(&mut request).await
}

async fn greet_and_repeat(mut stream: TunnelStream, name: &str) -> io::Result<()> {
    stream.write_all(name.as_bytes()).await?;
    stream.flush().await?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    stream.write_all(&rest).await?;
    stream.shutdown().await
}

/// Offers sessions and returns the codes of those that were not taken.
pub(crate) async fn advertise(tunnel: &Tunnel, homes: &[Offer]) -> Vec<Code> {
    let advertise = Advertise {
        revision: 1,
        home: homes.to_vec(),
        ..Advertise::default()
    };
    tunnel
        .send(ControlKind::Advertise(advertise))
        .await
        .expect("it is up");
    let ControlKind::Advertised(Advertised { refused, .. }) =
        tunnel.control().await.expect("an answer")
    else {
        panic!("another answer");
    };
    refused
        .iter()
        .map(|refused| Code::from_number(refused.code))
        .collect()
}

/// A public session.
pub(crate) fn offer(id: &str, protocol: Protocol) -> Offer {
    Offer {
        id: id.to_owned(),
        protocol: protocol.into(),
        weight: 1,
        anonymous: true,
        ..Offer::default()
    }
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(mut answer: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        if let Some(answer) = answer().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn refusal(error: &DialError) -> Option<Code> {
    error.refused().map(|(code, _retry_after)| code)
}
