//! Clients that run to their end: curl first of all.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs a command to its end and returns its standard output.
///
/// # Panics
/// If it cannot be started or fails; what it printed is shown.
pub fn run_ok(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?} failed with {}:\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started.
pub fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// A curl call in the making: trusts the gateway's own certificate only.
#[derive(Debug)]
pub struct Curl {
    command: Command,
    head: PathBuf,
}

impl Curl {
    /// A call that trusts the certificates in `ca`; header files go into `folder`.
    #[must_use]
    pub fn new(ca: &Path, folder: &Path) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let head = folder.join(format!("head-{number}"));
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--max-time",
            "120",
            "--noproxy",
            "*",
        ]);
        command
            .arg("--cacert")
            .arg(ca)
            .arg("--dump-header")
            .arg(&head);
        Self { command, head }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: AsRef<std::ffi::OsStr>>(mut self, args: &[A]) -> Self {
        self.command.args(args);
        self
    }

    /// Runs it.
    ///
    /// # Panics
    /// If curl is not installed.
    #[must_use]
    pub fn go(mut self) -> Answer {
        let output = run(&mut self.command);
        let head = std::fs::read_to_string(&self.head).unwrap_or_default();
        Answer {
            exit: output.status.code(),
            head,
            body: output.stdout,
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// What curl got.
#[derive(Debug)]
pub struct Answer {
    /// curl's exit code.
    pub exit: Option<i32>,
    /// Every response head, interim ones too.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
    /// What curl said went wrong.
    pub errors: String,
}

impl Answer {
    /// Status of the last response; 0 if there was none.
    #[must_use]
    pub fn status(&self) -> u16 {
        let last = self
            .head
            .lines()
            .rev()
            .find(|line| line.starts_with("HTTP/"));
        last.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0)
    }

    /// A header of the last response.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        self.head.lines().rev().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Checks that curl succeeded with this status.
    ///
    /// # Panics
    /// If it did not.
    #[must_use]
    pub fn expect(self, status: u16) -> Self {
        assert!(
            self.exit == Some(0) && self.status() == status,
            "expected {status}, got {} (curl {:?}: {})\n{}\n{}",
            self.status(),
            self.exit,
            self.errors,
            self.head,
            self.text().chars().take(500).collect::<String>(),
        );
        self
    }
}
