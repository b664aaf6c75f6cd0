//! Runs a chain: functions in workers, which are there from the first one on, and programs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sallyport_ops::{Bounds, Programs, Tasks};
use sallyport_scripts::{
    Choice, Executable, Fault, Folders, Moment, Script, ScriptError, Scripts, Server, Settings,
};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use crate::chain::{Code, Rule};
use crate::trace::{Outcome, Step};

/// Programs that run at the same time, those included that cannot be killed.
pub const PROGRAMS: usize = 8;

/// How long a disk may take to say what a program on it is.
const FOUND_WITHIN: Duration = Duration::from_secs(5);

/// Runs chains. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Workers>);

#[derive(Debug)]
struct Workers {
    settings: Settings,
    tasks: Tasks,
    /// A relay that chooses nothing has none.
    scripts: OnceLock<Scripts>,
    programs: Programs,
    folders: Folders,
    bounds: Bounds,
}

/// What a chain is run on.
#[derive(Debug, Clone, Copy)]
pub struct Work<'w> {
    /// The scripts.
    pub chain: &'w [Arc<Rule>],
    /// Their input without the servers.
    pub input: &'w Value,
    /// The servers to choose from.
    pub servers: &'w [Arc<Server>],
    /// What they see of time and chance.
    pub moment: Moment,
    /// What was said in a decision that is repeated: programs, and what failed, are not run again.
    pub recorded: Option<&'w [Step]>,
    /// Whether nobody waits for a server, so that no script is suspended by it or for it.
    pub aside: bool,
}

impl<'w> Work<'w> {
    /// The scripts before the one that failed in the decision that is repeated, and how it did. That may have been the
    /// node's fault, and would be another one now.
    fn failed(&self) -> Option<(&'w [Arc<Rule>], &'w Step)> {
        let mut steps = self.recorded?.iter().zip(0..self.chain.len());
        let (step, place) = steps.find(|(step, _)| matches!(step.outcome, Outcome::Failed(_)))?;
        Some((self.chain.get(..place)?, step))
    }
}

impl Engine {
    /// Runs functions in workers with these settings, which are started for the first of them, and programs of `folders`
    /// within `bounds`.
    #[must_use]
    pub fn new(
        settings: Settings,
        (programs, folders): (Programs, Folders),
        bounds: Bounds,
        tasks: Tasks,
    ) -> Self {
        Self(Arc::new(Workers {
            settings,
            tasks,
            scripts: OnceLock::new(),
            programs,
            folders,
            bounds,
        }))
    }

    /// What each script did, up to the one that named a server, threw or failed.
    pub async fn run(&self, work: Work<'_>) -> Vec<Step> {
        let failed = work.failed();
        let chain = failed.map_or(work.chain, |(before, _)| before);
        let mut steps = Box::pin(self.run_all(Work { chain, ..work })).await;
        if let Some((before, failed)) = failed
            && steps.len() == before.len()
            && steps.iter().all(Step::goes_on)
        {
            steps.push(failed.clone());
        }
        steps
    }

    async fn run_all(&self, work: Work<'_>) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        let mut servers = work.servers.to_vec();
        while let Some(rest) = work.chain.get(steps.len()..)
            && let Some(rule) = rest.first()
        {
            let functions = functions(rest);
            let now = Work {
                chain: rest,
                servers: &servers,
                ..work
            };
            let done = if functions.is_empty() {
                vec![self.one(rule, now, steps.len()).await]
            } else {
                self.functions(now, &functions).await
            };
            let goes_on = done.iter().all(Step::goes_on) && !done.is_empty();
            if goes_on {
                servers = narrowed(servers, &done);
            }
            steps.extend(done);
            if !goes_on {
                break;
            }
        }
        steps
    }

    /// Functions that stand beside each other run in one call.
    async fn functions(&self, work: Work<'_>, functions: &[Script]) -> Vec<Step> {
        let workers = &self.0;
        let scripts = || Scripts::start(workers.settings.clone(), &workers.tasks);
        let scripts = workers.scripts.get_or_init(scripts);
        let scripts = match work.aside {
            true => scripts.aside(),
            false => scripts.clone(),
        };
        let choosing = scripts.choose(functions, work.input, work.servers, work.moment);
        let ended = choosing.await;
        let ended = ended.into_iter().zip(work.chain);
        let step = |(ended, rule): (sallyport_scripts::Step, &Arc<Rule>)| {
            step(rule, outcome(ended.outcome), ended.log, ended.took)
        };
        ended.map(step).collect()
    }

    /// A script that is no function and stands at `place` of the whole chain.
    async fn one(&self, rule: &Rule, work: Work<'_>, place: usize) -> Step {
        let begun = Instant::now();
        let outcome = match &rule.code {
            Code::Executable { path } => match work.recorded {
                Some(recorded) => said(recorded, place),
                None => self.program(rule, path, work).await,
            },
            Code::Javascript { .. } | Code::Absent => {
                Outcome::Failed("is not there: see `sallyport-relay scripts list`".to_owned())
            }
        };
        step(rule, outcome, Vec::new(), begun.elapsed())
    }

