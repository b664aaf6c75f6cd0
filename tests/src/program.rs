//! One of our programs as it is installed: its folder, its file, its commands and, once started, its process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::client::{run, run_ok};
use crate::daemon::Daemon;
use crate::network::inside;
use crate::wait::eventually_some;

/// A program of ours with a configuration of its own.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    folder: PathBuf,
    config: PathBuf,
    network: Option<String>,
    daemon: Option<Daemon>,
}

impl Program {
    /// `sallyport-NAME`, configured by `NAME.toml` in `folder`.
    pub(crate) fn new(name: &'static str, folder: PathBuf) -> Self {
        Self {
            name,
            config: folder.join(name).with_extension("toml"),
            folder,
            network: None,
            daemon: None,
        }
    }

    /// Puts it into a network namespace from its next start on.
    pub fn enter(&mut self, network: &str) {
        self.network = Some(network.to_owned());
    }

    /// Whether it stands in a network namespace.
    pub(crate) const fn is_apart(&self) -> bool {
        self.network.is_some()
    }

    /// Starts it, again if it was ended.
    pub fn start(&mut self) {
        self.start_prepared(|_command| {});
    }

    /// Starts it without the lines that only a test wants, as it would run anywhere else.
    pub fn start_quietly(&mut self) {
        self.start_prepared(|command| {
            command.env("LOGLEVEL", "info");
        });
    }

    /// Starts it after `prepare`.
    pub fn start_prepared(&mut self, prepare: impl FnOnce(&mut Command)) {
        let binary = binary(self.name);
        let mut run = match &self.network {
            Some(network) => inside(network, binary),
            None => Command::new(binary),
        };
        run.arg("run").arg("--config").arg(&self.config);
        let args: Vec<_> = run.get_args().collect();
        let log = self.folder.join("log");
        let daemon = Daemon::start_with(Path::new(run.get_program()), &args, &log, |command| {
            command.env("LOGLEVEL", "debug");
            prepare(command);
        });
        self.daemon = Some(daemon);
    }

    /// The running process.
    ///
    /// # Panics
    /// If it was not started.
    pub const fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("the program was started")
    }

    /// Its configuration folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its log so far, of all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Waits until a line of its log holds all of `parts`, and returns that line.
    ///
    /// # Panics
    /// If no such line comes.
    pub fn wait_for_line(&self, parts: &[&str]) -> String {
        eventually_some(&format!("the {} logs {parts:?}", self.name), || {
            let log = self.log();
            log.lines()
                .find(|line| parts.iter().all(|part| line.contains(part)))
                .map(str::to_owned)
        })
    }

    /// Runs one of its commands.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(binary(self.name));
        command.args(args).arg("--config").arg(&self.config);
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

    /// A figure of its `/metrics`, named with its labels as it stands there; 0 if it is not there.
    #[must_use]
    pub fn metric(&self, name: &str) -> u64 {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "20"])
            .arg("--unix-socket")
            .arg(self.config.with_extension("sock"))
            .arg("http://admin/metrics");
        let text = run_ok(&mut curl);
        let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
        text.lines().find_map(value).unwrap_or(0)
    }
}

/// `sallyport-NAME`.
pub(crate) fn binary(name: &str) -> PathBuf {
    crate::program(&format!("sallyport-{name}"))
}
