//! Where a client, a proxy or the origin is: on this machine, or in a network namespace.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;

use sallyport_tests::{Daemon, service, wan};

/// A host with one address.
#[derive(Debug, Clone)]
pub struct Host {
    network: Option<String>,
    ip: IpAddr,
}

impl Host {
    /// This machine, by its loopback address.
    #[must_use]
    pub const fn here() -> Self {
        Self {
            network: None,
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// A network namespace.
    #[must_use]
    pub fn of_network(network: &str, ip: IpAddr) -> Self {
        Self {
            network: Some(network.to_owned()),
            ip,
        }
    }

    /// Name of its network namespace.
    #[must_use]
    pub fn network(&self) -> Option<&str> {
        self.network.as_deref()
    }

    /// A port of its address.
    #[must_use]
    pub const fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }

    /// Its address.
    #[must_use]
    pub const fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Does something there. What it makes of sockets stays there.
    ///
    /// # Panics
    /// If `work` does.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let Some(network) = &self.network else {
            return work();
        };
        // A thread that has entered a namespace stays there, so it is one for this alone.
        let there = || {
            wan::enter(network);
            work()
        };
        thread::scope(|scope| scope.spawn(there).join().expect("the work is done"))
    }

    /// A connection from there.
    ///
    /// # Errors
    /// If it is refused.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.within(|| TcpStream::connect(to))
    }

    /// Waits until something takes connections there.
    pub fn wait_listening(&self, port: u16) {
        let address = self.at(port);
        self.within(|| service::wait_listening_on(address));
    }

    /// A program that runs there, with its output in a file of `folder`.
    #[must_use]
    pub fn daemon(&self, folder: &Path, program: &Path, args: &[&str]) -> Daemon {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let log = folder.join(format!("{name}.log"));
        let Some(network) = &self.network else {
            return Daemon::start(program, args, &log);
        };
        let mut inside: Vec<OsString> = ["netns", "exec", network].map(Into::into).into();
        inside.push(program.into());
        inside.extend(args.iter().map(Into::into));
        Daemon::start(&PathBuf::from("ip"), &inside, &log)
    }
}
