//! Forty ways to do harm. Each call ends in time with a message that names what happened, and the next call finds a
//! worker that knows nothing of it.

use std::time::Instant;

use sallyport_ops::Tasks;
use sallyport_scripts::{Fault, ScriptError, Scripts};
use serde_json::{Value, json};

use crate::{LONG, call, scripts, settings, until_there_are};

/// What a hostile function may come to.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Interrupted, or killed if that does not help.
    Stopped,
    /// Killed: nothing else helps against it.
    Killed,
    /// Refused for its memory, or stopped before it got there.
    Full,
    /// Thrown, with this in the message.
    Threw(&'static str),
    /// Not JSON, not settled or too large.
    Refused,
    /// It does no harm and gets through.
    Returned,
}

use End::{Full, Killed, Refused, Returned, Stopped, Threw};

const HOSTILE: [(&str, End, &str); 42] = [
    // time
    ("endless loop", Stopped, "() => { for (;;); }"),
    ("endless loop that catches", Stopped, "() => { for (;;) try { for (;;); } catch {} finally { for (;;); } }"),
    ("endless loop while loading", Stopped, "for (;;);"),
    ("endless recursion by turns", Stopped, "() => { const f = n => { for (;;) try { return f(n + 1) } catch {} }; f(0) }"),
    ("endless generator", Stopped, "() => [...(function* () { for (;;) yield 1 })()].length"),
    ("endless iterator", Stopped, "() => { for (const x of { [Symbol.iterator]: () => ({ next: () => ({ done: false }) }) }); }"),
    ("endless sort comparison", Stopped, "() => Array(1e5).fill(0).sort(() => { for (;;); })"),
    ("sorting a sparse array", Killed, "() => { const a = []; a.length = 2 ** 32 - 1; a.sort() }"),
    ("joining a sparse array", Stopped, "() => { const a = []; a.length = 2 ** 32 - 1; return a.join('') }"),
    ("reversing what only has a length", Stopped, "() => Array.prototype.reverse.call({ length: 2 ** 40 })"),
    ("unshifting what only has a length", Stopped, "() => Array.prototype.unshift.call({ length: 2 ** 40 }, 1)"),
    ("searching what only has a length", Stopped, "() => Array.prototype.indexOf.call({ length: 2 ** 50 }, 1)"),
    ("regular expression blow-up", Stopped, "() => /^(a+)+$/.test('a'.repeat(60) + 'b')"),
    ("regular expression over much text", Stopped, "() => /(x*)*y/.test('x'.repeat(1e6))"),
    ("BigInt power", Full, "() => { let x = 3n; for (;;) x = x ** 9n }"),
    ("BigInt text", Full, "() => (3n ** 2000000n).toString().length"),
    ("waiting by the clock", Stopped, "() => { const start = Date.now(); while (Date.now() - start < 1e9); }"),
    ("waiting by atomics", Threw("Atomics is not defined"), "() => Atomics.wait(new Int32Array(1), 0, 0)"),
    // memory
    ("memory bomb", Full, "() => { const a = []; for (;;) a.push(new Array(1000).fill(7)) }"),
    ("doubling text", Full, "() => { let s = 'x'; for (;;) s = (s + s).toUpperCase() }"),
    ("one large buffer", Threw("RangeError"), "() => new ArrayBuffer(2 ** 31)"),
    ("many buffers", Full, "() => { const a = []; for (;;) a.push(new Uint8Array(1e6).fill(1)) }"),
    ("memory bomb that catches", Full, "() => { const a = []; for (;;) try { a.push('x'.repeat(1e6) + a.length) } catch {} }"),
    ("memory in properties", Full, "() => { const o = {}; for (let i = 0; ; i += 1) o['k' + i] = i }"),
    ("repeating beyond all strings", Threw("RangeError"), "() => 'x'.repeat(2 ** 30)"),
    ("deep recursion", Threw("stack"), "() => { const f = n => 1 + f(n + 1); return f(0) }"),
    ("deep recursion through JSON", Threw("stack"), "() => { let a = []; for (let i = 0; i < 1e4; i += 1) a = [a]; return a }"),
    // promises
    ("promises without end", Stopped, "async () => { for (;;) await null }"),
    ("promise that nobody settles", Refused, "() => new Promise(() => {})"),
    ("thenable without end", Stopped, "async () => { const t = { then: f => f(t) }; return t }"),
    ("microtasks left behind", Returned, "() => { const again = () => Promise.resolve().then(again); again(); return 1 }"),
    // what is done with the result
    ("getter in the result", Stopped, "() => ({ get a() { for (;;); } })"),
    ("toJSON in the result", Stopped, "() => ({ toJSON() { for (;;); } })"),
    ("proxy as the result", Stopped, "() => new Proxy({}, { ownKeys() { for (;;); } })"),
    ("cycle as the result", Threw("circular"), "() => { const a = {}; a.a = a; return a }"),
    ("huge result", Refused, "() => 'x'.repeat(2e6)"),
    ("error that cannot be read", Stopped, "() => { throw { get message() { for (;;); } } }"),
    // the way out
    ("Function's way to the globals", Returned, "() => typeof Function('return this')().process"),
    ("eval of eval", Returned, "() => (0, eval)('typeof require + typeof std + typeof os')"),
    ("importing a module", Threw(""), "async () => { await import('/etc/passwd') }"),
    ("spoiling every builtin", Stopped, "() => { const { getOwnPropertyNames } = Object; const { ownKeys } = Reflect;
        const names = getOwnPropertyNames(globalThis);
        for (let n = 0; n < names.length; n += 1) {
            const it = globalThis[names[n]]; const all = [it, it?.prototype];
            for (let a = 0; a < 2; a += 1) if (Object(all[a]) === all[a]) {
                const keys = ownKeys(all[a]);
                for (let k = 0; k < keys.length; k += 1) try { all[a][keys[k]] = () => { for (;;); } } catch {}
            } } return 1 }"),
    ("setters on every prototype", Threw("descriptor"), "() => { for (const p of [Object.prototype, Array.prototype])
        for (const k of ['0', '1', 'serverId', 'value', 'get', 'input', 'servers', 'toJSON'])
        Object.defineProperty(p, k, { set() { for (;;); }, configurable: true }); return 1 }"),
];

