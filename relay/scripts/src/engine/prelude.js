// Makes a new context ready for one call: time that stands still, chance that follows a seed, `console`, and what the
// worker needs to hand things in and take the outcome out. A script sees only what is assigned to a global, and what
// outlives the call (`kept`, `ask`) only as copies and behind a function.
(() => {
  "use strict";
  const { create, defineProperty, getPrototypeOf, hasOwn, keys, setPrototypeOf } = Object;
  const { isArray } = Array;
  const { parse, stringify } = JSON;
  const { construct, defineProperty: define, deleteProperty, get, getOwnPropertyDescriptor } = Reflect;
  const { has, ownKeys, preventExtensions, set } = Reflect;
  const CallProxy = Proxy;
  const { imul } = Math;

  // What would show time, garbage collection or other threads.
  for (const name of ["performance", "WeakRef", "FinalizationRegistry", "Atomics", "SharedArrayBuffer"]) {
    delete globalThis[name];
  }
  const global = (name, value) => defineProperty(globalThis, name, { value, writable: true, configurable: true });

  let now = 0;
  const SystemDate = Date;
  function CallDate(...given) {
    if (new.target === undefined) return new SystemDate(now).toString();
    return construct(SystemDate, given.length === 0 ? [now] : given, new.target);
  }
  for (const name of ["parse", "UTC"]) {
    defineProperty(CallDate, name, { value: SystemDate[name], writable: true, configurable: true });
  }
  defineProperty(CallDate, "now", { value: () => now, writable: true, configurable: true });
  defineProperty(CallDate, "name", { value: "Date" });
  defineProperty(CallDate, "length", { value: 7 });
  defineProperty(CallDate, "prototype", { value: SystemDate.prototype, writable: false });
  defineProperty(SystemDate.prototype, "constructor", { value: CallDate });
  global("Date", CallDate);

  // Marsaglia's xorshift with 128 bits of state, so that a recorded seed means the same in every release.
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  const word = () => {
    const t = a ^ (a << 11);
    a = b;
    b = c;
    c = d;
    d = d ^ (d >>> 19) ^ t ^ (t >>> 8);
    return d >>> 0;
  };
  const plant = (high, low) => {
    a = high;
    b = low;
    c = imul(high, 0x9e3779b1) ^ low;
    d = imul(low, 0x85ebca6b) ^ 0x6a09e667;
    for (let i = 0; i < 32; i += 1) word();
  };
  const random = () => ((word() >>> 5) * 67108864 + (word() >>> 6)) / 9007199254740992;
  defineProperty(Math, "random", { value: random, writable: true, configurable: true });

  const LINES = 100;
  const LENGTH = 500;
  let lines = 0;
  let log = "";
  const shown = (value) => {
    if (typeof value === "string") return value;
    try {
      return stringify(value) ?? `${value}`;
    } catch {
      return "(cannot be shown)";
    }
  };
  const note = (...values) => {
    if (lines >= LINES) return;
    let line = "";
    for (let i = 0; i < values.length; i += 1) line += (i === 0 ? "" : " ") + shown(values[i]);
    lines += 1;
    log += `${stringify(line.length > LENGTH ? `${line.substring(0, LENGTH)}…` : line)}\n`;
  };
  global("console", { log: note, info: note, warn: note, error: note, debug: note, trace: note });

  const copy = (value) => {
    if (typeof value !== "object" || value === null) return value;
    if (isArray(value)) {
      const list = [];
      for (let i = 0; i < value.length; i += 1) list[i] = copy(value[i]);
      return list;
    }
    const object = { ...value };
    const names = keys(object);
    for (let i = 0; i < names.length; i += 1) {
      const inner = object[names[i]];
      if (typeof inner === "object" && inner !== null) {
        if (names[i] === "__proto__") own(object, names[i], copy(inner));
        else object[names[i]] = copy(inner);
      }
    }
    return object;
  };

  // Assigning would call the setter of a key `__proto__`, and those that a script puts on prototypes.
  const own = (object, name, value) =>
    defineProperty(object, name, { __proto__: null, value, writable: true, enumerable: true, configurable: true });

  // A copy that is made of what is looked at, since most functions read a few fields of each server. The target has what was
  // copied so far, and what is neither read nor asked for by name is copied whole first; then no trap is left. What is given
  // out of `kept` is never an object of its own.
  const whole = (handler, target) => {
    const { kept } = handler;
    if (kept === null) return;
    handler.kept = null;
    setPrototypeOf(handler, null);
    const copied = { __proto__: null };
    const before = keys(target);
    for (let i = 0; i < before.length; i += 1) {
      copied[before[i]] = target[before[i]];
      deleteProperty(target, before[i]);
    }
    // without a prototype there are no setters
    const prototype = getPrototypeOf(target);
    setPrototypeOf(target, null);
    const names = keys(kept);
    for (let i = 0; i < names.length; i += 1) {
      const name = names[i];
      const value = kept[name];
      if (typeof value !== "object" || value === null) target[name] = value;
      else target[name] = copied[name] ?? copy(value);
    }
    setPrototypeOf(target, prototype);
  };
  const lazily = {
    __proto__: null,
    get(target, name, receiver) {
      const { kept } = this;
      if (kept === null || hasOwn(target, name) || !hasOwn(kept, name)) return get(target, name, receiver);
      const value = kept[name];
      if (typeof value !== "object" || value === null) return value;
      const inner = copy(value);
      own(target, name, inner);
      return inner;
    },
    has(target, name) {
      return (this.kept !== null && hasOwn(this.kept, name)) || has(target, name);
    },
  };
  const wholly = { set, getOwnPropertyDescriptor, ownKeys, deleteProperty, preventExtensions, defineProperty: define };
  for (const name of keys(wholly)) {
    const act = wholly[name];
    lazily[name] = function (target, ...rest) {
      whole(this, target);
      return act(target, ...rest);
    };
  }
  const lazy = (kept) => {
    const handler = create(lazily);
    handler.kept = kept;
    return new CallProxy({}, handler);
  };

  let input;
  return {
    begin(json, at, high, low) {
      input = parse(json);
      now = at;
      plant(high, low);
    },
    servers(kept, places) {
      const servers = [];
      for (let i = 0; i < places.length; i += 1) servers[i] = lazy(kept[places[i]]);
      input.servers = servers;
    },
    // `ask(kind, words)` answers with JSON: {"is": …} or {"wrong": "…"}.
    open(ask) {
      const wish = (kind, words) => {
        const { is, wrong } = parse(ask(kind, words));
        if (wrong !== undefined) throw new Error(wrong);
        return is;
      };
      global("run", (argv) => {
        if (!isArray(argv) || argv.length === 0) throw new TypeError("run takes a list: [program, argument, …]");
        const words = [];
        for (let i = 0; i < argv.length; i += 1) words[i] = `${argv[i]}`;
        return wish("run", words);
      });
      global("processes", () => wish("processes", []));
    },
    input: () => input,
    narrow(servers) {
      input.servers = servers;
    },
    // The serverIds of a returned list, or the place of something that has none.
    ids(servers) {
      const ids = [];
      for (let i = 0; i < servers.length; i += 1) {
        const id = servers[i]?.serverId;
        if (typeof id !== "string") return i;
        ids[i] = id;
      }
      return ids;
    },
    // What was noted since the last time, a JSON string a line.
    log() {
      const noted = log;
      log = "";
      lines = 0;
      return noted;
    },
  };
})()
