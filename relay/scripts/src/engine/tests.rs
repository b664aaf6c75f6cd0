use std::cell::RefCell;

use serde_json::{Value, json};

use super::*;
use crate::protocol::{Put, Servers, Source};

/// Keeps what is reported, and answers every question with what was asked.
#[derive(Default)]
struct Recorder {
    returned: RefCell<Vec<Returned>>,
}

impl Outside for Recorder {
    fn begun(&self) {}

    fn returned(&self, returned: Returned) -> bool {
        self.returned.borrow_mut().push(returned);
        true
    }

    fn ask(&self, wish: Wish) -> Result<String, String> {
        match wish {
            Wish::Run(argv) if argv.words == ["/bin/refused"] => Err("not allowed".to_owned()),
            Wish::Run(argv) => Ok(json!(argv.words).to_string()),
            Wish::Processes(_) => Ok("[1,2]".to_owned()),
        }
    }
}

fn engine() -> Engine {
    let setup = Setup {
        memory: 16 << 20,
        stack: 256 << 10,
        interrupt: 500,
        latest: 60_000,
        niceness: 0,
        output: 1000,
    };
    Engine::new(&setup).unwrap()
}

fn call(functions: &[&str], input: &Value) -> Call {
    let source = |text: &&str| Source {
        name: "s".to_owned(),
        text: (*text).to_owned(),
    };
    Call {
        scripts: functions.iter().map(source).collect(),
        input: input.to_string(),
        now: 1_700_000_000_000,
        seed: 0x1234_5678_9abc_def0,
        ..Call::default()
    }
}

fn run(engine: &mut Engine, call: &Call) -> Vec<Returned> {
    let recorder = Rc::new(Recorder::default());
    if !engine.run(call, &recorder) {
        engine.prepare().unwrap();
    }
    recorder.returned.take()
}

fn outcome(engine: &mut Engine, call: &Call) -> Outcome {
    let mut returned = run(engine, call);
    assert_eq!(returned.len(), 1, "{returned:?}");
    returned.remove(0).outcome.unwrap()
}

/// The returned value, or `KIND: text` of the fault.
fn value(engine: &mut Engine, function: &str) -> Result<Value, String> {
    match outcome(engine, &call(&[function], &json!({ "n": 4 }))) {
        Outcome::Value(json) => serde_json::from_str(&json.text).map_err(|error| error.to_string()),
        Outcome::Fault(wrong) => Err(format!("{:?}: {}", wrong.kind(), wrong.text)),
        other @ (Outcome::Server(_) | Outcome::Servers(_) | Outcome::Pass(_)) => {
            Err(format!("{other:?}"))
        }
    }
}

#[test]
fn a_function_is_written_in_any_form() {
    let mut engine = engine();
    for function in [
        "function(input) { return input.n + 1; }",
        "function (input) { return input.n + 1; };\n",
        "function plus(input) { return input.n + 1; }",
        "// adds\nfunction(input) { return input.n + 1; } // done",
        "input => input.n + 1",
        "(input) => { return input.n + 1 }",
        "async function(input) { return await Promise.resolve(input.n) + 1; }",
        "async input => { for (const x of [1]) await null; return input.n + 1 }",
        "const one = 1;\nfunction plus(input) { return input.n + one; }\nplus",
        "function one() { return 1 }; (input) => input.n + one()",
        "function(input) { sum = input.n; return sum + 1; }",
    ] {
        assert_eq!(value(&mut engine, function), Ok(json!(5)), "{function}");
    }
}

#[test]
fn what_is_not_a_function_is_named_with_its_line() {
    let mut engine = engine();
    let refused = [
        ("", "write one function"),
        ("42", "write one function"),
        ("const f = 1", "write one function"),
        ("function(input) {\n  return +;\n}", "(s:2:"),
        (
            "function a() {}\nfunction b(input) {\n  return input..;\n}\nb",
            "(s:3:",
        ),
    ];
    for (function, said) in refused {
        let error = value(&mut engine, function).unwrap_err();
        assert!(error.starts_with("NotAFunction: "), "{function}: {error}");
        assert!(error.contains(said), "{function}: {error}");
    }
}

