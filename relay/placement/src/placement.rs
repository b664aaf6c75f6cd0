//! Placements: a server for whoever asks, and the next one if it does not take them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant as Clock};

use sallyport_cluster::global::Applied;
use sallyport_scripts::{Moment, Server};
use sallyport_wire::NodeName;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use crate::chain::Chains;
use crate::engine::{self, Engine, Work};
use crate::error::PlacementError;
use crate::filter::{Epochs, Filter, Roster};
use crate::pending::{Claim, Counts, Pending};
use crate::replay::{self, Replay};
use crate::request::{MOST_REQUEST, Request};
use crate::reservations::Occupied;
use crate::trace::{Attempt, Dropped, Trace, Verdict};
use crate::traces::{Room, Traces};
use crate::verdict::{Chosen, Decided};

/// Servers that are tried before the user hears of an error.
pub const TRIES: usize = 3;

/// How often a decision is made anew because other placements came between, before it holds nevertheless.
const REPEATS: u32 = 2;

/// Decisions at the same time: as many as there are workers. Those that are made at once do not see each other.
const TURNS: usize = 4;

/// How long a placement waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(10);

/// What may differ from relay to relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// What is kept of the past.
    pub room: Room,
    /// Placements that wait for a turn; further ones are refused.
    pub waiting: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            room: Room {
                traces: 1_000,
                bytes: 64 << 20,
            },
            waiting: 1_024,
        }
    }
}

/// What a placement works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The node that chooses.
    pub node: NodeName,
    /// The servers to choose from.
    pub roster: Arc<dyn Roster>,
    /// The configuration of the cluster.
    pub config: watch::Receiver<Option<Applied>>,
    /// What is on its way, here and by other relays.
    pub pending: Pending,
    /// The servers that somebody has for himself, or is about to.
    pub occupied: watch::Receiver<Arc<Occupied>>,
    /// Runs the scripts.
    pub engine: Engine,
}

/// Chooses servers. A clone is the same one.
#[derive(Clone)]
pub struct Placement(Arc<Shared>);

struct Shared {
    parts: Parts,
    settings: Settings,
    traces: Traces,
    chains: Mutex<Option<Arc<Chains>>>,
    epochs: Mutex<Epochs>,
    objects: Mutex<Objects>,
    line: Semaphore,
    turns: Semaphore,
}

/// A placement that goes on: it counts as on its way to its server until it is started, fails, or is dropped.
#[derive(Debug)]
pub struct Placed {
    placing: Placing,
    server: NodeName,
    claim: Claim,
}

/// A placement with what has been tried.
#[derive(Debug)]
struct Placing {
    placement: Placement,
    trace: Trace,
    failed: BTreeMap<String, String>,
}

/// What a decision is made upon.
struct View {
    servers: Vec<Arc<Server>>,
    dropped: Vec<Dropped>,
    stale: bool,
    counts: Counts,
}

impl Placement {
    /// Chooses on one node.
    #[must_use]
    pub fn new(parts: Parts, settings: Settings) -> Self {
        Self(Arc::new(Shared {
            parts,
            traces: Traces::new(settings.room),
            chains: Mutex::default(),
            epochs: Mutex::default(),
            objects: Mutex::default(),
            line: Semaphore::new(settings.waiting.saturating_add(TURNS)),
            turns: Semaphore::new(TURNS),
            settings,
        }))
    }

    /// Chooses a server. Whoever asked says with [`Placed`] what became of it.
    ///
    /// # Errors
    /// [`PlacementError`].
    pub async fn place(&self, request: Request) -> Result<Placed, PlacementError> {
        let placing = self.begin(request, false)?;
        Box::pin(placing.next()).await
    }

    /// What would be chosen now. Nothing counts as on its way.
    ///
    /// # Errors
    /// [`PlacementError`], where there was no decision. One that chose nothing is told in the trace.
    pub async fn dry_run(&self, request: Request) -> Result<Arc<Trace>, PlacementError> {
        let mut placing = self.begin(request, true)?;
        let turn = self.turn().await?;
        let view = self.view(&placing.trace.request, &placing.failed)?;
        let came = Box::pin(placing.decide(view, 0)).await;
        drop(turn);
        placing.tell(&came);
        Ok(placing.keep())
    }

    /// Whether a script could choose a server now.
    #[must_use]
    pub fn may_choose(&self, request: &Request, server: &NodeName) -> bool {
        let Ok(view) = self.view(request, &BTreeMap::new()) else {
            return false;
        };
        let mut servers = view.servers.iter();
        servers.any(|known| known.id() == server.as_str())
    }

    /// Repeats a placement that is kept; none if it is not.
    pub async fn replay(&self, id: &str) -> Option<Replay> {
        let trace = self.0.traces.find(id)?;
        Some(replay::replay(&self.0.parts.engine, &trace).await)
    }

    /// The last placements.
    #[must_use]
    pub fn traces(&self) -> &Traces {
        &self.0.traces
    }

