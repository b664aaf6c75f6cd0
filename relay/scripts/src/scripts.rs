//! Worker processes and the calls that they take turns at.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sallyport_ops::{Programs, Tasks};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info_span, warn};

use crate::host::Host;
use crate::process::{Ended, Worker};
use crate::protocol::{Call, Outcome, Source};
use crate::script::{Called, Choice, Fault, Moment, Script, ScriptError, Server, Step};
use crate::settings::Settings;
use crate::suspended::Suspended;

/// Workers that wait beyond those that may run, so that there is one when another was killed.
const SPARE: usize = 1;

/// Workers that may be on their way out, or hang within the kernel, while others take their places.
const LOST: usize = 16;

/// Most functions of a chain.
pub const MOST_IN_CHAIN: usize = 64;

/// How long a call waits for a worker to come up.
const UP_WITHIN: Duration = Duration::from_secs(2);

/// Pauses between tries to start a worker: the first, doubled up to the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];

/// Runs JavaScript functions in worker processes. A clone is the same workers.
///
/// Functions that may ask a [`Host`] wait for programs meanwhile and hold their worker; give them workers of their own.
#[derive(Debug, Clone)]
pub struct Scripts {
    pool: Arc<Pool>,
    /// Whether scripts that are stopped too often are suspended.
    suspends: bool,
}

#[derive(Debug)]
struct Pool {
    settings: Settings,
    /// Starts workers, those included that cannot be killed.
    programs: Programs,
    /// Who runs or waits.
    line: Semaphore,
    /// Who runs.
    turns: Semaphore,
    /// As many as `idle` holds.
    ready: Semaphore,
    /// The one that was used last is used next: it knows the most servers. One that is new comes last.
    idle: Mutex<VecDeque<Worker>>,
    /// Workers that are to be started.
    vacancies: Semaphore,
    /// Why the last one did not start.
    trouble: Mutex<Option<String>>,
    suspended: Mutex<Suspended>,
}

impl Scripts {
    /// Starts the workers, and keeps them up until `tasks` are stopped.
    #[must_use]
    pub fn start(settings: Settings, tasks: &Tasks) -> Self {
        let pool = Arc::new(Pool {
            line: Semaphore::new(settings.workers.saturating_add(settings.waiting)),
            programs: Programs::new(settings.workers.saturating_add(SPARE).saturating_add(LOST)),
            turns: Semaphore::new(settings.workers),
            ready: Semaphore::new(0),
            idle: Mutex::default(),
            vacancies: Semaphore::new(settings.workers.saturating_add(SPARE)),
            trouble: Mutex::default(),
            suspended: Mutex::default(),
            settings,
        });
        tasks.spawn(info_span!("script_workers"), keep_up(Arc::clone(&pool)));
        Self {
            pool,
            suspends: true,
        }
    }

    /// The same workers, for what nobody waits for: it suspends no script, and runs those that are suspended.
    #[must_use]
    pub fn aside(&self) -> Self {
        Self {
            pool: Arc::clone(&self.pool),
            suspends: false,
        }
    }

    /// Calls one function with `input` and returns its value. With a `host`, it may ask for commands and processes.
    ///
    /// # Errors
    /// [`ScriptError`] names the script and what happened.
    pub async fn call(
        &self,
        script: &Script,
        input: &Value,
        moment: Moment,
        host: Option<&Host>,
    ) -> Result<Called, ScriptError> {
        let scripts = std::slice::from_ref(script);
        let ended = self.run(scripts, input, moment, Work::Value(host)).await;
        let called = match ended.into_iter().next() {
            Some(ended) => called(ended),
            None => Err(Fault::Died("it reported nothing".to_owned())),
        };
        called.map_err(|fault| fault.of(&script.name))
    }

    /// Compiles one function without calling it.
    ///
    /// # Errors
    /// [`Fault::NotAFunction`] if it could never be called; any other fault is of the text's own first steps, or of the
    /// workers.
    pub async fn compile(&self, script: &Script) -> Result<(), Fault> {
        let moment = Moment { now: 0, seed: 0 };
        let call = Call {
            compiles: true,
            ..order(std::slice::from_ref(script), &json!({}), moment)
        };
        let ended = self.pool.take_turn(call, Work::Value(None)).await?;
        let ended = ended.into_iter().next();
        match ended.map(|ended| ended.outcome) {
            Some(Ok(Outcome::Pass(_))) => Ok(()),
            Some(Ok(outcome)) => Err(out_of_turn(&outcome)),
            Some(Err(fault)) => Err(fault),
            None => Err(Fault::Died("it reported nothing".to_owned())),
        }
    }