#[test]
fn what_is_thrown_reaches_the_user_in_its_words() {
    let mut engine = engine();
    for (function, said) in [
        (
            "() => { throw new Error('All GPU servers are in use') }",
            "Threw: All GPU servers are in use",
        ),
        ("() => { throw 'no' }", "Threw: no"),
        (
            "() => { throw { message: 'busy', code: 4 } }",
            "Threw: busy",
        ),
        ("() => { throw { code: 4 } }", r#"Threw: {"code":4}"#),
        ("() => { throw undefined }", "Threw: undefined"),
        ("async () => { throw new Error('later') }", "Threw: later"),
        (
            "() =>\n nosuch()",
            "Threw: ReferenceError: nosuch is not defined (s:2:2)",
        ),
        (
            "() => { throw { get message() { throw 1 } } }",
            "Threw: something that cannot be shown",
        ),
    ] {
        assert_eq!(
            value(&mut engine, function),
            Err(said.to_owned()),
            "{function}"
        );
    }
    let long = value(&mut engine, "() => { throw 'ä'.repeat(10000) }").unwrap_err();
    assert!(long.len() < 4200 && long.ends_with("ä…"), "{}", long.len());
}

#[test]
fn a_value_is_json_or_refused_by_name() {
    let mut engine = engine();
    for (function, expected) in [
        ("() => undefined", json!(null)),
        ("() => 0", json!(0)),
        ("() => NaN", json!(null)),
        (
            "() => ({ a: [1, 'x', null], b: undefined })",
            json!({ "a": [1, "x", null] }),
        ),
        ("() => new Date(0)", json!("1970-01-01T00:00:00.000Z")),
    ] {
        assert_eq!(value(&mut engine, function), Ok(expected), "{function}");
    }
    for (function, said) in [
        ("() => (() => 1)", "Unusable: a function"),
        ("() => Symbol('s')", "Unusable: a symbol"),
        ("() => 1n", "Threw: TypeError: "),
        (
            "() => { const a = []; a.push(a); return a }",
            "Threw: TypeError: circular",
        ),
        (
            "() => new Promise(() => {})",
            "Unusable: a promise that nothing settles",
        ),
        ("() => 'x'.repeat(1000)", "TooLarge: "),
    ] {
        let error = value(&mut engine, function).unwrap_err();
        assert!(error.starts_with(said), "{function}: {error}");
    }
}

#[test]
fn time_and_chance_follow_from_the_call() {
    let mut engine = engine();
    let function = "() => [Date.now(), new Date().getTime(), new Date(5).getTime(), Math.random(),
        Math.random(), typeof Date(), new Date() instanceof Date, new Date().constructor === Date,
        class extends Date {}.name === '' && new (class extends Date {})().getTime(), Date.UTC(1970, 0, 2)]";
    let first = value(&mut engine, function).unwrap();
    assert_eq!(
        value(&mut engine, function).unwrap(),
        first,
        "every call anew"
    );
    let now = 1_700_000_000_000_u64;
    // fixed for ever: recorded decisions are replayed by later releases
    assert_eq!(
        first,
        json!([
            now,
            now,
            5,
            0.582_668_374_403_161_1,
            0.765_728_403_171_365,
            "string",
            true,
            true,
            now,
            86_400_000
        ])
    );
    let mut elsewhere = call(&[function], &json!({}));
    elsewhere.seed += 1;
    let Outcome::Value(other) = outcome(&mut engine, &elsewhere) else {
        panic!("no value");
    };
    let other: Value = serde_json::from_str(&other.text).unwrap();
    assert_ne!(other[3], first[3], "another seed");
}

