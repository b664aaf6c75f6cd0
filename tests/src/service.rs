//! Real services that sessions lead to.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::run_ok;
use crate::daemon::Daemon;
use crate::port::Port;
use crate::wait::eventually;
use crate::{peer_script, peers};

/// Waits until something takes TCP connections on a loopback port.
///
/// # Panics
/// If nothing does.
pub fn wait_listening(port: u16) {
    wait_listening_on((Ipv4Addr::LOCALHOST, port).into());
}

/// Waits until something takes TCP connections at an address.
///
/// # Panics
/// If nothing does.
pub fn wait_listening_on(address: SocketAddr) {
    eventually(&format!("{address} listens"), || {
        TcpStream::connect(address).is_ok()
    });
}

/// nginx with a folder of files and a place to put uploads.
#[derive(Debug)]
pub struct Nginx {
    /// The process.
    pub daemon: Daemon,
    /// Port that it listens on.
    pub port: Port,
    /// Folder whose files it serves at `/`; uploads to `/upload/…` land in its `upload`.
    pub root: PathBuf,
}

impl Nginx {
    /// Starts it below `folder`; `server` is added to its server block.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(folder: &Path, server: &str) -> Self {
        let port = Port::reserve();
        let base = folder.join("nginx");
        let root = base.join("root");
        fs::create_dir_all(root.join("upload")).expect("the folder is writable");
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {base}/pid; error_log {base}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log {base}/access.log; client_max_body_size 0; client_body_temp_path {base}/body;\n\
             proxy_temp_path {base}/proxy; fastcgi_temp_path {base}/fastcgi; uwsgi_temp_path {base}/uwsgi;\n\
             scgi_temp_path {base}/scgi; types {{ text/html html; text/javascript js; }}\n\
             server {{ listen 127.0.0.1:{port}; root {root}; autoindex on;\n\
             location /upload/ {{ dav_methods PUT; }}\n\
             location = /echo {{ return 200 \"$request_method $request_uri host=$http_host for=$http_x_forwarded_for \
             proto=$http_x_forwarded_proto prefix=$http_x_forwarded_prefix\\n\"; }}\n{server} }} }}\n",
            base = base.display(),
            root = root.display(),
            port = port.number(),
        );
        let path = base.join("nginx.conf");
        fs::write(&path, config).expect("the folder is writable");
        let daemon = Daemon::start(
            Path::new("/usr/sbin/nginx"),
            &[
                "-c".as_ref(),
                path.as_os_str(),
                "-e".as_ref(),
                base.join("start.log").as_os_str(),
            ],
            &base.join("log"),
        );
        wait_listening(port.number());
        Self { daemon, port, root }
    }

    /// A file of `bytes` random bytes under its root; its SHA-256.
    ///
    /// # Panics
    /// If the disk is full.
    #[must_use]
    pub fn random_file(&self, name: &str, bytes: u64) -> String {
        random_file(&self.root.join(name), bytes)
    }
}

/// Writes a file of random bytes and returns its SHA-256.
///
/// # Panics
/// If the disk is full.
#[must_use]
pub fn random_file(path: &Path, bytes: u64) -> String {
    let mut source = std::io::Read::take(
        fs::File::open("/dev/urandom").expect("a random source"),
        bytes,
    );
    let mut file = fs::File::create(path).expect("the folder is writable");
    std::io::copy(&mut source, &mut file).expect("the disk has room");
    sha256(path)
}

/// SHA-256 of a file, as `sha256sum` prints it.
#[must_use]
pub fn sha256(path: &Path) -> String {
    let line = run_ok(Command::new("sha256sum").arg(path));
    line.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// A certificate with its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes a self-signed one with openssl, for names like `DNS:a.example,IP:127.0.0.1`.
    ///
    /// # Panics
    /// If openssl is not installed.
    #[must_use]
    pub fn make(folder: &Path, name: &str, names: &str) -> Self {
        let (cert, key) = (
            folder.join(format!("{name}.pem")),
            folder.join(format!("{name}.key")),
        );
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ]);
        openssl.args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")]);
        openssl.args(["-addext", &format!("subjectAltName={names}")]);
        run_ok(openssl.arg("-keyout").arg(&key).arg("-out").arg(&cert));
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&key, mode).expect("our own file");
        Self { cert, key }
    }

    /// Arguments for `sallyport-gateway init`.
    #[must_use]
    pub fn init_args(&self) -> [String; 4] {
        let text = |path: &Path| path.display().to_string();
        [
            "--cert".into(),
            text(&self.cert),
            "--key".into(),
            text(&self.key),
        ]
    }
}

