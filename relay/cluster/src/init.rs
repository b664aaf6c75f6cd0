//! `cluster init`: what relays and NATS servers need to become a cluster, written once, on any machine.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sallyport_certs::{Authority, CertError, TEN_YEARS};
use sallyport_ops::written::{MODE_DIR, MODE_PUBLIC, MODE_SECRET, Written};
use serde_json::json;
use zeroize::Zeroizing;

use crate::broker::{BROKER_FILE, Host, MAX_HOSTS, NATS_PORT, parse_host};

/// The authority that vouches for the servers; public, for each node.
pub const CA_FILE: &str = "cluster-ca.pem";

/// Its key, for more servers later; stays where it is.
pub const CA_KEY_FILE: &str = "cluster-ca.key";

/// Added to the port for clients, that for the servers among each other.
const ROUTES_ABOVE: u16 = 2000;

/// The port of nodes among each other, as relays have it by custom.
const NODE_PORT: u16 = 3300;

/// Who the relays are to the servers.
const USER: &str = "relay";

/// Random bytes of a password.
const PASSWORD_BYTES: usize = 32;

const TEMPLATE: &str = include_str!("init/nats-server.conf");

/// What `cluster init` is asked for.
#[derive(Debug, Clone)]
pub struct InitArgs {
    /// Hosts of the NATS servers, as relays will reach them: `HOST` or `HOST:PORT`. One, or three.
    pub hosts: Vec<String>,
    /// Directory to write into; made if it is not there.
    pub dir: PathBuf,
    /// Begins the names of all that is this cluster's.
    pub namespace: String,
    /// Directory in which each server will keep its data, on its own machine.
    pub data: PathBuf,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// One of the files is there already.
    #[error("{} exists and init never overwrites: choose another directory, or move it away", .0.display())]
    Exists(PathBuf),
    /// A host is none.
    #[error("--host: {0}")]
    Host(String),
    /// Two servers cannot agree without each other, so a second one makes nothing safer.
    #[error(
        "{0} servers: give one --host, or an odd number from 3 to {MAX_HOSTS}, since more than half must agree"
    )]
    Count(usize),
    /// Two servers are the same one.
    #[error("--host {0} is given twice")]
    Twice(String),
    /// The namespace has another form.
    #[error("--namespace has 1 to 32 characters a-z A-Z 0-9 - _")]
    Namespace,
    /// The path cannot stand in the server's configuration.
    #[error("{}: a path without quotes, backslashes or line ends is needed", .0.display())]
    Path(PathBuf),
    /// No certificate could be made.
    #[error(transparent)]
    Certificate(#[from] CertError),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    NoRandom,
    /// A file or directory cannot be written.
    #[error("{}: {cause}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// What was written could not be told.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
}

impl InitError {
    /// Whether another command line would do.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Host(_) | Self::Count(_) | Self::Twice(_) | Self::Namespace | Self::Path(_)
        )
    }
}

/// Writes `broker.json`, the cluster's authority and one folder per server, and says on `out` what is to be done next.
/// Nothing is left behind if it fails.
///
/// # Errors
/// [`InitError`]; an existing file is never touched.
pub fn run(args: &InitArgs, out: &mut dyn Write) -> Result<(), InitError> {
    let plan = Plan::of(args)?;
    let fresh = !args.dir.exists();
    let mut written = Written::default();
    if fresh {
        make_directory(&mut written, &args.dir)?;
    }
    plan.write(&mut written)?;
    written.keep();
    plan.tell(out)?;
    Ok(())
}

/// All that will be written.
struct Plan<'a> {
    args: &'a InitArgs,
    hosts: Vec<Host>,
    authority: Authority,
    password: Zeroizing<String>,
    routes_password: Zeroizing<String>,
}

impl<'a> Plan<'a> {
    fn of(args: &'a InitArgs) -> Result<Self, InitError> {
        let hosts: Result<Vec<_>, _> = args
            .hosts
            .iter()
            .map(|text| parse_host(text, NATS_PORT).map_err(InitError::Host))
            .collect();
        let hosts = hosts?;
        if hosts.len() > MAX_HOSTS || hosts.len().is_multiple_of(2) {
            return Err(InitError::Count(hosts.len()));
        }
        for (place, host) in hosts.iter().enumerate() {
            if hosts.iter().take(place).any(|before| before == host) {
                return Err(InitError::Twice(host.to_string()));
            }
        }
        if !crate::broker::is_namespace(&args.namespace) {
            return Err(InitError::Namespace);
        }
        Ok(Self {
            args,
            hosts,
            authority: Authority::make(&format!("{} cluster", args.namespace), TEN_YEARS)?,
            password: password()?,
            routes_password: password()?,
        })
    }

