//! QuickJS inside a worker process: one heap, and for every call a context of its own.
//!
//! Servers are parsed once into a context that no script sees and copied into that of each call, so a script may change
//! its input and the builtins as it likes, and the next call sees nothing of it. The next context is made while nobody
//! waits.

use std::rc::Rc;
use std::time::Duration;

use rquickjs::{
    Array, Context, Ctx, Error, Function, Object, Persistent, Runtime, String as JsString,
};

use crate::protocol::{Call, Outcome, Returned, Setup, Wish, Wrong, WrongKind};

mod clock;
mod run;
mod thrown;

use clock::Clock;
use run::Run;

/// JavaScript that is run first in every context.
const PRELUDE: &str = include_str!("engine/prelude.js");

/// Who is told how a call goes, and asked for what it wants from outside.
pub(crate) trait Outside {
    /// The next function begins.
    fn begun(&self);
    /// It ended. Says whether that could be told; if not, nothing further is to begin.
    fn returned(&self, returned: Returned) -> bool;
    /// It waits for this: a result as JSON, or the message to throw.
    fn ask(&self, wish: Wish) -> Result<String, String>;
}

/// The engine of one worker. Fields are dropped in this order: values, contexts, runtime.
pub(crate) struct Engine {
    kept: Persistent<Array<'static>>,
    next: Option<Prepared>,
    keeper: Context,
    runtime: Runtime,
    clock: Clock,
    output: usize,
}

/// A context that waits for its call.
struct Prepared {
    prelude: Persistent<Object<'static>>,
    context: Context,
}

impl Engine {
    /// An engine under the limits of `setup`.
    ///
    /// # Errors
    /// When they leave no room for the engine itself.
    pub(crate) fn new(setup: &Setup) -> Result<Self, Error> {
        let runtime = Runtime::new()?;
        let memory = usize::try_from(setup.memory).unwrap_or(usize::MAX);
        runtime.set_memory_limit(memory);
        // garbage is collected between calls, and within one only when much of the memory is used
        runtime.set_gc_threshold(memory / 2);
        runtime.set_max_stack_size(usize::try_from(setup.stack).unwrap_or(usize::MAX));
        let [each, latest] = [setup.interrupt, setup.latest].map(Duration::from_millis);
        let clock = Clock::new(each, latest);
        let watched = clock.clone();
        runtime.set_interrupt_handler(Some(Box::new(move || watched.is_over())));
        let keeper = Context::full(&runtime)?;
        let kept = keeper.with(|ctx| {
            let kept = Array::new(ctx.clone())?;
            Ok::<_, Error>(Persistent::save(&ctx, kept))
        })?;
        let next = Some(Prepared::new(&runtime)?);
        Ok(Self {
            kept,
            next,
            keeper,
            runtime,
            clock,
            output: usize::try_from(setup.output).unwrap_or(usize::MAX),
        })
    }

    /// Runs a call, and says whether the engine is spent: something of the call may be left in it.
    pub(crate) fn run<O: Outside + 'static>(&mut self, call: &Call, outside: &Rc<O>) -> bool {
        let spent = self.carry_out(call, outside).unwrap_or_else(|error| {
            outside.begun();
            outside.returned(Returned {
                outcome: Some(Outcome::Fault(unprepared(&error))),
                ..Returned::default()
            });
            true
        });
        spent || self.runtime.is_job_pending()
    }

    /// Makes the next call's context and collects the garbage of the last one.
    ///
    /// # Errors
    /// When memory does not suffice; the engine is then spent.
    pub(crate) fn prepare(&mut self) -> Result<(), Error> {
        self.runtime.run_gc();
        self.next = Some(Prepared::new(&self.runtime)?);
        Ok(())
    }

    fn carry_out<O: Outside + 'static>(
        &mut self,
        call: &Call,
        outside: &Rc<O>,
    ) -> Result<bool, Error> {
        self.keep(call)?;
        let Prepared { prelude, context } = match self.next.take() {
            Some(prepared) => prepared,
            None => Prepared::new(&self.runtime)?,
        };
        context.with(|ctx| {
            let prelude = prelude.restore(&ctx)?;
            self.hand_in(&ctx, &prelude, call)?;
            let run = Run::new(ctx, prelude, self.clock.clone(), self.output);
            if call.asks {
                run.open(outside)?;
            }
            Ok(run.all(call, &**outside))
        })
    }

    /// Parses and keeps the servers that are new.
    fn keep(&self, call: &Call) -> Result<(), Error> {
        let Some(servers) = &call.servers else {
            return Ok(());
        };
        self.keeper.with(|ctx| {
            let kept = self.kept.clone().restore(&ctx)?;
            for put in &servers.put {
                let place = usize::try_from(put.place).unwrap_or(usize::MAX);
                kept.set(place, ctx.json_parse(put.json.as_str())?)?;
            }
            Ok(())
        })
    }

    fn hand_in<'js>(
        &self,
        ctx: &Ctx<'js>,
        prelude: &Object<'js>,
        call: &Call,
    ) -> Result<(), Error> {
        let begin: Function<'js> = prelude.get("begin")?;
        let input = JsString::from_str(ctx.clone(), &call.input)?;
        // in halves, as JavaScript's operators on bits want it
        let [high, low] = [call.seed >> 32, call.seed & 0xffff_ffff].map(|half| half as f64);
        begin.call::<_, ()>((input, call.now as f64, high, low))?;
        let Some(servers) = &call.servers else {
            return Ok(());
        };
        let places = Array::new(ctx.clone())?;
        for (index, place) in servers.list.iter().enumerate() {
            places.set(index, *place)?;
        }
        let take: Function<'js> = prelude.get("servers")?;
        take.call((self.kept.clone().restore(ctx)?, places))
    }
}

impl Prepared {
    fn new(runtime: &Runtime) -> Result<Self, Error> {
        let context = Context::full(runtime)?;
        let prelude = context.with(|ctx| {
            let prelude: Object<'_> = ctx.eval(PRELUDE)?;
            Ok::<_, Error>(Persistent::save(&ctx, prelude))
        })?;
        Ok(Self { prelude, context })
    }
}

/// What kept the input from being handed in. It is JSON of ours, so there is little but memory that can be short.
fn unprepared(error: &Error) -> Wrong {
    if error.is_exception() || matches!(error, Error::Allocation) {
        return Wrong::new(WrongKind::OutOfMemory, "");
    }
    Wrong::new(WrongKind::Unusable, format!("nothing: {error}"))
}

#[cfg(test)]
mod tests;