/// A Python peer of `tests/peers/python` that serves on a port of its own.
#[derive(Debug)]
pub struct PythonPeer {
    /// The process.
    pub daemon: Daemon,
    /// Port that it listens on.
    pub port: Port,
}

impl PythonPeer {
    /// Starts `script serve PORT`.
    #[must_use]
    pub fn serve(folder: &Path, script: &str) -> Self {
        let port = Port::reserve();
        let path = peer_script("python").join(script);
        let number = port.number().to_string();
        let daemon = Daemon::start(
            &python(),
            &[path.as_os_str(), "serve".as_ref(), number.as_ref()],
            &folder.join("peer.log"),
        );
        wait_listening(port.number());
        Self { daemon, port }
    }
}

/// Runs a Python peer to its end; it must say that all went well.
///
/// # Panics
/// If it fails.
pub fn python_talk(script: &str, args: &[&str]) {
    let said = run_ok(
        Command::new(python())
            .arg(peer_script("python").join(script))
            .args(args),
    );
    assert!(said.trim_end().ends_with("well"), "{said}");
}

fn python() -> PathBuf {
    peers().join("python/bin/python")
}

/// An sshd for root with a key, and the client's files beside it.
#[derive(Debug)]
pub struct Sshd {
    /// The process.
    pub daemon: Daemon,
    /// Port that it listens on.
    pub port: Port,
    folder: PathBuf,
}

impl Sshd {
    /// Starts it below `folder`.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        let port = Port::reserve();
        let folder = folder.join("sshd");
        fs::create_dir_all(&folder).expect("the folder is writable");
        fs::create_dir_all("/run/sshd").expect("sshd's own folder can be made");
        for name in ["host", "user"] {
            let key = folder.join(name);
            run_ok(
                Command::new("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                    .arg(&key),
            );
        }
        fs::copy(folder.join("user.pub"), folder.join("authorized")).expect("the key was made");
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(folder.join("authorized"), mode).expect("our own file");
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {}\nHostKey {base}/host\nAuthorizedKeysFile {base}/authorized\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nMaxStartups 100\n\
             Subsystem sftp internal-sftp\n",
            port.number(),
            base = folder.display(),
        );
        let path = folder.join("config");
        fs::write(&path, config).expect("the folder is writable");
        let daemon = Daemon::start(
            Path::new("/usr/sbin/sshd"),
            &[
                "-D".as_ref(),
                "-e".as_ref(),
                "-f".as_ref(),
                path.as_os_str(),
            ],
            &folder.join("log"),
        );
        wait_listening(port.number());
        Self {
            daemon,
            port,
            folder,
        }
    }

    /// `ssh` or `scp` with the user's key, for a server on a loopback port.
    #[must_use]
    pub fn client(&self, program: &str, port: u16) -> Command {
        let mut command = Command::new(program);
        let port_flag = if program == "scp" { "-P" } else { "-p" };
        command.args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]);
        command.args([
            "-o",
            "LogLevel=ERROR",
            "-o",
            "IdentitiesOnly=yes",
            "-F",
            "none",
        ]);
        command
            .arg("-i")
            .arg(self.folder.join("user"))
            .args([port_flag, &port.to_string()]);
        command
    }
}