    /// The chains that decide now.
    #[must_use]
    pub fn chains(&self) -> Arc<Chains> {
        let config = self.0.parts.config.borrow();
        let epoch = config.as_ref().map_or(0, |applied| applied.epoch);
        let mut chains = lock(&self.0.chains);
        match chains.as_ref().filter(|chains| chains.epoch == epoch) {
            Some(known) => Arc::clone(known),
            None => Arc::clone(chains.insert(Arc::new(Chains::of(config.as_ref())))),
        }
    }

    fn begin(&self, request: Request, dry_run: bool) -> Result<Placing, PlacementError> {
        // our own types always become JSON
        let bytes = serde_json::to_string(&request).map_or(0, |text| text.len());
        if bytes > MOST_REQUEST {
            let most = MOST_REQUEST;
            return Err(PlacementError::TooLarge { bytes, most });
        }
        let chains = self.chains();
        let Moment { now, seed } = Moment::now();
        let trace = Trace {
            id: format!("{:010x}", seed >> 24),
            time: now,
            node: self.0.parts.node.to_string(),
            dry_run,
            epoch: chains.epoch,
            on_script_failure: chains.on_script_failure,
            chain: chains.about(request.action).to_vec(),
            request,
            attempts: Vec::new(),
        };
        Ok(Placing {
            placement: self.clone(),
            trace,
            failed: BTreeMap::new(),
        })
    }

    /// A place among those that decide. What a decision is made upon is looked at from then on.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, PlacementError> {
        let waiting = self.0.settings.waiting;
        let busy = |_full| PlacementError::Busy(waiting);
        let _place = self.0.line.try_acquire().map_err(busy)?;
        let turn = timeout(TURN_WITHIN, self.0.turns.acquire()).await;
        // nobody closes them
        let turn = turn.map(|turn| turn.map_err(|_closed| PlacementError::Busy(waiting)));
        turn.map_err(|_late| PlacementError::Waited(TURN_WITHIN))?
    }

    fn view(
        &self,
        request: &Request,
        failed: &BTreeMap<String, String>,
    ) -> Result<View, PlacementError> {
        let parts = &self.0.parts;
        let look = parts.roster.look().ok_or(PlacementError::NotObserving)?;
        let now = Instant::now();
        let heard = heard(&look.servers);
        let counts = parts.pending.counts(|node| heard.get(node).copied());
        let accepted = parts.config.borrow().as_ref().map_or(0, |now| now.epoch);
        let occupied = Arc::clone(&parts.occupied.borrow());
        let filter = Filter {
            request,
            failed,
            occupied: &occupied,
            epoch: lock(&self.0.epochs).least(accepted, now),
            stale: look.stale,
        };
        let mut objects = lock(&self.0.objects);
        let (mut servers, mut dropped) = (Vec::new(), Vec::new());
        for known in &look.servers {
            let id = &known.server.server_id;
            match filter.drops(known, now) {
                None => servers.push(objects.of(&known.server, counts.get(id).copied())),
                Some(reason) => dropped.push(Dropped {
                    server: id.to_string(),
                    reason,
                }),
            }
        }
        objects.forget_others(&heard);
        Ok(View {
            servers,
            dropped,
            stale: look.stale,
            counts,
        })
    }
}

/// When each server was heard of last.
fn heard(servers: &[crate::filter::Known]) -> HashMap<&NodeName, Instant> {
    let heard = servers.iter();
    heard
        .map(|known| (&known.server.server_id, known.heard))
        .collect()
}

/// Server objects as scripts see them, made once: a worker is sent only those that it does not know.
#[derive(Debug, Default)]
struct Objects(HashMap<NodeName, (Arc<sallyport_node::Server>, u64, Arc<Server>)>);

impl Objects {
    fn of(&mut self, server: &Arc<sallyport_node::Server>, pending: Option<u64>) -> Arc<Server> {
        let pending = pending.unwrap_or(0);
        if let Some((of, with, object)) = self.0.get(&server.server_id)
            && Arc::ptr_eq(of, server)
            && *with == pending
        {
            return Arc::clone(object);
        }
        let object = Arc::new(engine::object(server, pending));
        let made = (Arc::clone(server), pending, Arc::clone(&object));
        self.0.insert(server.server_id.clone(), made);
        object
    }

    fn forget_others(&mut self, known: &HashMap<&NodeName, Instant>) {
        if self.0.len() > known.len() {
            self.0.retain(|id, _| known.contains_key(id));
        }
    }
}

impl Placing {
    /// The next server.
    async fn next(mut self) -> Result<Placed, PlacementError> {
        let (chosen, claim) = match Box::pin(self.choose()).await {
            Ok(found) => found,
            Err(error) => {
                self.keep();
                // the user asked for something that can be had, and it did not work
                return Err(self.failure().unwrap_or(error));
            }
        };
        self.keep();
        Ok(Placed {
            placing: self,
            server: chosen,
            claim,
        })
    }