#[test]
fn chance_is_even() {
    let function = "() => { const counts = Array(10).fill(0);
        for (let i = 0; i < 5000; i += 1) counts[Math.floor(Math.random() * 10)] += 1;
        return counts }";
    let counts: Vec<u64> = serde_json::from_value(value(&mut engine(), function).unwrap()).unwrap();
    // 500 each, with a standard deviation of 21
    assert!(
        counts.iter().all(|count| (380..620).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn what_a_call_changes_the_next_does_not_see() {
    let mut engine = engine();
    let spoil = "function() {
        Array.prototype.filter = () => ['spoilt'];
        Object.prototype.spoilt = 1;
        JSON.parse = JSON.stringify = () => '\"spoilt\"';
        Object.defineProperty(Object.prototype, 'serverId', { get() { return 'spoilt' }, set() {} });
        Function.prototype.call = null;
        globalThis.left = 1;
        Math.random = Date.now = () => 4;
        Date.prototype.getTime = () => 4;
        Promise.prototype.then = () => { throw 1 };
        Error.prepareStackTrace = (error, frames) => { globalThis.frames = frames; return 'x' };
        try { null.x } catch {}
        return 1 }";
    let look = "function() {
        return [typeof left, {}.spoilt, {}.serverId, [1, 2].filter(x => x > 1), JSON.stringify([1]),
            typeof Function.prototype.call, Math.random() !== 4, Date.now() !== 4, typeof frames] }";
    let before = value(&mut engine, look).unwrap();
    assert_eq!(value(&mut engine, spoil), Ok(json!(1)));
    assert_eq!(value(&mut engine, look).unwrap(), before);
    assert_eq!(before[3], json!([2]));
}

#[test]
fn nothing_of_the_host_is_in_reach() {
    let mut engine = engine();
    let function = "() => ['require', 'process', 'module', 'exports', 'std', 'os', 'fetch', 'setTimeout', 'load', 'print',
        'scriptArgs', 'XMLHttpRequest', 'WebAssembly', 'Atomics', 'SharedArrayBuffer', 'WeakRef',
        'FinalizationRegistry', 'performance', 'run', 'processes', 'gc']
        .filter(name => typeof globalThis[name] !== 'undefined')";
    assert_eq!(value(&mut engine, function), Ok(json!([])));
    for function in [
        "async () => { await import('std') }",
        "async () => { await import('/etc/passwd') }",
        "() => Function('return import.meta')()",
    ] {
        let error = value(&mut engine, function).unwrap_err();
        assert!(error.starts_with("Threw: "), "{function}: {error}");
    }
}

#[test]
fn console_lines_are_kept_within_bounds() {
    let mut engine = engine();
    let function = "() => { console.log('a', 1, { b: [2] }); console.warn(undefined, 3n);
        for (let i = 0; i < 500; i += 1) console.error('x'.repeat(10000)); }";
    let returned = run(&mut engine, &call(&[function], &json!({})));
    let log = &returned[0].log;
    assert_eq!(log[..2], ["a 1 {\"b\":[2]}", "undefined (cannot be shown)"]);
    assert_eq!(log.len(), 100);
    assert!(log.iter().all(|line| line.chars().count() <= 501));
}

#[test]
fn only_who_may_ask_can_ask() {
    let mut engine = engine();
    let function = "() => [run(['/bin/a', 1, '-x']), processes(),
        (() => { try { run(['/bin/refused']) } catch (e) { return e.message } })(),
        (() => { try { run('ls') } catch (e) { return e.name } })()]";
    let mut asking = call(&[function], &json!({}));
    asking.asks = true;
    let Outcome::Value(answered) = outcome(&mut engine, &asking) else {
        panic!("no value");
    };
    assert_eq!(
        answered.text,
        r#"[["/bin/a","1","-x"],[1,2],"not allowed","TypeError"]"#
    );
    let error = value(&mut engine, function).unwrap_err();
    assert!(error.starts_with("Threw: ReferenceError: run"), "{error}");
}

fn choosing(functions: &[&str], put: &[Value], list: &[u32]) -> Call {
    let put = (0..)
        .zip(put)
        .map(|(place, server)| Put {
            place,
            json: server.to_string(),
        })
        .collect();
    let servers = Servers {
        put,
        list: list.to_vec(),
    };
    Call {
        servers: Some(servers),
        ..call(functions, &json!({ "user": { "login": "eve" } }))
    }
}

fn servers() -> [Value; 3] {
    ["a", "b", "c"].map(|id| {
        json!({ "serverId": id, "loadavg": [1, 2, 3], "staticData": { "gpu": id != "b" }, "__proto__x": 1 })
    })
}