    fn write(&self, written: &mut Written) -> Result<(), InitError> {
        let at = |name: &str| self.args.dir.join(name);
        put(
            written,
            &at(BROKER_FILE),
            self.broker().as_bytes(),
            MODE_SECRET,
        )?;
        let (ca, key) = (
            self.authority.cert_pem(),
            Zeroizing::new(self.authority.key_pem()),
        );
        put(written, &at(CA_KEY_FILE), key.as_bytes(), MODE_SECRET)?;
        put(written, &at(CA_FILE), ca.as_bytes(), MODE_PUBLIC)?;
        for (place, host) in self.hosts.iter().enumerate() {
            let folder = self.folder(host);
            make_directory(written, &folder)?;
            let issued = self.authority.issue(&names(host), TEN_YEARS)?;
            let key = Zeroizing::new(issued.key_pem);
            let config = self.server_config(place, host)?;
            put(
                written,
                &folder.join("server.key"),
                key.as_bytes(),
                MODE_SECRET,
            )?;
            put(
                written,
                &folder.join("server.pem"),
                issued.cert_pem.as_bytes(),
                MODE_PUBLIC,
            )?;
            put(written, &folder.join(CA_FILE), ca.as_bytes(), MODE_PUBLIC)?;
            put(
                written,
                &folder.join("nats-server.conf"),
                config.as_bytes(),
                MODE_SECRET,
            )?;
        }
        Ok(())
    }

    fn broker(&self) -> Zeroizing<String> {
        let hosts: Vec<_> = self.hosts.iter().map(ToString::to_string).collect();
        let broker = json!({
            "transporterType": "nats",
            "hosts": hosts,
            "user": USER,
            "password": *self.password,
            "tls": { "ca": CA_FILE },
            "namespace": self.args.namespace,
        });
        Zeroizing::new(format!("{broker:#}\n"))
    }

    fn folder(&self, host: &Host) -> PathBuf {
        let name = host.to_string().replace(['[', ']'], "").replace(':', "_");
        self.args.dir.join(format!("nats-{name}"))
    }

    fn server_config(&self, place: usize, host: &Host) -> Result<Zeroizing<String>, InitError> {
        let cluster = if self.hosts.len() > 1 {
            self.cluster_config(host)
        } else {
            Zeroizing::new(String::new())
        };
        let text = TEMPLATE
            .replace(
                "{name}",
                &format!("{}-{}", self.args.namespace, place.saturating_add(1)),
            )
            .replace("{listen}", &listen(host, host.port))
            .replace("{data}", plain(&self.args.data)?)
            .replace("{ca}", CA_FILE)
            .replace("{user}", USER)
            .replace("{password}", &self.password)
            .replace("{cluster}", &cluster);
        Ok(Zeroizing::new(text))
    }

