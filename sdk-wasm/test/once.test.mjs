// Apart from the others: time stands still here, also for what a connection of theirs leaves behind.

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { PromClient } from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";

describe("a store that does not answer", () => {
  /** Lets everything run that waits for no timer. */
  const settle = () => new Promise(setImmediate);
  const silent = () => new Promise(() => {});
  /** Until `condition` holds: sockets need turns, not time. */
  const until = async (condition) => {
    while (!condition()) await settle();
  };

  it("is asked again, and what came meanwhile goes on", async (t) => {
    const hub = await FakeHub.start();
    const client = new PromClient(hub.url, "t");
    await client.connect();
    const seen = t.mock.fn(async () => false);
    const mark = t.mock.fn(async () => undefined);
    const handler = t.mock.fn();
    seen.mock.mockImplementationOnce(silent, 0);
    mark.mock.mockImplementationOnce(silent, 0);
    await client.subscribeExactlyOnce("a", "g", { seen, mark }, handler, { autoExtend: false });
    t.mock.timers.enable({ apis: ["setTimeout"] });
    hub.publish("a", 1);
    for (const [call, next] of [[seen, handler], [mark, mark]]) {
      await until(() => call.mock.callCount() === 1);
      t.mock.timers.tick(9_999);
      await settle();
      assert.equal(call.mock.callCount(), 1, "it has ten seconds");
      t.mock.timers.tick(1);
      await settle();
      t.mock.timers.tick(100);
      await until(() => next.mock.callCount() > 0);
    }
    await until(() => hub.of("ACK").length === 1);
    assert.deepEqual([handler.mock.callCount(), seen.mock.callCount(), mark.mock.callCount()], [1, 2, 2]);
    t.mock.timers.reset();
    await client.close();
    await hub.stop();
  });

  it("has one more second once it is told to stop", async (t) => {
    const hub = await FakeHub.start();
    const client = new PromClient(hub.url, "t");
    const answers = [];
    const store = { seen: () => new Promise((resolve) => answers.push(resolve)), mark: async () => undefined };
    const handler = t.mock.fn();
    await client.subscribeExactlyOnce("a", "g", store, handler, { autoExtend: false });
    t.mock.timers.enable({ apis: ["setTimeout"] });
    hub.publish("a", 1, { id: "late" });
    hub.publish("a", 2, { id: "never" });
    await until(() => answers.length === 2);
    const closing = client.close({ drain: true, timeoutMs: 100_000 });
    await settle();
    t.mock.timers.tick(999);
    answers[0](true);
    await until(() => hub.of("ACK").length === 1);
    hub.intercept = ({ op }) => op === "NACK" && !hub.of("NACK").at(-1).corr;
    t.mock.timers.tick(1);
    await until(() => hub.of("NACK").length === 1);
    assert.deepEqual([hub.of("ACK")[0].id, hub.of("NACK")[0].id], ["late", "never"]);
    assert.match(hub.of("NACK")[0].reason, /no answer of the dedupe store within 1000 ms/);
    t.mock.timers.tick(200_000);
    t.mock.timers.reset();
    await closing;
    await hub.stop();
    assert.equal(handler.mock.callCount(), 0);
  });
});