fn ids(ids: &[&str]) -> Outcome {
    let ids = ids.iter().map(|id| (*id).to_owned()).collect();
    Outcome::Servers(crate::protocol::Ids { ids })
}

#[test]
fn a_chain_narrows_the_list_until_one_decides() {
    let mut engine = engine();
    let chain = [
        "input => input.servers.filter(server => server.staticData.gpu)",
        "input => { input.servers[1].mark = 'seen' }",
        "input => input.servers.length === 2 && input.servers[1].mark === 'seen' && input.servers[1].serverId",
        "() => 'never run'",
    ];
    let returned = run(&mut engine, &choosing(&chain, &servers(), &[0, 1, 2]));
    let outcomes: Vec<_> = returned
        .into_iter()
        .map(|step| step.outcome.unwrap())
        .collect();
    let pass = Outcome::Pass(crate::protocol::Empty {});
    assert_eq!(
        outcomes,
        [ids(&["a", "c"]), pass, Outcome::Server("c".to_owned())]
    );

    // kept from before, in another order, and unmarked
    let look = ["input => { if (input.servers.some(s => s.mark)) throw 1; return input.servers }"];
    let again = outcome(&mut engine, &choosing(&look, &[], &[2, 1]));
    assert_eq!(again, ids(&["c", "b"]));
}

#[test]
fn servers_are_copies_to_their_depth() {
    let mut engine = engine();
    let hostile = json!({ "serverId": "a", "staticData": { "deep": [{ "x": 1 }] } });
    let mut text = hostile.to_string();
    text.insert_str(1, r#""__proto__":{"sneaked":[1]},"#);
    let mut first = choosing(
        &["input => { const s = input.servers[0]; s.staticData.deep[0].x = 2; s.staticData.deep.push(1);
            Object.getOwnPropertyDescriptor(s, '__proto__').value.sneaked.push(2);
            Object.getPrototypeOf(s).tainted = 1; return [s] }"],
        &[],
        &[0],
    );
    let servers = first.servers.as_mut().unwrap();
    servers.put.push(Put {
        place: 0,
        json: text,
    });
    assert_eq!(outcome(&mut engine, &first), ids(&["a"]));
    let look = ["input => { const s = input.servers[0]; throw JSON.stringify([s.staticData, s.tainted, s.sneaked,
        Object.getOwnPropertyDescriptor(s, '__proto__').value]) }"];
    let Outcome::Fault(wrong) = outcome(&mut engine, &choosing(&look, &[], &[0])) else {
        panic!("nothing thrown");
    };
    assert_eq!(
        wrong.text,
        r#"[{"deep":[{"x":1}]},null,null,{"sneaked":[1]}]"#
    );
}

