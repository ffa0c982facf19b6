// A drain loses nothing that was begun; timers of any length are kept; errors are told where they can be found.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";

import { PromClient } from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";
import { PATIENCE, code, fast, turn, within } from "./helpers.mjs";
import { recorder } from "./suite.mjs";

describe("closing", { timeout: 40 * PATIENCE }, () => {
  let hub;
  const clients = [];
  const client = (options = fast) => {
    const made = new PromClient(hub.url, "t", options);
    clients.push(made);
    return made;
  };
  beforeEach(async () => {
    hub = await FakeHub.start();
  });
  afterEach(async () => {
    await Promise.all(clients.splice(0).map((made) => made.close()));
    await hub.stop();
  });

  it("once: a wait for an event ends with the client", async () => {
    const c = client();
    await c.connect();
    const state = c.once("state");
    const gap = assert.rejects(within("once", c.once("gap")), code("closed"));
    await c.close();
    assert.equal((await state).state, "closed", "the end itself is an event");
    await gap;
    await assert.rejects(within("once, after the end", c.once("gap")), code("closed"));
  });

  it("what came along in the same message is told to nobody after close", async () => {
    let connection;
    hub.intercept = (frame, client) => void (connection = client);
    const c = client();
    const told = recorder();
    c.on("gap", () => told("gap"));
    const open = [c.live("a", (event) => (told("live", event.payload), c.close())), c.watch("a", { onChange: (event) => event && told("watch", event.payload) })];
    await within("both", Promise.all(open));
    for (const n of [1, 2]) hub.publish("a", n, { key: `k${n}` });
    connection.send({ op: "GAP", topic: "a", group: "$live-1", from: 3, to: 4, reason: "retention" });
    await within("the end", c.closed);
    assert.deepEqual(told.calls, [["live", 1]]);
  });

  /** A handler at work on each of so many events of `in`; `go` lets all of them publish to `out` and end. */
  const working = async (c, count = 3, publishes = true) => {
    let go;
    const gate = new Promise((resolve) => (go = resolve));
    const started = recorder();
    await c.subscribe("in", "g", async (event) => {
      started();
      await gate;
      if (publishes) await c.publish("out", event.payload);
    });
    for (let n = 0; n < count; n++) hub.publish("in", n, { id: `in-${n}` });
    await started.until(count);
    return go;
  };

  it("a drain flushes what was published just before it: connected, not connected, module not loaded", async () => {
    for (const [n, prepare] of [(c) => c.connect(), () => undefined, (c) => void c.connect()].entries()) {
      const c = client();
      await prepare(c);
      const published = Array.from({ length: 10 }, (_, m) => c.publish(`p${n}`, m));
      await within("the drain", Promise.all([...published, c.close({ drain: true })]));
      assert.equal(hub.of("PUBLISH").filter(({ topic }) => topic === `p${n}`).length, 10);
    }
  });

  for (const timeoutMs of [2 ** 31 - 1, 2 ** 31, 2 ** 32, 30 * 86_400_000, 1e300, Infinity]) {
    it(`a drain may take ${timeoutMs} ms`, async () => {
      const c = client();
      const go = await working(c, 1, false);
      const closing = c.close({ drain: true, timeoutMs });
      let over = false;
      void closing.then(() => (over = true));
      // Many turns with real traffic: a timer of 1 ms would have fired.
      const other = client();
      const until = performance.now() + 20;
      while (performance.now() < until) await other.publish("b", 1);
      assert.equal(over, false);
      go();
      await closing;
      assert.equal(hub.of("ACK").length, 1);
    });

    it(`calls and the client may wait ${timeoutMs} ms`, async () => {
      const c = client({ ...fast, timeoutMs, reconnectMaxMs: 50 });
      await c.connect();
      let answer;
      hub.intercept = (frame, to) => {
        if (frame.topic !== "held") return false;
        answer = () => hub.answer(frame, to);
        return true;
      };
      const published = c.publish("held", 1, { timeoutMs });
      const end = performance.now() + 20;
      while (performance.now() < end) await c.publish("b", 1);
      answer();
      assert.ok((await published).seq > 0);
    });
  }

  it("negative times are over at once, and what is no number is refused", async () => {
    const c = client();
    await c.connect();
    hub.intercept = ({ topic }) => topic === "held";
    await assert.rejects(within("the publish", c.publish("held", 1, { timeoutMs: -5 })), code("timeout"));
    await assert.rejects(within("the publish", c.publish("held", 1, { timeoutMs: NaN })), code("bad_frame"));
    await working(c, 1);
    await assert.rejects(within("the drain", c.close({ drain: true, timeoutMs: NaN })), code("bad_frame"));
    assert.equal(c.state, "ready");
    await within("the drain", c.close({ drain: true, timeoutMs: -1 }));
    assert.equal(c.state, "closed");
  });

  it("a refused call's stack holds the line it was called from", async () => {
    const c = client();
    await c.connect();
    hub.intercept = (frame, to) => {
      if (frame.op === "AUTH") return false;
      to.send({ op: "ERR", code: "forbidden", msg: "m", corr: frame.corr });
      return true;
    };
    const calls = [() => c.publish("a", 1), () => c.publish("a", 1n), () => c.publish(7, 1), () => c.subscribe("a", "g", () => {}), () => c.watch("a"), () => c.unsubscribe("a", "g"), () => c.events("a", "g").next()];
    for (const call of calls) {
      const awaited = async () => {
        await call();
      };
      const error = await within(String(call), awaited()).catch((thrown) => thrown);
      assert.match(String(error.stack), /closing\.test\.mjs/, String(call));
    }
  });

  it("an error that nobody listens to is told on the console, once", async (t) => {
    const told = t.mock.method(console, "error", () => {});
    const refuse = async (c, topic, count) => {
      await c.subscribe(topic, "g", () => {});
      hub.intercept = (frame, to) => {
        if (frame.op !== "ACK") return false;
        to.send({ op: "ERR", code: "ack_failed", msg: "the disk is full", corr: frame.corr });
        return true;
      };
      const before = hub.of("ACK").length;
      for (let n = 0; n < count; n++) hub.publish(topic, n);
      await hub.until(() => hub.of("ACK").length === before + count);
      hub.intercept = () => false;
      await c.publish("b", 1);
      await turn();
    };
    await refuse(client(), "a", 3);
    assert.equal(told.mock.callCount(), 1);
    assert.match(told.mock.calls[0].arguments.map(String).join(" "), /ack_failed|the disk is full/);
    const listened = client();
    const errors = recorder();
    listened.on("error", errors);
    await refuse(listened, "c", 3);
    assert.deepEqual([told.mock.callCount(), errors.calls.length], [1, 3]);
  });

  it("why there is no connection is told", async () => {
    const { port } = hub;
    const c = client({ ...fast, timeoutMs: 500 });
    await hub.stop();
    const states = recorder();
    c.on("state", ({ state, error }) => states(state, error?.message));
    await assert.rejects(c.connect(), (error) => /ECONNREFUSED|lost|refused/.test(error.message));
    assert.ok(states.calls.some(([state, message]) => state === "reconnecting" && /ECONNREFUSED|lost|refused/.test(message)));
    hub = await FakeHub.start(port);
  });
});