    fn cluster_config(&self, own: &Host) -> Zeroizing<String> {
        let routes: Vec<_> = self
            .hosts
            .iter()
            .map(|host| {
                let password = &*self.routes_password;
                format!("    \"nats-route://{USER}:{password}@{}\"\n", route(host))
            })
            .collect();
        Zeroizing::new(format!(
            "\n# The servers among each other.\ncluster {{\n  name: \"{}\"\n  listen: \"{}\"\n  authorization {{ user: \"{USER}\", \
             password: \"{}\" }}\n  tls {{ cert_file: \"server.pem\", key_file: \"server.key\", ca_file: \"{CA_FILE}\", verify: \
             true }}\n  routes: [\n{}  ]\n}}\n",
            self.args.namespace,
            listen(own, own.port.saturating_add(ROUTES_ABOVE)),
            *self.routes_password,
            routes.concat(),
        ))
    }

    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        let dir = self.args.dir.display();
        writeln!(out, "Cluster {} is set up in {dir}", self.args.namespace)?;
        writeln!(out, "On each server:")?;
        for host in &self.hosts {
            let folder = self.folder(host);
            let folder = folder.display();
            writeln!(
                out,
                "  {}: copy {folder} to /etc/sallyport/nats (mode 700, files of the server's user), then",
                host.name
            )?;
            writeln!(
                out,
                "    cd /etc/sallyport/nats && nats-server -c nats-server.conf"
            )?;
        }
        self.tell_of_firewalls(out)?;
        writeln!(
            out,
            "On each node: copy {BROKER_FILE} (mode 600) and {CA_FILE} of {dir} beside relay.toml"
        )?;
        writeln!(
            out,
            "Keep {dir}/{CA_KEY_FILE} here: who has it can pose as a server. `sallyport-relay cluster certificate NODE` makes with\n      \
             it what a node's own port shows to clients"
        )?;
        writeln!(
            out,
            "Next: start the servers, then `sallyport-relay doctor` on a node"
        )?;
        writeln!(
            out,
            "Also: a gateway takes sessions of nodes without a tunnel of their own through other nodes by a key for that:\n      \
             `sallyport-gateway key add --via` there, then copy its gateway.json to the nodes"
        )
    }

    /// The ports, each with a line that opens it to those who need it and to nobody else.
    fn tell_of_firewalls(&self, out: &mut dyn Write) -> io::Result<()> {
        let several = self.hosts.len() > 1;
        writeln!(
            out,
            "  firewall   tcp {}  from the nodes",
            ports(&self.hosts, 0)
        )?;
        if several {
            let routes = ports(&self.hosts, ROUTES_ABOVE);
            writeln!(out, "             tcp {routes}  among the servers")?;
        }
        writeln!(
            out,
            "             tcp, udp {NODE_PORT}  among the nodes, where relay.toml opens it: [direct] listen = \"[::]:{NODE_PORT}\""
        )?;
        writeln!(
            out,
            "             in these lines, put addresses for NODES and SERVERS, with commas between (ip6 saddr for IPv6):"
        )?;
        let mut line = |on: &str, from: &str, protocol: &str, port: u16| {
            writeln!(
                out,
                "             on {on}: nft add rule inet filter input ip saddr '{{ {from} }}' {protocol} dport {port} accept"
            )
        };
        for host in &self.hosts {
            line(&host.name, "NODES", "tcp", host.port)?;
            if several {
                let port = host.port.saturating_add(ROUTES_ABOVE);
                line(&host.name, "SERVERS", "tcp", port)?;
            }
        }
        line("each node", "NODES", "tcp", NODE_PORT)?;
        line("each node", "NODES", "udp", NODE_PORT)
    }
}

fn ports(hosts: &[Host], above: u16) -> String {
    let mut ports: Vec<_> = hosts
        .iter()
        .map(|host| host.port.saturating_add(above))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
    ports.join(", ")
}

fn route(host: &Host) -> Host {
    Host {
        name: host.name.clone(),
        port: host.port.saturating_add(ROUTES_ABOVE),
    }
}

/// A host that is an address listens there; one with a name listens on all of its addresses.
fn listen(host: &Host, port: u16) -> String {
    let name = match host.name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_name) => "0.0.0.0".to_owned(),
    };
    Host { name, port }.to_string()
}

fn names(host: &Host) -> Vec<String> {
    vec![host.name.clone()]
}

fn plain(path: &Path) -> Result<&str, InitError> {
    let is_plain = |text: &&str| !text.contains(['"', '\\', '\n', '{', '}']);
    let text = path.to_str().filter(is_plain);
    text.ok_or_else(|| InitError::Path(path.to_owned()))
}

fn password() -> Result<Zeroizing<String>, InitError> {
    let mut bytes = Zeroizing::new([0; PASSWORD_BYTES]);
    rand::fill(bytes.as_mut_slice()).map_err(|_none| InitError::NoRandom)?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes)))
}

fn make_directory(written: &mut Written, path: &Path) -> Result<(), InitError> {
    let made = written.make_directory(path, MODE_DIR);
    made.map_err(|cause| fault(path, cause))
}

fn put(written: &mut Written, path: &Path, bytes: &[u8], mode: u32) -> Result<(), InitError> {
    let put = written.put(path, bytes, mode);
    put.map_err(|cause| fault(path, cause))
}

fn fault(path: &Path, cause: io::Error) -> InitError {
    let path = path.to_owned();
    if cause.kind() == io::ErrorKind::AlreadyExists {
        return InitError::Exists(path);
    }
    InitError::Write { path, cause }
}

#[cfg(test)]
mod tests;
