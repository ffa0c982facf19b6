// Beginning and end: calls in one turn, draining, limits of time, dead paths, and what is told where nobody listens.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";

import { HubError, PromClient } from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";
import { PATIENCE, code, fast, goesOn, turn, within } from "./helpers.mjs";
import { Proxy as Path } from "./proxy.mjs";
import { recorder } from "./suite.mjs";

describe("a client", { timeout: 3 * PATIENCE }, () => {
  let hub;
  let c;
  const others = [];
  const client = (options, url = hub.url) => {
    const made = new PromClient(url, "t", options);
    others.push(made);
    return made;
  };
  beforeEach(async () => {
    hub = await FakeHub.start();
    c = new PromClient(hub.url, "t", fast);
  });
  afterEach(async () => {
    await Promise.all([c, ...others.splice(0)].map((one) => one?.close()));
    await hub.stop();
  });

  it("drains: handlers that run publish, and what was called just before is there", async () => {
    let finish;
    const started = recorder();
    await c.subscribe("in", "g", async (event) => {
      started();
      await new Promise((resolve) => (finish = resolve));
      await c.publish("out", event.payload);
    });
    await c.publish("in", 7);
    await started.until(1);
    const before = c.publish("out", "before");
    const closing = c.close({ drain: true });
    await before;
    finish();
    await within("the drain", closing);
    assert.deepEqual(hub.of("PUBLISH").filter(({ topic }) => topic === "out").map(({ payload }) => payload), ["before", 7]);
    assert.deepEqual([hub.of("ACK").length, hub.of("NACK").length], [1, 0]);
    assert.equal(c.state, "closed");
    await assert.rejects(c.publish("out", "after"), code("closed"));
  });

  it("drains what was called before its module was there", async () => {
    const published = c.publish("a", 1);
    await within("the drain", c.close({ drain: true }));
    assert.equal((await published).seq, 1);
  });

  it("drains with any limit: one that no timer takes is a long one", async () => {
    for (const timeoutMs of [2 ** 31, 30 * 86_400_000, Number.MAX_VALUE, Infinity]) {
      const one = client();
      let finish;
      const got = recorder();
      await one.subscribe("a", `g${timeoutMs}`, async () => {
        got();
        await new Promise((resolve) => (finish = resolve));
      });
      await one.publish("a", 1);
      await got.until(1);
      const acks = hub.of("ACK").length;
      const closing = one.close({ drain: true, timeoutMs });
      await hub.until(() => hub.of("PAUSE").length > 0);
      await turn();
      assert.notEqual(one.state, "closed", String(timeoutMs));
      finish();
      await within("the drain", closing);
      assert.equal(hub.of("ACK").length, acks + 1);
      hub.frames.length = 0;
    }
    for (const timeoutMs of [0, -1, -Infinity]) {
      const one = client();
      await one.subscribe("b", `g${timeoutMs}`, () => new Promise(() => {}));
      await one.publish("b", 1);
      await within(`a drain of ${timeoutMs} ms`, one.close({ drain: true, timeoutMs }));
    }
  });

  it("takes any limit of time elsewhere too", async () => {
    await c.connect();
    for (const timeoutMs of [2 ** 31, Infinity]) assert.ok((await c.publish("a", 1, { timeoutMs })).seq > 0);
    for (const timeoutMs of [0, -5, -Infinity]) {
      hub.intercept = ({ op }) => op === "PUBLISH";
      await assert.rejects(within("the limit", c.publish("a", 1, { timeoutMs })), code("timeout"));
      hub.intercept = () => false;
    }
    const patient = client({ timeoutMs: Infinity, reconnectMinMs: 1, reconnectMaxMs: Infinity });
    await patient.connect();
    await goesOn("limits", c, { logins: 1 });
  });

  it("may subscribe, unsubscribe and subscribe in one turn, as React's strict mode does", async () => {
    for (let n = 0; n < 4; n++) {
      const topic = `a${n}`;
      const got = recorder();
      const first = c.subscribe(topic, "g", () => got("first")).catch((error) => error.code);
      const left = c.unsubscribe(topic, "g");
      const second = c.subscribe(topic, "g", (event) => got(event.payload));
      await within("all", Promise.all([first, left, second]));
      await c.publish(topic, n);
      await got.until(1);
      assert.deepEqual(got.calls, [[n]]);
    }
    const [a, b] = [await c.watch("w"), await c.watch("w")];
    const closing = a.close();
    const again = await c.watch("w");
    await closing;
    hub.publish("w", 1, { key: "k" });
    await goesOn("turns", c, hub);
    assert.deepEqual([a.size, b.size, again.size], [0, 1, 1]);
  });

  it("finds a dead path while a publish waits, and sends it again with its id", async () => {
    const path = await Path.start(hub.port);
    const one = client({ ...fast }, path.url);
    await one.connect();
    path.blackhole();
    const states = recorder();
    one.on("state", ({ state }) => states(state));
    const published = one.publish("a", 1);
    await states.until((calls) => calls.some(([state]) => state === "ready"));
    assert.equal((await within("the publish", published)).seq, 1);
    assert.deepEqual([...new Set(hub.of("PUBLISH").map(({ opts }) => opts.id))].length, 1);
    await path.stop();
  });

  it("gives errors whose stack holds the caller's line", async () => {
    await c.connect();
    hub.intercept = (frame, { send }) => {
      if (frame.op !== "PUBLISH" && frame.op !== "SUBSCRIBE") return false;
      send({ op: "ERR", code: "forbidden", msg: "m", corr: frame.corr });
      return true;
    };
    for (const call of [async () => { await c.publish("a", 1); }, async () => { await c.subscribe("a", "g", () => {}); }, async () => { await c.publish("a", 1n); }, async () => { await c.publish(7, 1); }]) {
      const error = await call().catch((thrown) => thrown);
      assert.ok(error instanceof HubError);
      assert.match(error.stack, /lifecycle\.test\.mjs/, call.toString());
    }
  });

  it("tells an error that nobody listens to once, on the console", async (t) => {
    const told = t.mock.method(console, "error", () => {});
    let connection;
    hub.intercept = (_, client) => void (connection = client);
    await c.connect();
    await c.publish("a", 1);
    for (let n = 0; n < 3; n++) connection.send({ op: "ERR", code: "store_unavailable", msg: `m${n}` });
    await c.publish("a", 2);
    assert.equal(told.mock.callCount(), 1);
    assert.ok(told.mock.calls[0].arguments.some((argument) => argument instanceof HubError && argument.message === "m0"));
  });

  it("settles everything when its module fails, and the next client works", async (t) => {
    t.mock.method(console, "error", () => {});
    const { WebSocket } = await import("ws");
    let socket;
    class Odd extends WebSocket {
      constructor(...args) {
        super(...args);
        socket = this;
      }
      addEventListener(name, listener, options) {
        // What the engine would report as an uncaught error.
        super.addEventListener(name, (event) => { try { listener(event); } catch { /* the module is gone */ } }, options);
        if (name === "message") this.deliver = listener;
      }
    }
    const one = client({ WebSocket: Odd });
    await one.connect();
    hub.intercept = ({ op }) => op === "PUBLISH" || op === "SUBSCRIBE";
    const open = [one.publish("a", 1), one.subscribe("a", "g", () => {}), one.events("a", "h").next(), one.watch("a")];
    await hub.until(() => hub.of("SUBSCRIBE").length === 3);
    // No WebSocket gives such data: the library underneath takes it for impossible.
    assert.throws(() => socket.deliver({ data: { no: "data" } }));
    for (const result of await within("the calls", Promise.allSettled(open))) assert.equal(result.reason?.code, "internal");
    assert.equal(one.state, "closed");
    assert.equal((await one.closed).code, "internal");
    await assert.rejects(one.publish("a", 1), code("internal"));
    socket.terminate();
    hub.intercept = () => false;
    const next = client();
    assert.ok((await within("the next client", next.publish("b", 1))).seq > 0);
  });
});
