// Makes a new context ready for one call: time that stands still, chance that follows a seed, `console`, and what the
// worker needs to hand things in and take the outcome out. A script sees only what is assigned to a global, and what
// outlives the call (`kept`, `ask`) only as copies and behind a function.
(() => {
  "use strict";
  const { defineProperty, keys } = Object;
  const { isArray } = Array;
  const { parse, stringify } = JSON;
  const { construct } = Reflect;
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
        // assigning would call the setter of a key `__proto__`
        const own = { value: copy(inner), writable: true, enumerable: true, configurable: true };
        defineProperty(object, names[i], own);
      }
    }
    return object;
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
      for (let i = 0; i < places.length; i += 1) servers[i] = copy(kept[places[i]]);
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