    async fn program(&self, rule: &Rule, path: &Path, work: Work<'_>) -> Outcome {
        let program = match find(&self.0.folders, path).await {
            Ok(program) => program,
            Err(fault) => return Outcome::Failed(format!("was not run: {fault}")),
        };
        let executable = Executable {
            name: rule.name.clone(),
            program,
            arguments: Vec::new(),
            bounds: self.0.bounds,
        };
        let mut input = work.input.clone();
        // it was made from a value
        let object = |server: &Arc<Server>| serde_json::from_str::<Value>(server.json());
        let objects = work.servers.iter().filter_map(|server| object(server).ok());
        input["servers"] = objects.collect();
        match executable.call(&input, &self.0.programs).await {
            Ok(answer) => chosen(&answer),
            Err(error) => outcome(Err(error)),
        }
    }
}

/// A program that this node may run, unless the disk that it lies on keeps it waiting.
async fn find(folders: &Folders, path: &Path) -> Result<PathBuf, String> {
    let (folders, path) = (folders.clone(), path.to_owned());
    let looking = spawn_blocking(move || folders.find(&path));
    let found = timeout(FOUND_WITHIN, looking).await;
    let found = found.map_err(|_late| format!("it was not found within {FOUND_WITHIN:?}"))?;
    let found = found.map_err(|error| error.to_string())?;
    found.map_err(|error| error.to_string())
}

/// The functions that `rules` begin with.
fn functions(rules: &[Arc<Rule>]) -> Vec<Script> {
    let function = |rule: &Arc<Rule>| match &rule.code {
        Code::Javascript { source } => Some(Script::new(rule.name.clone(), Arc::clone(source))),
        Code::Executable { .. } | Code::Absent => None,
    };
    rules.iter().map_while(function).collect()
}

/// What a program said when it was asked.
fn said(recorded: &[Step], place: usize) -> Outcome {
    let recorded = recorded.get(place).map(|step| step.outcome.clone());
    let missing = || Outcome::Failed("was not reached when this was recorded".to_owned());
    recorded.unwrap_or_else(missing)
}

/// The list that the last of `done` left that returned one. Objects are as they were: what functions wrote into them
/// stays in their worker.
pub(crate) fn narrowed(servers: Vec<Arc<Server>>, done: &[Step]) -> Vec<Arc<Server>> {
    let mut lists = done.iter().rev().filter_map(|step| match &step.outcome {
        Outcome::Servers(ids) => Some(ids),
        Outcome::Server(_) | Outcome::Pass | Outcome::Threw(_) | Outcome::Failed(_) => None,
    });
    let Some(ids) = lists.next() else {
        return servers;
    };
    let known: HashMap<&str, &Arc<Server>> =
        servers.iter().map(|server| (server.id(), server)).collect();
    let left = ids.iter().filter_map(|id| known.get(id.as_str()).copied());
    left.cloned().collect()
}

/// What a program's answer means: what a function's would, and `{"error": "…"}` is what a function throws.
fn chosen(answer: &Value) -> Outcome {
    match answer {
        Value::Null | Value::Bool(false) => Outcome::Pass,
        Value::Number(number) if number.as_f64() == Some(0.0) => Outcome::Pass,
        Value::String(id) if id.is_empty() => Outcome::Pass,
        Value::String(id) => Outcome::Server(id.clone()),
        Value::Array(objects) => listed(objects),
        Value::Object(object) => match object.get("error").and_then(Value::as_str) {
            Some(message) => Outcome::Threw(message.to_owned()),
            None => unusable("an object without a text as `error`"),
        },
        Value::Bool(true) | Value::Number(_) => unusable(&answer.to_string()),
    }
}

fn listed(objects: &[Value]) -> Outcome {
    let id = |object: &Value| object.get("serverId")?.as_str().map(str::to_owned);
    let ids: Option<Vec<String>> = objects.iter().map(id).collect();
    ids.map_or_else(
        || unusable("a list of something else than servers"),
        Outcome::Servers,
    )
}

fn unusable(what: &str) -> Outcome {
    Outcome::Failed(Fault::Unusable(what.to_owned()).to_string())
}

fn outcome(came: Result<Choice, ScriptError>) -> Outcome {
    match came {
        Ok(Choice::Server(id)) => Outcome::Server(id),
        Ok(Choice::Servers(ids)) => Outcome::Servers(ids),
        Ok(Choice::Pass) => Outcome::Pass,
        Err(ScriptError {
            fault: Fault::Threw(message),
            ..
        }) => Outcome::Threw(message),
        Err(error) => Outcome::Failed(error.fault.to_string()),
    }
}

fn step(rule: &Rule, outcome: Outcome, log: Vec<String>, took: Duration) -> Step {
    Step {
        script: rule.name.clone(),
        version: rule.version.clone(),
        outcome,
        log,
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    }
}

/// The object of a server as scripts see it, with what is on its way there.
#[must_use]
pub fn object(server: &sallyport_node::Server, pending: u64) -> Server {
    let mut object = server.for_scripts();
    let own = server.usage.pending;
    object["pending"] = json!(own.saturating_add(pending));
    Server::new(server.server_id.as_str(), &object)
}
