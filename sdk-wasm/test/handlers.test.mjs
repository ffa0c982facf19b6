// Whatever a handler throws gives its event back, once and with a reason in words; nothing of it ends anything else.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";

import { PromClient } from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";
import { PATIENCE, fast, goesOn, hostile, runChild, turn, within } from "./helpers.mjs";
import { recorder } from "./suite.mjs";

const boom = () => {
  throw 1;
};
const message = (value) => Object.assign(new Error(), { message: value });

/** What a handler may throw, each with its name. */
const thrown = () => {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return {
    "an Error": new Error("boom"),
    "a message that is a list": message(["name must be a string"]),
    "a message that is an object": message({}),
    "a message that is a number": message(42),
    "a message that is a BigInt": message(7n),
    "a message that is a symbol": message(Symbol("s")),
    "a message that is null": message(null),
    "a message that cannot be a string": message(Object.create(null)),
    "a message getter that throws": Object.defineProperty(new Error(), "message", { get: boom }),
    "a name that is a number, and no message": Object.assign(new Error(), { name: 7 }),
    "an Error with neither": Object.assign(new Error(), { name: "" }),
    "a message of half a character": new Error("half \ud83d"),
    "a message of two megabytes": new Error("x".repeat(2 * 1024 * 1024)),
    "a message of control characters": new Error("\u0000\u001b\n\"\\"),
    undefined,
    null: null,
    "an empty string": "",
    "a number": 7,
    "a BigInt": 7n,
    "a symbol": Symbol("s"),
    "a function": boom,
    "an object": {},
    "an object without a prototype": Object.create(null),
    "an object whose toString throws": { toString: boom },
    "an object whose toString gives an object": { toString: () => ({}), valueOf: () => ({}) },
    "an object whose toPrimitive throws": { [Symbol.toPrimitive]: boom },
    "a list that cannot be joined": [Object.create(null)],
    "a revoked proxy": proxy,
    "a hostile proxy": hostile({}),
    "a hostile Error": hostile(new Error("x")),
  };
};

