// One argument of a wrong type used to end the client for good. Here every argument of every method gets values of every
// other kind: that one call is refused, its message names the argument, and the client goes on.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";

import { PromClient } from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";
import { PATIENCE, goesOn, notFunctions, notNumbers, notOptions, notStrings, refused, within } from "./helpers.mjs";

const store = { seen: async () => false, mark: async () => undefined };
const handler = () => {};
const undefinedToo = (values) => [["undefined", undefined], ...values];
const controller = new AbortController();

/** What is no AbortSignal; the controller in its signal's place is a common slip. */
const notSignals = () => [["null", null], ["a number", 7], ["a text", "signal"], ["an object", {}], ["a controller", controller]];
const notFlags = () => [["null", null], ["a text", "yes"], ["a number", 1], ["an object", {}], ["a symbol", Symbol("s")]];
const notNames = () => [["null", null], ["a text", "k"], ["a number", 7], ["an object", { 0: "k" }], ["a list of a number", [7]], ["a list of null", [null]], ["a list with a hole", ["k", , "l"]], ["a list of undefined", [undefined]], ["a set", new Set(["k"])]];
const notHeaders = () => [["null", null], ["a text", "h"], ["a number", 7], ["a list", ["h"]], ["a number within", { h: 1 }], ["null within", { h: null }], ["an object within", { h: {} }], ["a symbol within", { h: Symbol("s") }], ["a Map", new Map([["h", "v"]])], ["a Headers object", new Headers({ h: "v" })]];
const notFilters = () => [["null", null], ["a text", "k"], ["a number", 7], ["a list", ["k"]], ["a function", () => true], ["an unknown part", { kyes: ["k"] }]];

/** The options of each kind of call: what each refuses. `undefined` counts as absent. */
const publishOptions = {
  id: notStrings,
  key: notStrings,
  sid: notStrings,
  causedBy: () => notNames().filter(([kind]) => kind !== "a text"),
  ts: () => [...notNumbers(), ["NaN", NaN], ["Infinity", Infinity], ["a fraction", 1.5], ["a negative number", -1]],
  timeoutMs: notNumbers,
  headers: notHeaders,
  tags: notNames,
  signal: notSignals,
};
const startOptions = {
  ts: notNumbers,
  afterId: notStrings,
  afterSeq: () => [...notNumbers(), ["NaN", NaN], ["a fraction", 1.5], ["a negative number", -1]],
};
const subscribeOptions = {
  from: () => [...notStrings(), ["another word", "middle"], ["the watch's own", "snapshot"], ["a name of every object", "toString"]],
  ...startOptions,
  maxInFlight: () => [...notNumbers(), ["NaN", NaN], ["a fraction", 1.5]],
  ackTimeoutMs: notNumbers,
  maxAttempts: () => [...notNumbers(), ["NaN", NaN]],
  batchSize: notNumbers,
  ordered: () => [...notStrings(), ["another word", "sid"]],
  ack: () => [...notStrings(), ["another word", "auto"]],
  filter: notFilters,
  autoExtend: notFlags,
  handlerTimeoutMs: notNumbers,
  signal: notSignals,
};
const liveOptions = { from: subscribeOptions.from, ...startOptions, filter: notFilters, signal: notSignals };
const historyOptions = { from: subscribeOptions.from, ...startOptions, limit: () => [...notNumbers(), ["NaN", NaN], ["a fraction", 1.5]], signal: notSignals };

const next = (iterator) => iterator.next();