    /// Lets the functions of `chain` choose one of `servers`, one after the other, until one names a server or fails.
    ///
    /// Each gets `input` with the servers as `input.servers`: all of them, or the list that a function before it
    /// returned. They share the input object and the globals of this call, which nothing of another call reaches.
    ///
    /// There is a step for every function that was run. When none decided, the last step is no [`Choice::Server`];
    /// when no function could be run, there is one step with the fault; so there is for a chain of more than
    /// [`MOST_IN_CHAIN`].
    pub async fn choose(
        &self,
        chain: &[Script],
        input: &Value,
        servers: &[Arc<Server>],
        moment: Moment,
    ) -> Vec<Step> {
        if let Some(first) = chain.get(MOST_IN_CHAIN) {
            return vec![Step {
                outcome: Err(Fault::ChainTooLong(MOST_IN_CHAIN).of(&first.name)),
                log: Vec::new(),
                took: Duration::ZERO,
            }];
        }
        let ended = self.run(chain, input, moment, Work::Choice(servers)).await;
        let step = |(script, ended): (&Script, Ended)| Step {
            outcome: ended
                .outcome
                .and_then(choice)
                .map_err(|fault| fault.of(&script.name)),
            log: ended.log,
            took: ended.took,
        };
        chain.iter().zip(ended).map(step).collect()
    }

    /// Runs what is not suspended of `scripts`. The last that is returned may be a fault instead of having run.
    async fn run(
        &self,
        scripts: &[Script],
        input: &Value,
        moment: Moment,
        work: Work<'_>,
    ) -> Vec<Ended> {
        let pool = &self.pool;
        let (runnable, suspended) = match self.suspends {
            true => pool.runnable(scripts),
            false => (scripts, None),
        };
        let mut ended = Vec::new();
        if !runnable.is_empty() {
            let call = order(runnable, input, moment);
            ended = match pool.take_turn(call, work).await {
                Ok(ended) => ended,
                Err(fault) => vec![not_run(fault)],
            };
            if self.suspends {
                pool.remember(runnable, &ended);
            }
        }
        let undecided = ended
            .iter()
            .all(|ended| matches!(ended.outcome, Ok(Outcome::Pass(_) | Outcome::Servers(_))));
        if undecided {
            ended.extend(suspended.map(not_run));
        }
        ended
    }
}

/// What a call is for.
#[derive(Clone, Copy)]
enum Work<'a> {
    Value(Option<&'a Host>),
    Choice(&'a [Arc<Server>]),
}

impl Pool {
    /// The scripts before the first that is suspended, and that one's fault.
    fn runnable<'a>(&self, scripts: &'a [Script]) -> (&'a [Script], Option<Fault>) {
        let suspended = lock(&self.suspended);
        let now = Instant::now();
        for (index, script) in scripts.iter().enumerate() {
            if let Some(fault) = suspended.fault(script, now) {
                return (scripts.get(..index).unwrap_or_default(), Some(fault));
            }
        }
        (scripts, None)
    }

    fn remember(&self, scripts: &[Script], ended: &[Ended]) {
        let stopped = ended.len().checked_sub(1).and_then(|last| {
            let fault = ended.get(last)?.outcome.as_ref().err()?;
            fault.was_stopped().then(|| scripts.get(last))?
        });
        if let Some(script) = stopped {
            lock(&self.suspended).note(script, Instant::now());
        }
    }

    async fn take_turn(&self, call: Call, work: Work<'_>) -> Result<Vec<Ended>, Fault> {
        let full = |_full| Fault::Busy(self.settings.waiting);
        let _place = self.line.try_acquire().map_err(full)?;
        let closed = |_closed| Fault::Unavailable("it is stopping".to_owned());
        let wait = self.settings.wait;
        let turn = timeout(wait, self.turns.acquire()).await;
        let _turn = turn.map_err(|_late| Fault::Waited(wait))?.map_err(closed)?;
        let worker = self.worker().await?;
        let vacancy = Vacancy {
            pool: self,
            filled: false,
        };
        let (servers, host) = match work {
            Work::Value(host) => (None, host),
            Work::Choice(servers) => (Some(servers), None),
        };
        let (ended, worker) = worker.run(call, servers, host).await;
        if let Some(worker) = worker {
            vacancy.fill(worker);
        }
        Ok(ended)
    }

    async fn worker(&self) -> Result<Worker, Fault> {
        let until = Instant::now() + UP_WITHIN;
        while let Ok(Ok(ready)) = timeout_at(until, self.ready.acquire()).await {
            ready.forget();
            let taken = lock(&self.idle).pop_back();
            if let Some(worker) = taken {
                if worker.is_fit() {
                    return Ok(worker);
                }
                self.vacancies.add_permits(1);
            }
        }
        let trouble = lock(&self.trouble).clone();
        Err(Fault::Unavailable(
            trouble.unwrap_or_else(|| "none came up in time".to_owned()),
        ))
    }

    fn came_up(&self, worker: Worker) {
        lock(&self.idle).push_front(worker);
        self.ready.add_permits(1);
    }

    fn came_back(&self, worker: Worker) {
        lock(&self.idle).push_back(worker);
        self.ready.add_permits(1);
    }
}