describe("a handler", { timeout: 40 * PATIENCE }, () => {
  let hub;
  let c;
  const others = [];
  beforeEach(async () => {
    hub = await FakeHub.start();
    c = new PromClient(hub.url, "t", fast);
    await c.connect();
  });
  afterEach(async () => {
    await Promise.all([c, ...others.splice(0)].map((client) => client?.close()));
    await hub.stop();
  });

  const acked = (id) => hub.until(() => hub.of("ACK").some((frame) => frame.id === id));
  const nacks = (id) => hub.of("NACK").filter((frame) => frame.id === id);

  /** Every value of `thrown` at the first attempt, by `fail`; the second succeeds. */
  const givesBack = async (fail) => {
    const values = thrown();
    const kinds = Object.keys(values);
    await c.subscribe("a", "g", (event, { attempt }) => (attempt === 1 ? fail(values[kinds[event.payload]]) : undefined));
    for (const [n, kind] of kinds.entries()) {
      hub.publish("a", n, { id: `e${n}` });
      await acked(`e${n}`);
      assert.equal(nacks(`e${n}`).length, 1, kind);
      const { reason } = nacks(`e${n}`)[0];
      assert.equal(typeof reason, "string", kind);
      assert.notEqual(reason, "", kind);
      assert.ok(Buffer.byteLength(reason) <= 1024 * 1024 - 1024, kind);
    }
    assert.equal(nacks("e0")[0].reason, "boom");
    // Whatever rejected beside it would have failed this test by now.
    await turn();
    await goesOn("what handlers throw", c, hub);
  };

  it("that fails is told to the listeners of errors, with what it threw", async () => {
    const errors = recorder();
    c.on("error", errors);
    const cause = new TypeError("mine");
    const fails = [() => { throw cause; }, () => Promise.reject(cause), () => new Promise(() => {})];
    for (const [n, fail] of fails.entries()) await c.subscribe(`t${n}`, "g", ({ id }) => (id === `e${n}` && hub.of("NACK").length <= n ? fail() : undefined), { handlerTimeoutMs: 50 });
    const store = { seen: async () => false, mark: async () => undefined };
    await c.subscribeExactlyOnce("t3", "g", store, (_, { attempt }) => { if (attempt === 1) throw cause; });
    for (const n of [0, 1, 2, 3]) {
      hub.publish(`t${n}`, 1, { id: `e${n}` });
      await acked(`e${n}`);
    }
    await errors.until(4);
    assert.deepEqual(errors.calls.map(([error]) => [error.code, error.retryable, error.message, error.cause]), [
      ...["mine", "mine", "the handler took longer than 50 ms", "mine"].map((reason, n) =>
        ["handler_failed", false, `the handler of t${n} failed, event e${n} goes back: ${reason}`, n === 2 ? undefined : cause])]);
  });

  it("may throw anything", () =>
    givesBack((value) => {
      throw value;
    }));
  it("may reject with anything", () => givesBack((value) => Promise.reject(value)));
  it("may reject with anything later", () => givesBack(async (value) => {
    await turn();
    throw value;
  }));
  it("may give a thenable that rejects with anything", () => givesBack((value) => ({ then: (_, reject) => reject(value) })));
  it("may give a thenable that throws anything", () => givesBack((value) => ({ then() { throw value; } })));
  it("may give a thenable whose then cannot be read", () => givesBack((value) => Object.defineProperty({}, "then", { get() { throw value; } })));
  it("may give a thenable that rejects and then resolves", () => givesBack((value) => ({ then: (resolve, reject) => (reject(value), resolve()) })));

  it("is done when a thenable resolved first, whatever it does then", async () => {
    const ends = [(resolve, reject) => (resolve(), reject(new Error("late"))), (resolve) => (resolve(), boom()), (resolve) => (resolve(), resolve())];
    await c.subscribe("a", "g", (event) => ({ then: ends[event.payload] }));
    for (const n of ends.keys()) {
      hub.publish("a", n, { id: `e${n}` });
      await acked(`e${n}`);
    }
    await turn();
    assert.deepEqual([hub.of("NACK").length, hub.of("ACK").length], [0, ends.length]);
  });

  it("of exactly once may have a store that throws and gives anything", async () => {
    for (const [n, odd] of [boom, () => Promise.reject(Object.create(null)), () => ({ then: boom }), () => { throw message(["m"]); }].entries()) {
      let asked = 0;
      const store = { seen: (id) => (asked++ === 0 ? odd() : Promise.resolve(false)), mark: async () => undefined };
      await c.subscribeExactlyOnce(`t${n}`, "g", store, () => {});
      hub.publish(`t${n}`, 1, { id: `s${n}` });
      await acked(`s${n}`);
    }
    await goesOn("odd stores", c, hub);
  });

  for (const kind of ["topic", "id", "timeout", "group", "position", "throw"]) {
    it(`sixty times in one process: ${kind}`, async () => {
      assert.deepEqual(await runChild("many.mjs", kind), { exit: 0, signal: null, output: "" });
    });
  }

  it("that is taken away, away again and back in one turn is there (React StrictMode)", async () => {
    for (const [n, rounds] of [1, 2, 5].entries()) {
      const topic = `s${n}`;
      const got = recorder();
      const calls = [c.subscribe(topic, "g", (event) => got(event.payload))];
      for (let round = 0; round < rounds; round++) calls.push(c.unsubscribe(topic, "g"), c.subscribe(topic, "g", (event) => got(event.payload)));
      // What was taken away at once may say so; the last call counts.
      const settled = await within("all calls", Promise.allSettled(calls));
      assert.equal(settled.at(-1).status, "fulfilled", String(settled.at(-1).reason));
      for (const { reason } of settled) assert.notEqual(reason?.code, "already_subscribed");
      await c.publish(topic, n);
      assert.deepEqual(await got.until(1), [[n]]);
    }
    await goesOn("StrictMode", c, hub);
  });

  it("unsubscribed by itself is acknowledged all the same", async () => {
    for (const [n, leave] of [(topic) => c.unsubscribe(topic, "g"), (topic) => void c.unsubscribe(topic, "g"), async (topic) => { await c.unsubscribe(topic, "g"); await turn(); }].entries()) {
      const topic = `u${n}`;
      await c.subscribe(topic, "g", () => leave(topic));
      hub.publish(topic, 1, { id: `u${n}` });
      await acked(`u${n}`);
      await hub.until(() => hub.of("UNSUBSCRIBE").some((frame) => frame.topic === topic));
      const next = new PromClient(hub.url, "t");
      others.push(next);
      const got = recorder();
      await next.subscribe(topic, "g", (event, { attempt }) => got(event.payload, attempt));
      hub.publish(topic, 2);
      assert.deepEqual(await got.until(1), [[2, 1]], "the first does not come again");
    }
  });

  it("that takes too long gives its event back and is told", async () => {
    const aborted = recorder();
    await c.subscribe("a", "g", (_, { attempt, signal }) => {
      if (attempt > 1) return undefined;
      signal.addEventListener("abort", () => aborted(signal.aborted));
      return new Promise(() => {});
    }, { handlerTimeoutMs: 20 });
    hub.publish("a", 1, { id: "e" });
    await acked("e");
    await aborted.until(1);
    assert.deepEqual(nacks("e").map(({ reason }) => reason), ["the handler took longer than 20 ms"]);
  });

  it("is told when its lease is lost and when the client closes", async () => {
    const signals = recorder();
    await c.subscribe("a", "g", (event, { signal }) => {
      signals(signal);
      return new Promise((resolve) => signal.addEventListener("abort", resolve));
    });
    hub.publish("a", 1, { id: "e" });
    const [[first]] = await signals.until(1);
    assert.equal(first.aborted, false);
    hub.cut();
    await within("the abort", first.aborted || new Promise((resolve) => first.addEventListener("abort", resolve)));
    const [, [second]] = await signals.until(2);
    await c.close();
    assert.equal(second.aborted, true);
  });
});
