//! Real brokers on loopback.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::daemon::Daemon;
use crate::port::Port;
use crate::service::wait_listening;
use crate::{eventually, peers};

/// Which `nats-server`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatsVersion {
    /// Debian's, 2.9.
    Debian,
    /// A current one.
    Current,
}

impl NatsVersion {
    /// Its program.
    ///
    /// # Panics
    /// If it is not installed: `tests/setup` installs it.
    #[must_use]
    pub fn program(self) -> PathBuf {
        let path = match self {
            Self::Debian => PathBuf::from("/usr/sbin/nats-server"),
            Self::Current => peers().join("python/bin/nats-server"),
        };
        assert!(path.exists(), "nats-server is installed: run tests/setup");
        path
    }
}

/// One nats-server with JetStream, whose files outlive its process.
#[derive(Debug)]
pub struct NatsServer {
    /// The process; none while it is stopped.
    pub daemon: Option<Daemon>,
    /// Port that clients connect to.
    pub port: Port,
    version: NatsVersion,
    folder: PathBuf,
}

impl NatsServer {
    /// Starts one below `folder`; `more` is added to its configuration.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(version: NatsVersion, folder: &Path, more: &str) -> Self {
        let mut server = Self::prepare(version, folder, "n1", more);
        server.resume();
        server
    }

    /// Three servers that keep every value on each of them.
    ///
    /// # Panics
    /// If they do not start.
    #[must_use]
    pub fn three(version: NatsVersion, folder: &Path) -> [Self; 3] {
        let routes = [Port::reserve(), Port::reserve(), Port::reserve()];
        let all: Vec<_> = routes
            .iter()
            .map(|port| format!("\"nats-route://127.0.0.1:{}\"", port.number()))
            .collect();
        let mut servers = [1, 2, 3].map(|n| {
            let (own, name) = (&routes[n - 1], format!("n{n}"));
            let cluster = format!(
                "cluster {{ name: c, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
                own.number(),
                all.join(", ")
            );
            Self::prepare(version, &folder.join(&name), &name, &cluster)
        });
        for server in &mut servers {
            server.resume();
        }
        // the routes' ports are the servers' own from here on
        drop(routes);
        servers
    }

    fn prepare(version: NatsVersion, folder: &Path, name: &str, more: &str) -> Self {
        let port = Port::reserve();
        fs::create_dir_all(folder).expect("the folder is writable");
        let mut config = format!(
            "server_name: {name}\nlisten: \"127.0.0.1:{}\"\njetstream {{ store_dir: \"{}\" }}\n",
            port.number(),
            folder.join("jetstream").display()
        );
        write!(config, "{more}").expect("text");
        fs::write(folder.join("nats.conf"), config).expect("the folder is writable");
        Self {
            daemon: None,
            port,
            version,
            folder: folder.to_owned(),
        }
    }

    /// Starts it, again if it was stopped.
    ///
    /// # Panics
    /// If it does not start.
    pub fn resume(&mut self) {
        let config = self.folder.join("nats.conf");
        let daemon = Daemon::start(
            &self.version.program(),
            &["-c".as_ref(), config.as_os_str()],
            &self.folder.join("log"),
        );
        wait_listening(self.port.number());
        self.daemon = Some(daemon);
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.daemon = None;
    }

    /// Address for clients.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Waits until it has printed `text`.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_log(&self, text: &str) {
        eventually(&format!("nats-server says {text}"), || {
            let daemon = self.daemon.as_ref();
            daemon.is_some_and(|daemon| daemon.log().contains(text))
        });
    }
}

/// One redis-server, whose files outlive its process. It writes every change to disk before it answers.
#[derive(Debug)]
pub struct RedisServer {
    /// The process; none while it is stopped.
    pub daemon: Option<Daemon>,
    /// Port that clients connect to.
    pub port: Port,
    folder: PathBuf,
}

impl RedisServer {
    /// Starts one below `folder`; `more` is added to its configuration, in which `{port}` stands for its port.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(folder: &Path, more: &str) -> Self {
        let port = Port::reserve();
        fs::create_dir_all(folder).expect("the folder is writable");
        let number = port.number().to_string();
        let config = format!(
            "port {number}\nbind 127.0.0.1\ndir \"{}\"\nsave \"\"\nappendonly yes\nappendfsync always\n{}",
            folder.display(),
            more.replace("{port}", &number)
        );
        fs::write(folder.join("redis.conf"), config).expect("the folder is writable");
        let mut server = Self {
            daemon: None,
            port,
            folder: folder.to_owned(),
        };
        server.resume();
        server
    }

    /// Starts it, again if it was stopped.
    ///
    /// # Panics
    /// If it does not start.
    pub fn resume(&mut self) {
        let daemon = Daemon::start(
            Path::new("/usr/bin/redis-server"),
            &[self.folder.join("redis.conf")],
            &self.folder.join("log"),
        );
        wait_listening(self.port.number());
        self.daemon = Some(daemon);
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.daemon = None;
    }

    /// Address for clients.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }
}