/// Workers whose limits of time no busy machine reaches with what ends by itself.
fn unhurried() -> Scripts {
    let mut settings = settings();
    settings.limits.interrupt = LONG / 2;
    settings.limits.kill = LONG;
    Scripts::start(settings, &Tasks::new())
}

#[tokio::test]
async fn each_hostile_script_is_named_and_gone_in_time() {
    let (hurried, unhurried) = (scripts(), unhurried());
    let fresh =
        "() => [1, 2].map(x => x + 1).join() + typeof {}.serverId + JSON.stringify({ a: 1 })";
    let expected = call(&unhurried, fresh, &json!({})).await.expect("works");
    for (what, end, function) in HOSTILE {
        let ends_by_itself = matches!(end, Threw(_) | Refused | Returned);
        let scripts = if ends_by_itself { &unhurried } else { &hurried };
        let begun = Instant::now();
        let came = call(scripts, function, &json!({})).await;
        let took = begun.elapsed();
        // 250 ms, on a machine that does nothing else
        assert!(took < LONG / 10, "{what} took {took:?}");
        assert!(is_right(end, &came), "{what}: {came:?} instead of {end:?}");
        let next = call(&unhurried, fresh, &json!({})).await;
        assert_eq!(next.as_ref(), Ok(&expected), "after {what}");
    }
    until_there_are(2 * (settings().workers + 1)).await;
}

fn is_right(end: End, came: &Result<Value, ScriptError>) -> bool {
    let fault = came.as_ref().err().map(|error| &error.fault);
    match (end, fault) {
        (Stopped, Some(Fault::TimedOut(_) | Fault::Killed(_)))
        | (Killed, Some(Fault::Killed(_)))
        | (
            Full,
            Some(Fault::OutOfMemory(_) | Fault::TimedOut(_) | Fault::Killed(_) | Fault::Died(_)),
        )
        | (Refused, Some(Fault::Unusable(_) | Fault::TooLarge { .. }))
        | (Returned, None) => true,
        (Threw(words), Some(Fault::Threw(said))) => said.contains(words),
        (Full, Some(Fault::Threw(said))) => said.contains("too large"),
        _ => false,
    }
}

#[tokio::test]
async fn memory_that_runs_out_is_called_so() {
    let scripts = unhurried();
    let bomb = "() => new Uint8Array(2 ** 30)";
    let error = call(&scripts, bomb, &json!({})).await.expect_err("no room");
    assert_eq!(
        error.to_string(),
        "`script` ran out of memory: it may have 48 MiB"
    );
}

#[tokio::test]
async fn a_script_that_is_stopped_three_times_is_left_alone() {
    let scripts = scripts();
    // interrupted, which costs a worker as well
    let endless = "() => { for (;;); }";
    for _ in 0..3 {
        let error = call(&scripts, endless, &json!({})).await;
        let error = error.expect_err("stopped");
        assert!(
            matches!(error.fault, Fault::TimedOut(_) | Fault::Killed(_)),
            "{error}"
        );
    }
    let error = call(&scripts, endless, &json!({})).await;
    let error = error.expect_err("suspended");
    assert!(matches!(error.fault, Fault::Suspended { .. }), "{error}");

    let sort = "() => { const a = []; a.length = 2 ** 32 - 1; a.sort() }";
    for _ in 0..3 {
        let error = call(&scripts, sort, &json!({})).await.expect_err("killed");
        assert_eq!(
            error.to_string(),
            "`script` did not stop when it was interrupted and was killed after 250 ms"
        );
    }
    let error = call(&scripts, sort, &json!({}))
        .await
        .expect_err("suspended");
    assert!(matches!(error.fault, Fault::Suspended { .. }), "{error}");
    let edited = call(&scripts, "() => 1", &json!({})).await;
    assert_eq!(edited, Ok(json!(1)));
}