/** Each method: its arguments by position and name, and how it is called with one of them replaced. */
const methods = {
  publish: {
    call: (c, args) => c.publish(...args),
    args: { topic: "a", payload: 1, options: {} },
    wrong: { topic: () => undefinedToo(notStrings()), options: notOptions },
    options: publishOptions,
  },
  subscribe: {
    call: (c, args) => c.subscribe(...args),
    args: { topic: "a", group: "g", handler, options: {} },
    wrong: { topic: () => undefinedToo(notStrings()), group: () => undefinedToo(notStrings()), handler: notFunctions, options: notOptions },
    options: subscribeOptions,
  },
  subscribeExactlyOnce: {
    call: (c, args) => c.subscribeExactlyOnce(...args),
    args: { topic: "a", group: "g", store, handler, options: {} },
    wrong: {
      topic: () => undefinedToo(notStrings()),
      group: () => undefinedToo(notStrings()),
      store: () => [["undefined", undefined], ["null", null], ["a set", new Set()], ["half of one", { seen: store.seen }], ["no functions", { seen: true, mark: 1 }]],
      handler: notFunctions,
      options: notOptions,
    },
    options: { maxAttempts: subscribeOptions.maxAttempts, handlerTimeoutMs: notNumbers },
  },
  events: {
    call: (c, args) => next(c.events(...args)),
    args: { topic: "a", group: "g", options: {} },
    wrong: { topic: () => undefinedToo(notStrings()), group: () => undefinedToo(notStrings()), options: notOptions },
    options: subscribeOptions,
  },
  watch: {
    call: (c, args) => c.watch(...args),
    args: { topic: "a", options: {} },
    wrong: { topic: () => undefinedToo(notStrings()), options: notOptions },
    options: { filter: notFilters, onChange: () => notFunctions().slice(1), signal: notSignals },
  },
  unsubscribe: {
    call: (c, args) => c.unsubscribe(...args),
    args: { topic: "a", group: "g" },
    wrong: { topic: () => undefinedToo(notStrings()), group: () => undefinedToo(notStrings()) },
  },
  live: {
    call: (c, args) => c.live(...args),
    args: { topic: "a", handler, options: {} },
    wrong: { topic: () => undefinedToo(notStrings()), handler: () => [["a number", 7], ["a text", "h"]], options: notOptions },
    options: liveOptions,
  },
  "live without a handler": {
    call: (c, args) => next(c.live(...args)),
    args: { topic: "a", options: {} },
    // Anything but an object would be a handler.
    wrong: { topic: () => undefinedToo(notStrings()), options: () => notOptions().filter(([, bad]) => typeof bad === "object" && bad !== null) },
    options: liveOptions,
  },
  history: {
    call: (c, args) => next(c.history(...args)),
    args: { topic: "a", options: {} },
    wrong: { topic: () => undefinedToo(notStrings()), options: notOptions },
    options: historyOptions,
  },
  export: {
    call: (c, args) => next(c.export(...args)),
    args: { topic: "a", options: {} },
    wrong: { topic: () => undefinedToo(notStrings()), options: notOptions },
    options: historyOptions,
  },
  publishMany: {
    call: (c, args) => c.publishMany(...args),
    args: { events: [] },
    wrong: {
      events: () => [...undefinedToo(notOptions()).filter(([kind]) => kind !== "a list"), ["a list of null", [null]], ["a list of texts", ["a"]], ["a list with a hole", [{ topic: "a", payload: 1 }, , { topic: "a", payload: 1 }]]],
    },
  },
  flush: { call: (c, args) => c.flush(...args), args: { options: {} }, wrong: { options: notOptions }, options: { timeoutMs: notNumbers, signal: notSignals } },
  close: { call: (c, args) => c.close(...args), args: { options: {} }, wrong: { options: notOptions }, options: { timeoutMs: notNumbers, drain: notFlags } },
};

