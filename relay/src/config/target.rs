//! Where a session's program listens. Only this file decides it; nothing from a gateway ever does.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Where a session's program listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A TCP or UDP port.
    Net {
        /// Host, by default this machine.
        host: Host,
        /// Port, 1 to 65535.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// An address, or a name that is looked up for every connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// IPv4 or IPv6.
    Address(IpAddr),
    /// A DNS name.
    Name(String),
}

impl Target {
    /// Reads `HOST:PORT`, `[V6]:PORT` or `unix:PATH`; a relative path counts from `folder`.
    pub(super) fn read(text: &str, folder: &Path) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path, folder);
        }
        let form = || format!("target `{text}` must be HOST:PORT, [IPV6]:PORT or unix:/PATH");
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        let port = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(form)?;
        let host = host_of(host).ok_or_else(form)?;
        let many = |ip: &IpAddr| ip.is_unspecified() || ip.is_multicast();
        if matches!(&host, Host::Address(ip) if many(ip)) {
            return Err(format!(
                "target `{text}` names no single host: write 127.0.0.1 or [::1] for this machine"
            ));
        }
        Ok(Self::Net { host, port })
    }

    /// Whether it is a unix socket.
    #[must_use]
    pub const fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// What a request to it names as its host.
    #[must_use]
    pub fn authority(&self) -> String {
        match self {
            Self::Net { .. } => self.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net {
                host: Host::Address(IpAddr::V6(v6)),
                port,
            } => write!(f, "[{v6}]:{port}"),
            Self::Net {
                host: Host::Address(v4),
                port,
            } => write!(f, "{v4}:{port}"),
            Self::Net {
                host: Host::Name(name),
                port,
            } => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn unix(path: &str, folder: &Path) -> Result<Target, String> {
    /// `sun_path` of unix(7) less its closing zero.
    const MAX_SOCKET_PATH: usize = 107;
    let full = folder.join(path);
    match full.as_os_str().len() {
        _ if path.is_empty() => Err("target `unix:` lacks the socket's path".to_owned()),
        len if len > MAX_SOCKET_PATH => Err(format!(
            "the socket path `{}` is longer than {MAX_SOCKET_PATH} bytes",
            full.display()
        )),
        _ => Ok(Target::Unix(full)),
    }
}

fn host_of(text: &str) -> Option<Host> {
    if let Some(inner) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return inner.parse().ok().map(|v6| Host::Address(IpAddr::V6(v6)));
    }
    if let Ok(address) = text.parse() {
        return Some(Host::Address(IpAddr::V4(address)));
    }
    let letters = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let named = text.chars().any(|c| c.is_ascii_alphabetic()) && text.chars().all(letters);
    (named && text.len() <= 253).then(|| Host::Name(text.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Target, String> {
        Target::read(text, Path::new("/etc/sallyport"))
    }

    #[test]
    fn targets_read_back_as_written() {
        for text in [
            "127.0.0.1:8888",
            "[::1]:22",
            "db.example.org:5432",
            "unix:/run/app.sock",
        ] {
            assert_eq!(read(text).expect("a target").to_string(), text);
        }
        let beside = read("unix:app.sock").expect("a target");
        assert_eq!(beside, Target::Unix("/etc/sallyport/app.sock".into()));
    }

    #[test]
    fn what_names_no_single_place_is_refused() {
        for text in [
            "",
            "8888",
            "127.0.0.1",
            "127.0.0.1:0",
            ":80",
            "0.0.0.0:80",
            "[::]:80",
            "::1:80",
            "unix:",
            "a b:1",
            "1.2.3:4",
            "224.0.0.1:5",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let long = format!("unix:/{}", "a".repeat(107));
        assert!(read(&long).expect_err("too long").contains("107"));
    }
}
