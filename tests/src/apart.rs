//! A gateway and a relay with a cable between them that can be cut.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::client::{run, run_ok};
use crate::daemon::Daemon;
use crate::network::{Cable, inside, wait_answer};
use crate::site::{Gateway, Relay, Site};

/// Gateway and clients at the first end of a cable, relay and session `web` at the second.
#[derive(Debug)]
pub struct Apart {
    /// The gateway.
    pub gateway: Gateway,
    /// The relay.
    pub relay: Relay,
    /// What is between them.
    pub cable: Cable,
    _service: Daemon,
    site: Site,
}

impl Apart {
    /// The cable is laid and drops what matches `fault`; then all is started, the relay with `keys` in front of its
    /// sessions. `None` as for [`Cable::lay`].
    ///
    /// # Panics
    /// If the session does not come up.
    #[must_use]
    pub fn start(fault: Option<&str>, keys: &str) -> Option<Self> {
        let cable = Cable::lay()?;
        let site = Site::new();
        let service = serve_files(&site, &cable);
        if let Some(fault) = fault {
            cable.drop_matching(fault);
        }
        let mut gateway = site.gateway_init("gw", Cable::FIRST, &[]);
        gateway.enter(cable.first());
        gateway.start();
        gateway.wait_ready();
        let config = format!(
            "{keys}\n[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:8000\"\naccess = \"public\"\n"
        );
        let mut relay = site.relay_stopped("node-a", &[&gateway], &config);
        relay.enter(cable.second());
        let relay = relay.started();
        gateway.wait_session("web");
        Some(Self {
            gateway,
            relay,
            cable,
            _service: service,
            site,
        })
    }

    /// Folder of the files that the session serves: `hello` is there.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.site.path().join("root")
    }

    /// What a client gets.
    ///
    /// # Panics
    /// If curl fails.
    #[must_use]
    pub fn get(&self, path: &str) -> String {
        let mut curl = self.curl();
        run_ok(curl.arg(self.gateway.session_url("web", path)))
    }

    /// The status that a client gets, 0 for none, and how many seconds it took.
    #[must_use]
    pub fn ask(&self, path: &str) -> (u16, f64) {
        let mut curl = self.curl();
        curl.args(["--output", "/dev/null"])
            .args(["--write-out", "%{http_code} %{time_total}"])
            .arg(self.gateway.session_url("web", path));
        let said = String::from_utf8_lossy(&run(&mut curl).stdout).into_owned();
        let mut words = said.split_whitespace();
        let status = words.next().and_then(|word| word.parse().ok());
        let seconds = words.next().and_then(|word| word.parse().ok());
        (status.unwrap_or(0), seconds.unwrap_or(f64::INFINITY))
    }

    /// A curl call of a client, the path still to come.
    #[must_use]
    pub fn curl(&self) -> std::process::Command {
        let mut curl = inside(self.cable.first(), "curl");
        curl.args(["-sS", "--max-time", "20", "--cacert"])
            .arg(self.gateway.certificate());
        curl
    }

    /// What carries each tunnel that the gateway knows.
    #[must_use]
    pub fn transports(&self) -> Vec<String> {
        let status = self.gateway.status().unwrap_or_default();
        let tunnels = status
            .get("tunnels")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let name = |tunnel: &Value| {
            tunnel
                .get("transport")
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        tunnels.iter().filter_map(name).collect()
    }
}

/// Serves the files of a folder at the second end.
fn serve_files(site: &Site, cable: &Cable) -> Daemon {
    let root = site.path().join("root");
    fs::create_dir_all(&root).expect("writable");
    fs::write(root.join("hello"), "from the node").expect("writable");
    let service = Daemon::start(
        Path::new("ip"),
        &[
            "netns",
            "exec",
            cable.second(),
            "python3",
            "-m",
            "http.server",
            "--bind",
            "127.0.0.1",
            "-d",
            &root.display().to_string(),
            "8000",
        ],
        &site.path().join("service.log"),
    );
    wait_answer(cable.second(), "http://127.0.0.1:8000/hello");
    service
}