describe("an argument of a wrong type is refused by name, and nothing else happens", { timeout: 60 * PATIENCE }, () => {
  let hub;
  let c;
  beforeEach(async () => {
    hub = await FakeHub.start();
    c = new PromClient(hub.url, "t");
    await c.connect();
  });
  afterEach(async () => {
    await c?.close();
    await hub.stop();
  });

  const tries = async (what, values, call, message) => {
    // All of them are tried, so that one run says all that is wrong.
    const wrong = [];
    for (const [kind, value] of values) {
      await refused(kind, () => call(value), "bad_frame", message).catch((error) => wrong.push(error.message));
      if (c.state !== "ready") {
        wrong.push(`${kind}: ended the client`);
        break;
      }
    }
    assert.deepEqual(wrong, [], what);
    await goesOn(what, c, hub);
    const others = hub.frames.filter(({ op, topic }) => op !== "AUTH" && topic !== "goes.on" && op !== "PING");
    assert.deepEqual(others, [], `${what}: nothing of it was sent`);
  };

  for (const [name, { call, args, wrong, options = {} }] of Object.entries(methods)) {
    const names = Object.keys(args);
    for (const [argument, values] of Object.entries(wrong)) {
      it(`${name}: ${argument}`, () => {
        const at = names.indexOf(argument);
        const message = new RegExp(["events", "options", "store"].includes(argument) ? `\\b${argument}\\b` : `\\b${argument}\\b.* must be`);
        return tries(`${name} ${argument}`, values(), (value) => call(c, Object.values(args).with(at, value)), message);
      });
    }
    for (const [option, values] of Object.entries(options)) {
      it(`${name}: options.${option}`, () => {
        // Where a position needs its `from`, that is not what is refused here.
        const from = options.from && { ts: "ts", afterId: "afterId", afterSeq: "afterSeq" }[option];
        const message = new RegExp(`options\\.${option}\\b`);
        return tries(`${name} options.${option}`, values(), (value) => call(c, [...Object.values(args).slice(0, -1), { ...(from && { from }), [option]: value }]), message);
      });
    }
  }

  it("filters: every part", () =>
    tries(
      "filter",
      [...notNames().map(([kind, keys]) => [`keys: ${kind}`, { keys }]), ...notNames().map(([kind, tags]) => [`tags: ${kind}`, { tags }]), ...notHeaders().map(([kind, headers]) => [`headers: ${kind}`, { headers }])],
      (filter) => c.subscribe("a", "g", handler, { filter }),
      /options\.filter\.(keys|tags|headers)/,
    ));

  it("publishMany: what stands in its list", async () => {
    for (const [kind, topic] of undefinedToo(notStrings())) await refused(`topic ${kind}`, () => c.publishMany([{ topic, payload: 1 }]), "bad_frame", /topic/);
    for (const [kind, id] of notStrings()) await refused(`id ${kind}`, () => c.publishMany([{ topic: "a", payload: 1, options: { id } }]), "bad_frame", /options\.id/);
    for (const [kind, options] of notOptions()) await refused(`options ${kind}`, () => c.publishMany([{ topic: "a", payload: 1, options }]), "bad_frame", /options/);
    await refused("payload", () => c.publishMany([{ topic: "a", payload: 1n }]), "bad_payload", /payload/);
    await goesOn("publishMany", c, hub);
  });
});

describe("what a delivery is settled with", { timeout: 60 * PATIENCE }, () => {
  let hub;
  let c;
  let delivery;
  beforeEach(async () => {
    hub = await FakeHub.start();
    c = new PromClient(hub.url, "t");
    hub.publish("a", 1, { id: "e" });
    ({ value: delivery } = await within("the delivery", c.events("a", "g", { from: "earliest" }).next()));
  });
  afterEach(async () => {
    await c?.close();
    await hub.stop();
  });

  const stillOpen = async (what) => {
    await goesOn(what, c, hub);
    assert.deepEqual([...hub.of("NACK"), ...hub.of("MODACK"), ...hub.of("ACK")], [], what);
    await within("the ack", delivery.ack());
    assert.equal(hub.of("ACK").length, 1, `${what}: the delivery is still there to be settled`);
  };

  it("nack: options", async () => {
    for (const [kind, value] of notOptions()) await refused(`nack ${kind}`, () => delivery.nack(value), "bad_frame", /options/);
    await stillOpen("nack options");
  });
  it("nack: reason, delayMs and dead", async () => {
    for (const [kind, reason] of notStrings()) await refused(`reason ${kind}`, () => delivery.nack({ reason }), "bad_frame", /options\.reason must be/);
    for (const [kind, delayMs] of notNumbers()) await refused(`delayMs ${kind}`, () => delivery.nack({ delayMs }), "bad_frame", /options\.delayMs must be/);
    for (const [kind, dead] of notFlags()) await refused(`dead ${kind}`, () => delivery.nack({ dead }), "bad_frame", /options\.dead must be/);
    await refused("unknown", () => delivery.nack({ delay: 1 }), "bad_frame", /options\.delay is not an option; did you mean delayMs\?/);
    await stillOpen("nack");
  });
  it("extend: ms", async () => {
    for (const [kind, ms] of [["undefined", undefined], ...notNumbers(), ["NaN", NaN]]) await refused(`extend ${kind}`, () => delivery.ctx.extend(ms), "bad_frame", /\bms must be/);
    await stillOpen("extend");
  });
});

