//! The peers' programs on this machine, with their versions.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use serde::Serialize;

/// Programs that take part, with the arguments that make them tell their version.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("rathole", &["--version"]),
    ("haproxy", &["-v"]),
    ("nginx", &["-v"]),
    ("ssh", &["-V"]),
    ("sshd", &[]),
    ("socat", &["-V"]),
    ("frps", &["--version"]),
    ("frpc", &["--version"]),
    ("chisel", &["--version"]),
    ("piko", &["--version"]),
    ("iperf3", &["--version"]),
    ("wrk", &["-v"]),
    ("h2load", &["--version"]),
    ("strace", &["--version"]),
];

/// A program, and its version if it is there.
#[derive(Debug, Serialize)]
pub struct Peer {
    /// Its name.
    pub program: &'static str,
    /// What it says of its version; none if it is absent.
    pub version: Option<String>,
}

/// Every program that takes part.
#[must_use]
pub fn all() -> Vec<Peer> {
    PROGRAMS
        .iter()
        .map(|(program, args)| Peer {
            program,
            version: find(program).ok().map(|path| version(path, args)),
        })
        .collect()
}

/// Where a program stands on PATH.
///
/// # Errors
/// If it stands nowhere there.
pub fn find(program: &str) -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| format!("{program} is not on PATH"))
}

/// The line that it prints about its version, else the first with a digit.
fn version(program: PathBuf, args: &[&str]) -> String {
    if args.is_empty() {
        return "as its client".to_owned();
    }
    let Ok(output) = Command::new(program).args(args).output() else {
        return "does not start".to_owned();
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let digits = |line: &&str| line.contains(|c: char| c.is_ascii_digit());
    let named = |line: &&str| line.contains("ersion") && digits(line);
    let line = said
        .lines()
        .find(named)
        .or_else(|| said.lines().find(digits));
    line.unwrap_or("unknown").trim().chars().take(60).collect()
}
