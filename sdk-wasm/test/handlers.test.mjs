// Whatever a handler is, throws or returns, its event alone is settled accordingly, once, and the client goes on.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";

import { PromClient } from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";
import { PATIENCE, code, fast, goesOn, hostile, runChild, turn, within } from "./helpers.mjs";
import { recorder } from "./suite.mjs";

const boom = () => {
  throw new Error("boom");
};
const errorWith = (message) => Object.assign(new Error(), { message });

/** What can be thrown, and what the reason of the NACK says of it, where it can say anything. */
const thrown = [
  ["a message that is a list", errorWith(["name must be a string", "age is missing"]), /name must be a string/],
  ["a message that is an object", errorWith({}), /./],
  ["a message that is a number", errorWith(42), /42/],
  ["a message that is null", errorWith(null), /./],
  ["a message that is a symbol", errorWith(Symbol("s")), /./],
  ["a message that cannot be a string", errorWith(Object.create(null)), /./],
  ["a message getter that throws", Object.defineProperty(new Error(), "message", { get: boom }), /./],
  ["a name that is a number", Object.assign(new Error(), { name: 7, message: "" }), /7/],
  ["a name getter that throws", Object.defineProperty(errorWith(""), "name", { get: boom }), /./],
  ["nothing at all", undefined, /undefined/],
  ["null", null, /null/],
  ["a text", "plain", /^plain$/],
  ["an empty text", "", /^$/],
  ["a number", 7, /7/],
  ["a symbol", Symbol("s"), /s/],
  ["a BigInt", 7n, /7/],
  ["an object without a prototype", Object.create(null), /./],
  ["an object whose toString throws", { toString: boom }, /./],
  ["an object whose toString gives an object", { toString: () => ({}), valueOf: () => ({}) }, /./],
  ["a hostile proxy", hostile({}), /./],
  ["a function", () => 1, /./],
  ["a text longer than a reason", "ü".repeat(5_000), /^ü+$/],
  ["half a character", new Error("not \ud83d whole"), /^not . whole$/],
];

describe("what a handler throws", { timeout: 2 * PATIENCE }, () => {
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

  for (const [how, handler] of [
    ["at once", (value) => () => { throw value; }],
    ["later", (value) => async () => { await turn(); throw value; }],
    ["by a thenable", (value) => () => ({ then: (_, reject) => reject(value) })],
    ["by a getter of then", (value) => () => ({ get then() { throw value; } })],
    ["through exactly once", (value) => Object.assign(() => { throw value; }, { once: true })],
  ]) {
    it(`${how} is the reason of one NACK, whatever it is`, async () => {
      const unhandled = recorder();
      process.on("unhandledRejection", unhandled);
      const store = { seen: async () => false, mark: async () => undefined };
      for (const [n, [what, value, reason]] of thrown.entries()) {
        const made = handler(value);
        const options = { from: "earliest" };
        // One delivery each: the fake hub gives an event back at once.
        hub.intercept = (frame) => frame.op === "NACK";
        await (made.once ? c.subscribeExactlyOnce(`t${n}`, "g", store, made, options) : c.subscribe(`t${n}`, "g", made, options));
        hub.publish(`t${n}`, 1, { id: `e${n}` });
        await hub.until(() => hub.of("NACK").length === n + 1);
        const nack = hub.of("NACK")[n];
        assert.equal(nack.id, `e${n}`, what);
        assert.equal(typeof nack.reason, "string", what);
        assert.match(nack.reason, reason, what);
        assert.ok(Buffer.byteLength(nack.reason) <= 1024, what);
      }
      await goesOn(how, c, hub);
      assert.equal(hub.of("ACK").length, 0);
      assert.deepEqual(unhandled.calls, []);
      process.off("unhandledRejection", unhandled);
    });
  }

  it("and what it returns, whatever that is, acknowledges once", async () => {
    const twice = { then: (resolve, reject) => { resolve(1); reject(new Error("too late")); resolve(2); } };
    const values = [undefined, null, 0, "", {}, [], Symbol("s"), 1n, new Proxy({}, {}), () => 1, Promise.resolve(Symbol("s")), twice, { then: 7 }, Object.create(null)];
    for (const [n, value] of values.entries()) {
      await c.subscribe(`t${n}`, "g", () => value, { from: "earliest" });
      hub.publish(`t${n}`, 1);
      await hub.until(() => hub.of("ACK").length === n + 1);
    }
    await goesOn("answers", c, hub);
    assert.deepEqual([hub.of("ACK").length, hub.of("NACK").length], [values.length, 0]);
  });

  it("of a live handler or a listener is an error event, and no more", async () => {
    const errors = recorder();
    c.on("error", (error) => errors(error.code));
    c.on("state", boom);
    c.on("error", boom);
    await c.live("a", boom);
    await c.live("a", async () => boom());
    await c.watch("a", { onChange: boom });
    hub.publish("a", 1, { key: "k" });
    await errors.until(4);
    assert.ok(errors.calls.every(([name]) => name === "listener_failed"), String(errors.calls));
    await goesOn("listeners", c, hub);
  });
});