/// A worker that is away. Unless it comes back, another is started.
struct Vacancy<'a> {
    pool: &'a Pool,
    filled: bool,
}

impl Vacancy<'_> {
    fn fill(mut self, worker: Worker) {
        self.filled = true;
        self.pool.came_back(worker);
    }
}

impl Drop for Vacancy<'_> {
    fn drop(&mut self) {
        if !self.filled {
            self.pool.vacancies.add_permits(1);
        }
    }
}

async fn keep_up(pool: Arc<Pool>) {
    let [first, longest] = PAUSES;
    let mut pause = first;
    let mut told = false;
    while let Ok(vacancy) = pool.vacancies.acquire().await {
        match Worker::start(&pool.settings, &pool.programs).await {
            Ok(worker) => {
                vacancy.forget();
                pause = first;
                *lock(&pool.trouble) = None;
                if !told && !worker.missing().is_empty() {
                    told = true;
                    warn!(missing = ?worker.missing(), "this kernel does not close script workers in entirely");
                }
                pool.came_up(worker);
            }
            Err(cause) => {
                warn!(%cause, "a script worker does not start");
                *lock(&pool.trouble) = Some(cause.to_string());
                sleep(pause).await;
                pause = pause.saturating_mul(2).min(longest);
            }
        }
    }
}

fn order(scripts: &[Script], input: &Value, moment: Moment) -> Call {
    let source = |script: &Script| Source {
        name: script.name.clone(),
        text: script.source.to_string(),
    };
    Call {
        scripts: scripts.iter().map(source).collect(),
        input: input.to_string(),
        now: moment.now,
        seed: moment.seed,
        ..Call::default()
    }
}

const fn not_run(fault: Fault) -> Ended {
    Ended {
        outcome: Err(fault),
        log: Vec::new(),
        took: Duration::ZERO,
    }
}

fn called(ended: Ended) -> Result<Called, Fault> {
    match ended.outcome? {
        Outcome::Value(json) => Ok(Called {
            value: serde_json::from_str(&json.text).map_err(|error| {
                Fault::Unusable(format!("a value that cannot be read: {error}"))
            })?,
            truthy: json.truthy,
            log: ended.log,
        }),
        outcome @ (Outcome::Server(_)
        | Outcome::Servers(_)
        | Outcome::Pass(_)
        | Outcome::Fault(_)) => Err(out_of_turn(&outcome)),
    }
}

fn choice(outcome: Outcome) -> Result<Choice, Fault> {
    match outcome {
        Outcome::Server(id) => Ok(Choice::Server(id)),
        Outcome::Servers(servers) => Ok(Choice::Servers(servers.ids)),
        Outcome::Pass(_) => Ok(Choice::Pass),
        Outcome::Value(_) | Outcome::Fault(_) => Err(out_of_turn(&outcome)),
    }
}

fn out_of_turn(outcome: &Outcome) -> Fault {
    Fault::Died(format!("it reported {outcome:?}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