describe("objects of a special kind", { timeout: 60 * PATIENCE }, () => {
  let hub;
  let c;
  beforeEach(async () => {
    hub = await FakeHub.start();
    c = new PromClient(hub.url, "t");
    await c.connect();
  });
  afterEach(async () => {
    await c?.close();
    await hub.stop();
  });

  const boom = () => {
    throw Object.assign(new Error(), { message: ["boom"] });
  };

  it("options whose getters throw are refused", async () => {
    const throwing = (name) => Object.defineProperty({}, name, { get: boom, enumerable: true });
    for (const name of Object.keys(publishOptions)) await refused(name, () => c.publish("a", 1, throwing(name)), "bad_frame", /options/);
    for (const name of Object.keys(subscribeOptions)) await refused(name, () => c.subscribe("a", "g", handler, throwing(name)), "bad_frame", /options/);
    for (const name of ["filter", "onChange"]) await refused(name, () => c.watch("a", throwing(name)), "bad_frame", /options/);
    for (const name of ["drain", "timeoutMs"]) await refused(name, () => c.close(throwing(name)), "bad_frame", /options/);
    for (const part of ["keys", "tags", "headers"]) await refused(part, () => c.subscribe("a", "g", handler, { filter: throwing(part) }), "bad_frame", /filter/);
    await refused("headers within", () => c.publish("a", 1, { headers: throwing("h") }), "bad_frame", /headers/);
    await goesOn("throwing getters", c, hub);
  });

  it("options that change while they are read do no harm", async () => {
    for (const name of Object.keys(publishOptions)) {
      for (const [first, second] of [["x", 7], [7, "x"], [undefined, Symbol("s")], ["x", {}]]) {
        let reads = 0;
        const options = Object.defineProperty({}, name, { get: () => (reads++ === 0 ? first : second), enumerable: true });
        await within(name, Promise.resolve(c.publish("a", 1, options)).catch((error) => assert.equal(error.code, "bad_frame", name)));
        assert.equal(c.state, "ready", name);
      }
    }
    await goesOn("changing options", c, hub);
  });

  it("options may be frozen, without a prototype, or a proxy", async () => {
    const made = { id: "one", key: "k", headers: Object.freeze({ h: "v" }), tags: Object.freeze(["t"]) };
    const bare = Object.assign(Object.create(null), { ...made, id: "two", headers: Object.assign(Object.create(null), { h: "v" }) });
    for (const options of [Object.freeze(made), bare, new Proxy({ ...made, id: "three" }, {})]) {
      await c.publish("a", Object.freeze({ n: 1 }), options);
      const { key, headers, tags } = hub.of("PUBLISH").at(-1).opts;
      assert.deepEqual({ key, headers, tags }, { key: "k", headers: { h: "v" }, tags: ["t"] });
    }
    assert.deepEqual(hub.of("PUBLISH").map(({ opts }) => opts.id), ["one", "two", "three"]);
  });

  it("options are those of the call, whatever happens to the object afterwards", async () => {
    const options = { id: "first", headers: { h: "1" }, tags: ["1"] };
    const fresh = new PromClient(hub.url, "t");
    const published = fresh.publish("a", 1, options);
    options.id = "second";
    options.headers.h = "2";
    options.tags.push("2");
    await published;
    const { id, headers, tags } = hub.of("PUBLISH")[0].opts;
    assert.deepEqual({ id, headers, tags }, { id: "first", headers: { h: "1" }, tags: ["1"] });
    await fresh.close();
  });

  it("undefined option values count as absent", async () => {
    const absent = (options) => Object.fromEntries(Object.keys(options).map((name) => [name, undefined]));
    await c.publish("a", 1, absent(publishOptions));
    await c.publish("a", 1, undefined);
    await c.subscribe("a", "g", handler, absent(subscribeOptions));
    await c.subscribe("a", "h", handler, undefined);
    await (await c.watch("a", absent({ filter: 1, onChange: 1, signal: 1 }))).close();
    await c.subscribe("a", "i", handler, { filter: { keys: undefined, tags: undefined, headers: undefined } });
    await c.close(absent({ drain: 1, timeoutMs: 1 }));
    assert.equal(c.state, "closed");
  });

  it("symbols as names of options are ignored", async () => {
    await c.publish("a", 1, { [Symbol("own")]: 1, key: "k" });
    assert.equal(hub.of("PUBLISH")[0].opts.key, "k");
  });
});
