//! Placements with workers of the real binary: what predefined and administrators' scripts choose, how that is explained
//! and repeated, and what happens to those that harm.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sallyport_cluster::global::{Applied, Bundle};
use sallyport_node::Server;
use sallyport_ops::{Bounds, Programs, Tasks};
use sallyport_placement::engine::{Engine, PROGRAMS};
use sallyport_placement::filter::{Known, Look, Roster};
use sallyport_placement::pending::Pending;
use sallyport_placement::placement::Parts;
use sallyport_placement::trace::{Trace, Verdict};
use sallyport_placement::{Action, Placement, Request, Settings};
use sallyport_scripts::Folders;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

mod decisions;
mod guides;
mod hostile;
mod predefined;
mod programs;
mod replay;
mod retry;
mod storm;

/// Servers that a test says are there.
#[derive(Debug, Default)]
struct There(Mutex<Look>);

impl Roster for There {
    fn look(&self) -> Option<Look> {
        Some(self.0.lock().expect("nobody panics").clone())
    }
}

/// A relay's placement, its servers and its configuration.
struct World {
    placement: Placement,
    pending: Pending,
    there: Arc<There>,
    config: watch::Sender<Option<Applied>>,
}

/// A server object with these fields besides those that every server has.
fn server(more: &Value) -> Server {
    let mut server = json!({
        "generation": 1, "loginEnabled": true, "startEnabled": true, "reservable": false, "version": "1",
        "lastUpdate": 0,
    });
    if let (Value::Object(server), Value::Object(more)) = (&mut server, more) {
        server.extend(more.clone());
    }
    serde_json::from_value(server).expect("a server")
}

/// Where programs of the tests lie.
fn folders() -> Folders {
    Folders::new([env!("CARGO_TARGET_TMPDIR").into()])
}

fn engine(limits: impl FnOnce(&mut sallyport_scripts::Settings)) -> Engine {
    let mut settings = sallyport_scripts::Settings {
        program: env!("CARGO_BIN_EXE_sallyport-relay").into(),
        ..sallyport_scripts::Settings::default()
    };
    limits(&mut settings);
    Engine::new(
        settings,
        (Programs::new(PROGRAMS), folders()),
        Bounds::default(),
        Tasks::new(),
    )
}

/// Workers whose limits of time no busy machine reaches.
fn unhurried(settings: &mut sallyport_scripts::Settings) {
    settings.wait = Duration::from_secs(60);
    settings.limits.interrupt = Duration::from_secs(30);
    settings.limits.kill = Duration::from_secs(60);
}

impl World {
    fn new(servers: &[Value]) -> Self {
        Self::with(servers, engine(unhurried), Settings::default())
    }

    fn with(servers: &[Value], engine: Engine, settings: Settings) -> Self {
        let there = Arc::new(There::default());
        let (config, changes) = watch::channel(None);
        let pending = Pending::default();
        let parts = Parts {
            node: "local".parse().expect("a name"),
            roster: Arc::<There>::clone(&there),
            config: changes,
            pending: pending.clone(),
            occupied: watch::channel(Arc::default()).1,
            engine,
        };
        let world = Self {
            placement: Placement::new(parts, settings),
            pending,
            there,
            config,
        };
        world.servers(servers);
        world
    }

    /// These are there from now on.
    fn servers(&self, servers: &[Value]) {
        let heard = Instant::now();
        let known = |more: &Value| Known {
            server: Arc::new(server(more)),
            heard,
        };
        *self.there.0.lock().expect("nobody panics") = Look {
            servers: servers.iter().map(known).collect(),
            stale: false,
        };
    }

    /// A new epoch with these objects.
    fn configure(&self, objects: &Value) {
        let bundle = json!({ "format": "sallyport-config/1", "objects": objects });
        let bundle = Bundle::from_value(bundle).expect("a good bundle");
        self.config.send_modify(|now| {
            let epoch = now.as_ref().map_or(0, |now| now.epoch) + 1;
            *now = Some(Applied {
                epoch,
                sha256: epoch.to_string(),
                bundle: Arc::new(bundle),
            });
        });
    }

    /// One chain for both actions: names of predefined scripts, or texts of functions.
    fn chain(&self, scripts: &[&str]) {
        let is_name = |script: &&str| !script.contains(['(', '>']);
        let mut named = serde_json::Map::new();
        let mut names = Vec::new();
        for (place, script) in scripts.iter().enumerate() {
            if is_name(script) {
                names.push((*script).to_owned());
            } else {
                let name = format!("s{place}");
                named.insert(
                    name.clone(),
                    json!({ "kind": "javascript", "source": script }),
                );
                names.push(name);
            }
        }
        let chain = json!({ "scripts": names });
        self.configure(&json!({ "scripts": named, "chains": { "login": chain, "start": chain } }));
    }

    async fn traced(&self, request: Request) -> Arc<Trace> {
        let traced = self.placement.dry_run(request).await;
        traced.expect("there is a decision")
    }

    /// The server that is chosen, or what the user is told.
    async fn choice(&self, request: Request) -> Result<String, String> {
        let trace = self.traced(request).await;
        match &trace.attempts.last().expect("an attempt").verdict {
            Verdict::Server { server, .. } => Ok(server.clone()),
            Verdict::Error { user, .. } => Err(user.clone()),
        }
    }
}

/// A request of the user ada, in the group physics, with these `data`.
fn request(action: Action, data: &Value) -> Request {
    let mut request = Request::new(action);
    let user = json!({ "login": "ada", "serverId": "alpha", "sessions": [], "name": "Ada" });
    request.user = user.as_object().expect("an object").clone();
    request.user_groups = vec!["staff".to_owned(), "physics".to_owned()];
    request.data = data.as_object().expect("an object").clone();
    request
}

fn start() -> Request {
    request(Action::Start, &json!({}))
}