    async fn choose(&mut self) -> Result<(NodeName, Claim), PlacementError> {
        let placement = self.placement.clone();
        let _turn = placement.turn().await?;
        let mut repeated = 0;
        loop {
            let view = placement.view(&self.trace.request, &self.failed)?;
            let counts = view.counts.clone();
            let came = self.decide(view, repeated).await;
            let chosen = match &came {
                Ok(chosen) => chosen,
                Err(error) => {
                    self.tell(&came);
                    return Err(error.clone());
                }
            };
            let server: NodeName = chosen.server.parse().map_err(|_other| {
                let (script, server) = (chosen.by.clone(), chosen.server.clone());
                PlacementError::Unknown { script, server }
            })?;
            let upon = counts.get(&server).copied().unwrap_or(0);
            let claim = match repeated {
                REPEATS => Some(placement.0.parts.pending.insist(&server)),
                _ => placement.0.parts.pending.claim(&server, upon),
            };
            if let Some(claim) = claim {
                self.tell(&came);
                return Ok((server, claim));
            }
            repeated = repeated.saturating_add(1);
            self.trace.attempts.pop();
        }
    }

    /// Runs the chain once and notes what it did.
    async fn decide(&mut self, view: View, repeated: u32) -> Result<Chosen, PlacementError> {
        let begun = Clock::now();
        let moment = Moment::now();
        let input = self.trace.request.input(&self.trace.node);
        let work = Work {
            chain: &self.trace.chain,
            input: &input,
            servers: &view.servers,
            moment,
            recorded: None,
            aside: self.trace.dry_run,
        };
        let engine = self.placement.0.parts.engine.clone();
        let steps = Box::pin(engine.run(work)).await;
        let came = Decided {
            action: self.trace.request.action,
            servers: &view.servers,
            dropped: &view.dropped,
            steps: &steps,
            on_script_failure: self.trace.on_script_failure,
            seed: moment.seed,
        }
        .verdict();
        self.trace.attempts.push(Attempt {
            moment,
            servers: view.servers,
            dropped: view.dropped,
            stale: view.stale,
            repeated,
            steps,
            verdict: Verdict::from(&came),
            took_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            failed: None,
        });
        came
    }

    /// One line for each decision.
    fn tell(&self, came: &Result<Chosen, PlacementError>) {
        let (trace, Some(attempt)) = (&self.trace, self.trace.attempts.last()) else {
            return;
        };
        let (id, action, user) = (&trace.id, trace.request.action, trace.request.login());
        let (servers, dropped) = (attempt.servers.len(), attempt.dropped.len());
        let (took_us, tried, dry_run) = (attempt.took_us, trace.attempts.len(), trace.dry_run);
        match came {
            Ok(Chosen {
                server,
                by,
                instead_of: None,
            }) => {
                info!(%id, %action, user, server, by, servers, dropped, tried, dry_run, took_us, "a server was chosen");
            }
            Ok(Chosen {
                server,
                by,
                instead_of: Some(failed),
            }) => {
                info!(%id, %action, user, server, by, instead_of = failed, servers, dropped, tried, dry_run, took_us, "a server was chosen, although a script failed");
            }
            Err(cause) => {
                info!(%id, %action, user, %cause, servers, dropped, tried, dry_run, took_us, "no server was chosen");
            }
        }
    }

    fn keep(&self) -> Arc<Trace> {
        let trace = Arc::new(self.trace.clone());
        self.placement.0.traces.keep(Arc::clone(&trace));
        trace
    }

    /// That it failed wherever it was tried; none if it was not tried yet.
    fn failure(&self) -> Option<PlacementError> {
        let attempts = self.trace.attempts.iter();
        let tried = attempts.filter_map(|attempt| {
            let Verdict::Server { server, .. } = &attempt.verdict else {
                return None;
            };
            Some((server.clone(), attempt.failed.clone()?))
        });
        let tried: Vec<_> = tried.collect();
        (!tried.is_empty()).then_some(PlacementError::Failed { tried })
    }
}

impl Placed {
    /// The server that was chosen.
    #[must_use]
    pub const fn server(&self) -> &NodeName {
        &self.server
    }

    /// Names the trace.
    #[must_use]
    pub fn trace(&self) -> &str {
        &self.placing.trace.id
    }

    /// It is there now: it counts until the server shows it.
    pub fn started(self) {
        debug!(id = self.trace(), server = %self.server, "a placement was started");
        self.claim.started();
    }

    /// It failed there, for this reason: the next server, chosen without those that failed.
    ///
    /// # Errors
    /// [`PlacementError::Failed`] when there is none, or it was tried [`TRIES`] times.
    pub async fn failed(self, reason: impl Into<String>) -> Result<Self, PlacementError> {
        let Self {
            mut placing,
            server,
            claim,
        } = self;
        drop(claim);
        let reason = reason.into();
        info!(id = %placing.trace.id, %server, %reason, "a placement failed");
        if let Some(attempt) = placing.trace.attempts.last_mut() {
            attempt.failed = Some(reason.clone());
        }
        placing.failed.insert(server.to_string(), reason);
        placing.keep();
        if placing.failed.len() >= TRIES
            && let Some(failure) = placing.failure()
        {
            return Err(failure);
        }
        Box::pin(placing.next()).await
    }
}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placement")
            .field("node", &self.0.parts.node)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