describe("a handler", { timeout: 2 * PATIENCE }, () => {
  let hub;
  let c;
  beforeEach(async () => {
    hub = await FakeHub.start();
    c = new PromClient(hub.url, "t", fast);
    await c.connect();
  });
  afterEach(async () => {
    await c?.close();
    await hub.stop();
  });

  /** Something that is finished by hand. */
  const gate = () => {
    let open;
    const opened = new Promise((resolve) => (open = resolve));
    return { open, opened };
  };

  it("that unsubscribes is acknowledged all the same, and the group is left after it", async () => {
    await c.subscribe("a", "g", async () => {
      await c.unsubscribe("a", "g");
    });
    hub.publish("a", 1);
    await hub.until(() => hub.of("UNSUBSCRIBE").length === 1);
    assert.equal(hub.of("ACK").length, 1);
    const ops = hub.frames.map(({ op }) => op);
    assert.ok(ops.indexOf("ACK") < ops.indexOf("UNSUBSCRIBE"), ops.join(" "));
    await assert.rejects(c.unsubscribe("a", "g"), code("not_subscribed"));
  });

  it("that runs when its group is left finishes, and a new member of the name waits for it", async () => {
    const { open, opened } = gate();
    const got = recorder();
    await c.subscribe("a", "g", async (event) => {
      got("first", event.payload);
      await opened;
    });
    hub.publish("a", 1);
    await got.until(1);
    await c.unsubscribe("a", "g");
    const again = c.subscribe("a", "g", (event) => got("second", event.payload));
    hub.publish("a", 2);
    await turn();
    assert.equal(hub.of("SUBSCRIBE").length, 1);
    open();
    await within("the new member", again);
    await got.until(2);
    assert.deepEqual(got.calls, [["first", 1], ["second", 2]]);
    assert.equal(hub.of("NACK").length, 0);
  });

  it("is not called beside itself when its event comes again: its end settles the new lease", async () => {
    const { open, opened } = gate();
    const got = recorder();
    await c.subscribe("a", "g", async (event, ctx) => {
      got(event.id, ctx.attempt);
      if (event.id === "e") await opened;
    });
    hub.publish("a", 1, { id: "e" });
    await got.until(1);
    hub.cut();
    await hub.until(() => hub.logins === 2 && hub.of("SUBSCRIBE").length === 2);
    // One behind it, so that its second delivery is known to have come.
    hub.publish("a", 2, { id: "f" });
    await got.until(2);
    open();
    await hub.until(() => hub.of("ACK").length === 2);
    assert.deepEqual(got.calls, [["e", 1], ["f", 1]]);
    const ack = hub.of("ACK").find(({ id }) => id === "e");
    assert.equal(ack.lease, "0000000000000002", "the lease of the second delivery");
  });

  it("has its time, if a limit is given: then its event is given back and its signal aborts", async () => {
    const aborted = recorder();
    await c.subscribe("a", "g", (event, ctx) => {
      if (ctx.attempt === 1) return new Promise(() => ctx.signal.addEventListener("abort", () => aborted(ctx.attempt)));
    }, { handlerTimeoutMs: 20 });
    hub.publish("a", 1);
    await hub.until(() => hub.of("ACK").length === 1);
    await aborted.until(1);
    assert.deepEqual(hub.of("NACK").map(({ reason }) => reason), ["the handler took longer than 20 ms"]);
    await goesOn("a limit", c, hub);
  });

  it("is told by its signal that its lease is lost, and only then", async () => {
    const { open, opened } = gate();
    const seen = recorder();
    await c.subscribe("a", "g", async (event, ctx) => {
      if (ctx.attempt > 1) return;
      const before = ctx.signal.aborted;
      ctx.signal.addEventListener("abort", () => seen(before, ctx.signal.aborted));
      await opened;
    });
    hub.publish("a", 1);
    await hub.until(() => hub.of("SUBSCRIBE").length === 1);
    await turn();
    hub.cut();
    assert.deepEqual(await seen.until(1), [[false, true]]);
    open();
    await assert.doesNotReject(within("the next", hub.until(() => hub.of("ACK").length === 1)));
  });

  it("can be thrown out of many times in one process, and Node goes on", async () => {
    const { exit, signal, output } = await runChild("hostile.mjs", hub.url);
    assert.deepEqual([exit, signal], [0, null], output);
    assert.match(output, /done 480/);
  });
});
