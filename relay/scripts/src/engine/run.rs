//! The functions of one call, in the context that was made for it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use rquickjs::context::EvalOptions;
use rquickjs::promise::PromiseState;
use rquickjs::{Coerced, Ctx, Error, Function, Object, Promise, Value};

use super::Outside;
use super::clock::Clock;
use super::thrown::{self, Thrown};
use crate::protocol::{
    Argv, Call, Empty, Ids, Json, Outcome, Returned, Source, Wish, Wrong, WrongKind,
};

/// Bytes that an id takes in a report beside its own.
const AROUND_AN_ID: usize = 8;

/// What it may take to copy a server for a function that looks at all of it. That is not the function's time.
const COPY: Duration = Duration::from_micros(40);

/// One call that has been handed its input.
pub(super) struct Run<'js> {
    ctx: Ctx<'js>,
    prelude: Object<'js>,
    clock: Clock,
    output: usize,
}

impl<'js> Run<'js> {
    pub(super) fn new(ctx: Ctx<'js>, prelude: Object<'js>, clock: Clock, output: usize) -> Self {
        Self {
            ctx,
            prelude,
            clock,
            output,
        }
    }

    /// Lets the functions ask for commands and processes.
    pub(super) fn open<O: Outside + 'static>(&self, outside: &Rc<O>) -> Result<(), Error> {
        let (outside, clock) = (Rc::clone(outside), self.clock.clone());
        let ask = move |kind: String, words: Vec<String>| {
            let wish = match kind.as_str() {
                "run" => Wish::Run(Argv { words }),
                _ => Wish::Processes(Empty {}),
            };
            let asked = Instant::now();
            let answer = outside.ask(wish);
            clock.extend(asked.elapsed());
            match answer {
                Ok(json) => format!("{{\"is\":{json}}}"),
                Err(message) => serde_json::json!({ "wrong": message }).to_string(),
            }
        };
        let open: Function<'js> = self.prelude.get("open")?;
        open.call((Function::new(self.ctx.clone(), ask)?,))
    }

    /// Runs one function after the other until one decides, and says whether something of them may be left.
    pub(super) fn all(&self, call: &Call, outside: &impl Outside) -> bool {
        let servers = call
            .servers
            .as_ref()
            .map_or(0, |servers| servers.list.len());
        let copying = COPY.saturating_mul(u32::try_from(servers).unwrap_or(u32::MAX));
        for script in &call.scripts {
            let begun = Instant::now();
            outside.begun();
            self.clock.start(copying);
            let ended = if call.compiles {
                self.compile(script)
                    .map(|_function| Outcome::Pass(Empty {}))
            } else {
                self.one(script, call.servers.is_some())
            };
            self.clock.stop();
            let broken = matches!(&ended, Err(wrong) if leaves_traces(wrong));
            let undecided = matches!(&ended, Ok(Outcome::Pass(_) | Outcome::Servers(_)));
            let told = outside.returned(Returned {
                outcome: Some(ended.unwrap_or_else(Outcome::Fault)),
                log: self.log(),
                took: u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX),
            });
            if !undecided || !told {
                return broken || !told;
            }
        }
        false
    }

    fn one(&self, script: &Source, chooses: bool) -> Result<Outcome, Wrong> {
        let function = self.compile(script)?;
        let input: Value<'js> = self.of_prelude("input", ())?;
        let returned: Value<'js> = self.ours(function.call((input,)))?;
        let value = self.settled(returned)?;
        if chooses {
            self.choice(value)
        } else {
            self.value(value)
        }
    }

    /// A function may stand alone, or be the last value of a text.
    fn compile(&self, script: &Source) -> Result<Function<'js>, Wrong> {
        let text = script.text.trim_end().trim_end_matches(';');
        let alone = self.evaluate(&script.name, format!("({text}\n)"));
        let value = match alone {
            Err(not_alone) if not_alone.is_syntax => self
                .evaluate(&script.name, script.text.clone())
                .map_err(|in_text| thrown::further(not_alone, in_text)),
            evaluated => evaluated,
        };
        let value = value.map_err(|thrown| {
            if thrown.is_syntax {
                Wrong::new(WrongKind::NotAFunction, thrown.wrong.text)
            } else {
                thrown.wrong
            }
        })?;
        value.into_function().ok_or_else(|| {
            Wrong::new(
                WrongKind::NotAFunction,
                "write one function, function(input) { … }, or helpers and then the function as the last value",
            )
        })
    }

    fn evaluate(&self, name: &str, text: String) -> Result<Value<'js>, Thrown> {
        let mut options = EvalOptions::default();
        options.strict = false;
        options.filename = Some(name.replace('\0', ""));
        let evaluated = self.ctx.eval_with_options(text, options);
        evaluated.map_err(|error| thrown::of(&self.ctx, &self.clock, &error))
    }

    /// Waits for a promise as far as its own jobs carry it.
    fn settled(&self, returned: Value<'js>) -> Result<Value<'js>, Wrong> {
        if !returned.is_promise() {
            return Ok(returned);
        }
        let promise = self.ours(Promise::from_value(returned))?;
        while promise.state() == PromiseState::Pending {
            if self.clock.is_over() {
                return Err(Wrong::new(WrongKind::TimedOut, ""));
            }
            if !self.ctx.execute_pending_job() {
                return Err(unusable("a promise that nothing settles"));
            }
        }
        let result = promise.result().unwrap_or(Err(Error::WouldBlock));
        self.ours(result)
    }

    fn value(&self, value: Value<'js>) -> Result<Outcome, Wrong> {
        let truthy = self.truthy(&value)?;
        if value.is_undefined() {
            let text = "null".to_owned();
            return Ok(Outcome::Value(Json { text, truthy }));
        }
        let kind = value.type_name();
        let Some(json) = self.ours(self.ctx.json_stringify(value))? else {
            return Err(unusable(&format!("a {kind}, which JSON cannot hold")));
        };
        let text = self.ours(json.to_string())?;
        self.fits(text.len())?;
        Ok(Outcome::Value(Json { text, truthy }))
    }

    fn choice(&self, value: Value<'js>) -> Result<Outcome, Wrong> {
        if !self.truthy(&value)? {
            return Ok(Outcome::Pass(Empty {}));
        }
        if let Some(id) = value.as_string() {
            let id = self.ours(id.to_string())?;
            self.fits(id.len())?;
            return Ok(Outcome::Server(id));
        }
        if !value.is_array() {
            let kind = value.type_name();
            return Err(unusable(&format!(
                "a value of type {kind}; return a serverId, a list of servers, or nothing to pass"
            )));
        }
        let ids: Value<'js> = self.of_prelude("ids", (value.clone(),))?;
        if let Some(index) = ids.as_number() {
            return Err(unusable(&format!(
                "a list whose element {index} is no server: it has no serverId"
            )));
        }
        let ids: Vec<String> = self.ours(ids.get())?;
        self.fits(ids.iter().map(|id| id.len() + AROUND_AN_ID).sum())?;
        self.of_prelude::<()>("narrow", (value,))?;
        Ok(Outcome::Servers(Ids { ids }))
    }

    fn truthy(&self, value: &Value<'js>) -> Result<bool, Wrong> {
        let Coerced(truthy) = self.ours(value.get())?;
        Ok(truthy)
    }

    const fn fits(&self, len: usize) -> Result<(), Wrong> {
        if len <= self.output {
            return Ok(());
        }
        Err(Wrong {
            kind: WrongKind::TooLarge as i32,
            text: String::new(),
        })
    }

    fn log(&self) -> Vec<String> {
        let noted: Result<String, Wrong> = self.of_prelude("log", ());
        let lines = noted.unwrap_or_default();
        lines
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    fn of_prelude<R: rquickjs::FromJs<'js>>(
        &self,
        name: &str,
        arguments: impl rquickjs::function::IntoArgs<'js>,
    ) -> Result<R, Wrong> {
        let function: Function<'js> = self.ours(self.prelude.get(name))?;
        self.ours(function.call(arguments))
    }

    /// What the engine says of the script, in our words.
    fn ours<T>(&self, result: Result<T, Error>) -> Result<T, Wrong> {
        result.map_err(|error| thrown::of(&self.ctx, &self.clock, &error).wrong)
    }
}

fn unusable(what: &str) -> Wrong {
    Wrong::new(WrongKind::Unusable, what)
}

/// Half-done work, or a heap that is full.
fn leaves_traces(wrong: &Wrong) -> bool {
    matches!(wrong.kind(), WrongKind::TimedOut | WrongKind::OutOfMemory)
}
