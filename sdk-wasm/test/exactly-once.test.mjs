import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";

import { PromClient } from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";
import { recorder } from "./suite.mjs";

/** Marks in memory; so many calls of each kind fail first. */
function memory({ seenFails = 0, markFails = 0 } = {}) {
  const marks = new Set();
  const away = () => Promise.reject(new Error("the store is away"));
  const asked = recorder();
  return {
    marks,
    asked,
    seen: async (id) => {
      asked("seen", id);
      return seenFails-- > 0 ? away() : marks.has(id);
    },
    mark: async (id) => {
      asked("mark", id);
      return markFails-- > 0 ? away() : void marks.add(id);
    },
  };
}

describe("a handler guarded by a store", () => {
  let hub;
  let c;
  beforeEach(async () => {
    hub = await FakeHub.start();
    c = new PromClient(hub.url, "t", { reconnectMinMs: 1, reconnectMaxMs: 5 });
  });
  afterEach(async () => {
    await c.close();
    await hub.stop();
  });

  const acked = (id) => hub.until(() => hub.of("ACK").some((frame) => frame.id === id));

  it("is not called for a marked event, which is acknowledged", async () => {
    const store = memory();
    store.marks.add("1");
    const called = recorder();
    await c.subscribeExactlyOnce("a", "g", store, (event) => called(event.id));
    hub.publish("a", 1, { id: "1" });
    hub.publish("a", 2, { id: "2" });
    await acked("1");
    await acked("2");
    assert.deepEqual(called.calls, [["2"]]);
    assert.ok(store.marks.has("2"));
  });

  it("marks before it acknowledges", async () => {
    const store = memory();
    let mark;
    store.mark = () => new Promise((resolve) => (mark = resolve));
    await c.subscribeExactlyOnce("a", "g", store, () => {});
    hub.publish("a", 1, { id: "1" });
    // Its answer comes after whatever was sent before it.
    while (!mark) await c.publish("b", 1);
    await c.publish("b", 1);
    assert.equal(hub.of("ACK").length, 0);
    mark();
    await acked("1");
  });

  it("is called again after it failed, and nothing is marked", async () => {
    const store = memory();
    const attempts = recorder();
    await c.subscribeExactlyOnce("a", "g", store, (_, ctx) => {
      attempts(ctx.attempt);
      assert.ok(!store.marks.has("1"));
      if (ctx.attempt === 1) throw new Error("not yet");
    });
    hub.publish("a", 1, { id: "1" });
    await acked("1");
    assert.deepEqual(attempts.calls.flat(), [1, 2]);
    assert.equal(hub.of("NACK")[0].reason, "not yet");
  });

  it("uses up no attempt while the store fails", async () => {
    const store = memory({ seenFails: 1, markFails: 1 });
    const attempts = recorder();
    await c.subscribeExactlyOnce("a", "g", store, (_, ctx) => attempts(ctx.attempt));
    hub.publish("a", 1, { id: "1" });
    await acked("1");
    assert.deepEqual(attempts.calls, [[1]]);
    assert.deepEqual(store.asked.calls.map(([what]) => what), ["seen", "seen", "mark", "mark"]);
    assert.equal(hub.of("NACK").length, 0);
  });

  it("is called once for an event that comes again while it runs", async () => {
    const store = memory();
    let finish;
    const called = recorder();
    await c.subscribeExactlyOnce("a", "g", store, () => {
      called();
      return new Promise((resolve) => (finish = resolve));
    });
    hub.publish("a", 1, { id: "1" });
    await called.until(1);
    hub.cut();
    await hub.until(() => hub.of("SUBSCRIBE").length === 2);
    // The event has come again before this one, which the store is asked for.
    hub.publish("a", 2, { id: "2" });
    await called.until(2);
    const second = finish;
    assert.deepEqual(store.asked.calls, [["seen", "1"], ["seen", "2"]], "the first waits for its handler");
    second();
    await acked("2");
  });

  it("acknowledges what came again once the handler is done", async () => {
    const store = memory();
    const called = recorder();
    let finish;
    await c.subscribeExactlyOnce("a", "g", store, () => {
      called();
      return new Promise((resolve) => (finish = resolve));
    });
    hub.publish("a", 1, { id: "1" });
    await called.until(1);
    hub.cut();
    await hub.until(() => hub.of("SUBSCRIBE").length === 2);
    finish();
    await acked("1");
    assert.equal(called.calls.length, 1);
  });

  it("gives the event back when the client drains while the store is away", async () => {
    const store = memory({ seenFails: Infinity });
    await c.subscribeExactlyOnce("a", "g", store, () => assert.fail("not without the store"));
    hub.publish("a", 1, { id: "1" });
    await store.asked.until(1);
    await c.close({ drain: true });
    assert.equal(hub.of("NACK")[0]?.reason, "the store is away");
  });

  it("gives the event back when the client drains while the store is silent", async () => {
    const store = memory();
    const asked = recorder();
    store.seen = (id) => {
      asked(id);
      return new Promise(() => {});
    };
    await c.subscribeExactlyOnce("a", "g", store, () => assert.fail("not without the store"));
    hub.publish("a", 1, { id: "1" });
    await asked.until(1);
    // Far less than what a drain may take.
    await c.close({ drain: true, timeoutMs: 600_000 });
    assert.match(hub.of("NACK")[0]?.reason, /no answer of the dedupe store/);
  });

  it("needs acknowledgements", async () => {
    await assert.rejects(
      c.subscribeExactlyOnce("a", "g", memory(), () => {}, { ack: "none" }),
      { code: "bad_frame", message: /ack must be explicit/ },
    );
  });
});