/// A server is copied as it is looked at, which no function can tell from an object of its own.
#[test]
fn servers_look_like_plain_objects_whatever_is_done_with_them() {
    let mut engine = engine();
    for (function, expected) in [
        ("s => JSON.stringify(s)", json!(r#"{"__proto__x":1,"loadavg":[1,2,3],"serverId":"a","staticData":{"gpu":true}}"#)),
        ("s => Object.keys(s)", json!(["__proto__x", "loadavg", "serverId", "staticData"])),
        ("s => { s.loadavg.push(4); s.new = 1; return [Object.entries(s).length, s.loadavg, { ...s }.new] }",
            json!([5, [1, 2, 3, 4], 1])),
        ("s => { s.serverId = 'z'; delete s.loadavg; return [s.serverId, 'loadavg' in s, s.loadavg, Object.keys(s)] }",
            json!(["z", false, null, ["__proto__x", "serverId", "staticData"]])),
        ("s => ['serverId' in s, 'no' in s, 'toString' in s, s.hasOwnProperty('loadavg'), Object.hasOwn(s, 'no'), s.no]",
            json!([true, false, true, true, false, null])),
        ("s => [s.staticData === s.staticData, s === s, typeof s, s instanceof Object, String(s), Array.isArray(s.loadavg)]",
            json!([true, true, "object", true, "[object Object]", true])),
        ("s => { 'use strict'; Object.freeze(s); try { s.serverId = 1 } catch (e) { return [e.name, s.serverId, Object.isFrozen(s)] } }",
            json!(["TypeError", "a", true])),
        ("s => { Object.defineProperty(s, 'serverId', { get: () => 'g' }); const t = Object.create(s); t.own = 1;
            return [s.serverId, t.serverId, Object.keys(t), 'own' in s] }", json!(["g", "g", ["own"], false])),
        ("s => { const { serverId, ...rest } = s; const names = []; for (const name in s) names.push(name);
            return [serverId, Object.keys(rest).length, names.length, Object.assign({}, s).serverId] }",
            json!(["a", 3, 4, "a"])),
        ("s => { Object.setPrototypeOf(s, { extra: 7 }); return [s.extra, s.serverId] }", json!([7, "a"])),
        ("s => { Object.prototype.get = Object.prototype.set = Object.prototype.value = 1; Reflect.get = Object.hasOwn = null;
            return [s.staticData.gpu, s.serverId] }", json!([true, "a"])),
    ] {
        let thrown = format!("input => {{ throw JSON.stringify(({function})(input.servers[0])) }}");
        let call = choosing(&[thrown.as_str()], &servers(), &[0]);
        let Outcome::Fault(wrong) = outcome(&mut engine, &call) else {
            panic!("{function}: nothing thrown");
        };
        let shown: Value = serde_json::from_str(&wrong.text).unwrap_or_else(|_text| json!(wrong.text));
        assert_eq!(shown, expected, "{function}");
        // nothing of it is left
        let look = ["input => { throw JSON.stringify(input.servers[0]) }"];
        let Outcome::Fault(wrong) = outcome(&mut engine, &choosing(&look, &[], &[0])) else {
            panic!("nothing thrown");
        };
        let left: Value = serde_json::from_str(&wrong.text).expect("JSON");
        assert_eq!(left, servers()[0], "{function}");
    }
}

#[test]
fn a_choice_that_is_none_is_refused_by_name() {
    let mut engine = engine();
    for (function, said) in [
        ("() => 5", "a value of type int; return a serverId"),
        ("() => true", "a value of type bool; return a serverId"),
        (
            "() => ({ serverId: 'a' })",
            "a value of type object; return a serverId",
        ),
        (
            "input => [input.servers[0], 'b']",
            "a list whose element 1 is no server",
        ),
        ("input => [null]", "a list whose element 0 is no server"),
    ] {
        let Outcome::Fault(wrong) =
            outcome(&mut engine, &choosing(&[function], &servers(), &[0, 1]))
        else {
            panic!("{function} was taken");
        };
        assert_eq!(wrong.kind(), WrongKind::Unusable);
        assert!(wrong.text.starts_with(said), "{function}: {}", wrong.text);
    }
    for falsy in ["undefined", "null", "0", "''", "false", "NaN", "0n", "[]"] {
        let function = format!("() => {falsy}");
        let passed = outcome(
            &mut engine,
            &choosing(&[function.as_str()], &servers(), &[0]),
        );
        let expected = if falsy == "[]" {
            ids(&[])
        } else {
            Outcome::Pass(crate::protocol::Empty {})
        };
        assert_eq!(passed, expected, "{falsy}");
    }
}

#[test]
fn what_breaks_off_half_way_spends_the_engine() {
    for (function, kind) in [
        ("() => { for (;;); }", WrongKind::TimedOut),
        (
            "() => { const a = []; for (;;) a.push('x'.repeat(1e5) + a.length) }",
            WrongKind::OutOfMemory,
        ),
        ("async () => { for (;;) await null }", WrongKind::TimedOut),
    ] {
        let mut engine = engine();
        let recorder = Rc::new(Recorder::default());
        assert!(
            engine.run(&call(&[function], &json!({})), &recorder),
            "{function}"
        );
        let returned = recorder.returned.take();
        let Some(Outcome::Fault(wrong)) = &returned[0].outcome else {
            panic!("{returned:?}");
        };
        assert_eq!(wrong.kind(), kind, "{function}: {}", wrong.text);
    }
    let mut engine = engine();
    let recorder = Rc::new(Recorder::default());
    let leaves = "() => { Promise.resolve().then(() => {}); return 1 }";
    assert!(
        engine.run(&call(&[leaves], &json!({})), &recorder),
        "a job is left"
    );
}
