// Several frames in one message, when the hub agrees.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";

import { PromClient } from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";
import { PATIENCE, fast } from "./helpers.mjs";

describe("several frames in one message", { timeout: 2 * PATIENCE }, () => {
  let hub;
  const clients = [];
  const client = async (options) => {
    const made = new PromClient(hub.url, "t", { ...fast, ...options });
    clients.push(made);
    await made.connect();
    return made;
  };
  const sizes = (op) => hub.messages.filter((frames) => frames[0]?.op === op).map(({ length }) => length);
  const publishes = (c, count, payload = 1) => Promise.all(Array.from({ length: count }, () => c.publish("a", payload)));
  beforeEach(async () => {
    hub = await FakeHub.start();
  });
  afterEach(async () => {
    await Promise.all(clients.splice(0).map((made) => made.close()));
    await hub.stop();
  });

  it("a turn's publishes go as one, in order", async () => {
    const c = await client();
    assert.equal(hub.of("AUTH")[0].batch, true);
    const answers = await publishes(c, 50);
    assert.deepEqual(sizes("PUBLISH"), [50]);
    assert.deepEqual(answers.map(({ seq }) => seq), Array.from({ length: 50 }, (_, n) => n + 1));
  });

  it("the acknowledgements of what came as one go as one", async () => {
    const c = await client();
    await c.subscribe("a", "g", () => {});
    for (let n = 0; n < 20; n++) hub.publish("a", n);
    await hub.until(() => hub.of("ACK").length === 20);
    assert.deepEqual(sizes("ACK"), [20]);
  });

  it("no message is over 1 MiB", async () => {
    const c = await client();
    await publishes(c, 12, "x".repeat(300_000));
    assert.equal(hub.logins, 1);
    assert.deepEqual([hub.of("PUBLISH").length, Math.max(...sizes("PUBLISH")) <= 3], [12, true]);
  });

  it("is not done with a hub that does not agree, nor when it is switched off", async () => {
    hub.batch = false;
    await publishes(await client(), 10);
    hub.batch = true;
    const c = await client({ batch: false });
    assert.notEqual(hub.of("AUTH").at(-1).batch, true);
    await publishes(c, 10);
    assert.deepEqual(sizes("PUBLISH"), Array(20).fill(1));
  });

  it("an error in one line is that line's own", async () => {
    const c = await client();
    hub.intercept = (frame, to) => {
      if (frame.payload !== "bad") return false;
      to.send({ op: "ERR", code: "forbidden", msg: "m", corr: frame.corr });
      return true;
    };
    const settled = await Promise.allSettled([c.publish("a", 1), c.publish("a", "bad"), c.publish("a", 2)]);
    assert.deepEqual(settled.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
  });
});
