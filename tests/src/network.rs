//! Two hosts of our own: network namespaces joined by a virtual cable.

use std::process::Command;

use crate::client::{run, run_ok};

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

    /// Lays it; `None`, with a message, where this process may not make namespaces.
    ///
    /// # Panics
    /// If it is only half laid.
    #[must_use]
    pub fn lay() -> Option<Self> {
        let id = std::process::id();
        let cable = Self {
            names: [format!("sp{id}a"), format!("sp{id}b")],
        };
        let [first, second] = &cable.names;
        if !run(Command::new("ip").args(["netns", "add", first]))
            .status
            .success()
        {
            #[expect(clippy::print_stderr, reason = "a skipped test says so")]
            {
                eprintln!("skipped: this user may not make network namespaces");
            }
            return None;
        }
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
        let nft = |args: &[&str]| {
            run_ok(
                Command::new("ip")
                    .args(["netns", "exec", self.first(), "nft"])
                    .args(args),
            );
        };
        nft(&["add", "table", "inet", "faults"]);
        nft(&[
            "add",
            "chain",
            "inet",
            "faults",
            "in",
            "{ type filter hook input priority 0; }",
        ]);
        nft(&[
            "add",
            "rule",
            "inet",
            "faults",
            "in",
            &format!("{expression} drop"),
        ]);
    }

    /// Nothing is dropped any more.
    pub fn heal(&self) {
        run_ok(Command::new("ip").args([
            "netns",
            "exec",
            self.first(),
            "nft",
            "delete",
            "table",
            "inet",
            "faults",
        ]));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            drop(run(Command::new("ip").args(["netns", "delete", name])));
        }
    }
}

fn ip(args: &[&str]) {
    run_ok(Command::new("ip").args(args));
}
