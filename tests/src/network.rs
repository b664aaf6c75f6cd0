//! Hosts of our own: network namespaces joined by a virtual cable, or by a switch.

use std::ffi::OsStr;
use std::process::Command;

use crate::client::{run, run_ok};
use crate::wait::eventually;

/// Set by whoever would rather miss what namespaces prove than see it fail.
const ALLOW_SKIP: &str = "SALLYPORT_TEST_ALLOW_SKIP";

/// Two namespaces with one cable between them; gone when dropped.
#[derive(Debug)]
pub struct Cable {
    names: [String; 2],
}

impl Cable {
    /// Address of the first end.
    pub const FIRST: &str = "10.231.7.1";
    /// Address of the second end.
    pub const SECOND: &str = "10.231.7.2";

    /// Lays it. `None` only where this process may not make namespaces and `SALLYPORT_TEST_ALLOW_SKIP` is set.
    ///
    /// # Panics
    /// If it cannot be laid: a test that is skipped unasked proves nothing and looks as if it did.
    #[must_use]
    pub fn lay() -> Option<Self> {
        let id = std::process::id();
        let cable = Self {
            names: [format!("sp{id}a"), format!("sp{id}b")],
        };
        let [first, second] = &cable.names;
        add_first(first)?;
        ip(&["netns", "add", second]);
        ip(&[
            "-n", first, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns",
            second,
        ]);
        for (name, address) in [(first, Self::FIRST), (second, Self::SECOND)] {
            ip(&[
                "-n",
                name,
                "address",
                "add",
                &format!("{address}/24"),
                "dev",
                "cable",
            ]);
            ip(&["-n", name, "link", "set", "cable", "up"]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        Some(cable)
    }

    /// Name of the first namespace.
    #[must_use]
    pub fn first(&self) -> &str {
        &self.names[0]
    }

    /// Name of the second namespace.
    #[must_use]
    pub fn second(&self) -> &str {
        &self.names[1]
    }

    /// From now on the first end drops what matches an nft expression, e.g. `meta l4proto udp`.
    pub fn drop_matching(&self, expression: &str) {
        drop_at(self.first(), expression);
    }

    /// From now on nothing arrives at either end, and nobody is told.
    pub fn cut(&self) {
        for end in &self.names {
            drop_at(end, "iif \"cable\"");
        }
    }

    /// Nothing is dropped any more.
    pub fn heal(&self) {
        for end in &self.names {
            heal(end);
        }
    }
}

/// Several namespaces on one switch; gone when dropped.
#[derive(Debug)]
pub struct Lan {
    switch: String,
    hosts: Vec<String>,
}

impl Lan {
    /// Sets it up with so many hosts, counted from 0. `None` as for [`Cable::lay`].
    ///
    /// # Panics
    /// As there.
    #[must_use]
    pub fn lay(hosts: usize) -> Option<Self> {
        let id = std::process::id();
        let lan = Self {
            switch: format!("sp{id}s"),
            hosts: (0..hosts).map(|host| format!("sp{id}h{host}")).collect(),
        };
        add_first(&lan.switch)?;
        let switch = lan.switch.as_str();
        ip(&["-n", switch, "link", "add", "switch", "type", "bridge"]);
        ip(&["-n", switch, "link", "set", "switch", "up"]);
        for (number, name) in lan.hosts.iter().enumerate() {
            let port = format!("port{number}");
            ip(&["netns", "add", name]);
            ip(&[
                "-n", switch, "link", "add", &port, "type", "veth", "peer", "name", "lan", "netns",
                name,
            ]);
            ip(&["-n", switch, "link", "set", &port, "master", "switch", "up"]);
            let address = format!("{}/24", Self::address(number));
            ip(&["-n", name, "address", "add", &address, "dev", "lan"]);
            ip(&["-n", name, "link", "set", "lan", "up"]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        Some(lan)
    }

    /// Address of a host.
    #[must_use]
    pub fn address(host: usize) -> String {
        format!("10.231.8.{}", host + 1)
    }

    /// Name of its namespace.
    #[must_use]
    pub fn host(&self, host: usize) -> &str {
        &self.hosts[host]
    }

    /// From now on the host drops what matches an nft expression, and nobody is told.
    pub fn drop_at(&self, host: usize, expression: &str) {
        drop_at(self.host(host), expression);
    }

    /// The host drops nothing any more.
    pub fn heal(&self, host: usize) {
        heal(self.host(host));
    }

    /// From now on the host takes nothing but what belongs to connections that it began, and what matches one of these
    /// nft expressions: a firewall as nodes of a cluster have it, beside what [`drop_at`](Self::drop_at) drops.
    pub fn take_only(&self, host: usize, expressions: &[&str]) {
        let host = self.host(host);
        nft(host, &["add", "table", "inet", "firewall"]);
        nft(
            host,
            &[
                "add",
                "chain",
                "inet",
                "firewall",
                "in",
                "{ type filter hook input priority 1; policy drop; }",
            ],
        );
        let always = ["iif \"lo\"", "ct state established,related"];
        for expression in always.iter().chain(expressions) {
            let rule = format!("{expression} accept");
            nft(host, &["add", "rule", "inet", "firewall", "in", &rule]);
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in self.hosts.iter().chain([&self.switch]) {
            drop(run(Command::new("ip").args(["netns", "delete", name])));
        }
    }
}

/// Adds the first namespace of a test; `None` where that is not allowed and the test may be skipped.
fn add_first(name: &str) -> Option<()> {
    let added = run(Command::new("ip").args(["netns", "add", name]));
    if added.status.success() {
        return Some(());
    }
    let why = String::from_utf8_lossy(&added.stderr);
    assert!(
        std::env::var_os(ALLOW_SKIP).is_some(),
        "no network namespace: {why}Run the tests as root, or set {ALLOW_SKIP}=1 to go without this one"
    );
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    {
        eprintln!("SKIPPED, proves nothing: no network namespace: {why}");
    }
    None
}

fn heal(end: &str) {
    nft(end, &["add", "table", "inet", "faults"]); // lest there is none
    nft(end, &["delete", "table", "inet", "faults"]);
}

fn drop_at(end: &str, expression: &str) {
    nft(end, &["add", "table", "inet", "faults"]);
    nft(
        end,
        &[
            "add",
            "chain",
            "inet",
            "faults",
            "in",
            "{ type filter hook input priority 0; }",
        ],
    );
    let rule = format!("{expression} drop");
    nft(end, &["add", "rule", "inet", "faults", "in", &rule]);
}

fn nft(end: &str, args: &[&str]) {
    run_ok(inside(end, "nft").args(args));
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            drop(run(Command::new("ip").args(["netns", "delete", name])));
        }
    }
}

/// A program to be run inside a namespace.
#[must_use]
pub fn inside(network: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", network]).arg(program);
    command
}

/// Waits until a URL is answered inside a namespace.
///
/// # Panics
/// If it is not.
pub fn wait_answer(network: &str, url: &str) {
    let mut curl = inside(network, "curl");
    curl.args([
        "--silent",
        "--fail",
        "--noproxy",
        "*",
        "--max-time",
        "5",
        url,
    ]);
    eventually(&format!("{url} answers in {network}"), || {
        run(&mut curl).status.success()
    });
}

/// Waits until something takes TCP connections at a port of a namespace.
///
/// # Panics
/// If nothing does.
pub fn wait_listening_inside(network: &str, port: u16) {
    let listening = format!("sport = :{port}");
    eventually(&format!("port {port} listens in {network}"), || {
        let mut sockets = inside(network, "ss");
        let shown = run(sockets.args(["-Hltn", &listening]));
        !shown.stdout.is_empty()
    });
}

fn ip(args: &[&str]) {
    run_ok(Command::new("ip").args(args));
}
