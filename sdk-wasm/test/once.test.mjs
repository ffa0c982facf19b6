// Apart from the others: time stands still here, also for what a connection of theirs leaves behind.

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { Once } from "../dist/once.js";

describe("a store that does not answer", () => {
  /** Lets everything run that waits for no timer. */
  const settle = () => new Promise(setImmediate);
  const silent = () => new Promise(() => {});

  it("is asked again, and what came meanwhile goes on", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const seen = t.mock.fn(async () => false);
    const mark = t.mock.fn(async () => undefined);
    const handler = t.mock.fn();
    seen.mock.mockImplementationOnce(silent, 0);
    mark.mock.mockImplementationOnce(silent, 0);
    const once = new Once({ seen, mark }, handler);
    const handled = Promise.all([once.handle({ id: "1" }, {}), once.handle({ id: "1" }, {})]);
    for (const [call, next] of [[seen, handler], [mark, mark]]) {
      await settle();
      t.mock.timers.tick(9_999);
      await settle();
      assert.equal(call.mock.callCount(), 1, "it has ten seconds");
      t.mock.timers.tick(1);
      await settle();
      t.mock.timers.tick(100);
      await settle();
      assert.ok(next.mock.callCount() > 0);
    }
    await handled;
    assert.equal(handler.mock.callCount(), 2);
  });

  it("has one more second once it is told to stop", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    let answer;
    const store = { seen: () => new Promise((resolve) => (answer = resolve)), mark: async () => undefined };
    const handler = t.mock.fn();
    const once = new Once(store, handler);
    const late = once.handle({ id: "1" }, {});
    await settle();
    once.stop();
    t.mock.timers.tick(999);
    answer(true);
    await late;

    const never = once.handle({ id: "2" }, {});
    await settle();
    t.mock.timers.tick(1_000);
    await assert.rejects(never, /no answer of the dedupe store within 1000 ms/);
    assert.equal(handler.mock.callCount(), 0);
  });
});
