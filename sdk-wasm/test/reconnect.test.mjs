import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";

import { HubError, PromClient } from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";
import { recorder } from "./suite.mjs";

const code = (wanted) => (error) => error instanceof HubError && error.code === wanted;
const fast = { reconnectMinMs: 1, reconnectMaxMs: 20 };

describe("over reconnects", () => {
  let hub;
  let clients;
  const client = (token = "t", options = fast) => {
    const made = new PromClient(hub.url, token, options);
    clients.push(made);
    return made;
  };
  beforeEach(async () => {
    clients = [];
    hub = await FakeHub.start();
  });
  afterEach(async () => {
    await Promise.all(clients.map((made) => made.close()));
    await hub.stop();
  });

  it("bounds what it keeps while away", async () => {
    const c = client("t", { ...fast, maxQueued: 2 });
    hub.intercept = (frame) => frame.op === "PUBLISH";
    await c.connect();
    const kept = [c.publish("a", 1), c.publish("a", 2)];
    await assert.rejects(c.publish("a", 3), (error) => code("overloaded")(error) && error.retryable);
    const closing = c.close();
    for (const one of kept) await assert.rejects(one, code("closed"));
    await closing;
  });

  it("subscribes again and settles an event by the lease it has now", async () => {
    const c = client();
    const got = recorder();
    let finish;
    await c.subscribe("a", "g", async (event) => {
      got(event.payload);
      if (got.calls.length === 1) await new Promise((resolve) => (finish = resolve));
    });
    await c.publish("a", 7, { id: "seven" });
    await got.until(1);
    hub.cut();
    await hub.until(() => hub.of("SUBSCRIBE").length === 2);
    // It has come again before this one, and is not handled beside itself.
    await c.publish("a", 8, { id: "eight" });
    await got.until(2);
    assert.deepEqual(got.calls, [[7], [8]]);
    finish();
    await hub.until(() => new Set(hub.of("ACK").map(({ id }) => id)).size === 2);
    const [first] = hub.of("ACK").filter(({ id }) => id === "seven");
    assert.notEqual(first.lease, "1".padStart(16, "0"), "not by that of the old connection");
  });

  it("takes a new snapshot and forgets what is gone", async () => {
    const c = client();
    hub.publish("a", 1, { key: "x" });
    hub.publish("a", 2, { key: "y" });
    const changes = recorder();
    const view = await c.watch("a", { onChange: (event) => changes(event?.key) });
    // A new hub without the past takes its place.
    const port = hub.port;
    await hub.stop();
    hub = await FakeHub.start(port);
    hub.publish("a", 3, { key: "y" });
    await changes.until((calls) => calls.filter(([key]) => key === undefined).length === 2);
    assert.deepEqual([...view].map(([key, { payload }]) => [key, payload]), [["y", 3]]);
  });

  it("goes on with an iterator", async () => {
    const c = client();
    const deliveries = c.events("a", "g", { from: "earliest" });
    for (const n of [1, 2, 3]) hub.publish("a", n);
    const first = await deliveries.next();
    await first.value.ack();
    hub.cut();
    await hub.until(() => hub.logins === 2);
    const rest = [];
    for (let n = 0; n < 2; n++) {
      const { value } = await deliveries.next();
      rest.push([value.event.payload, value.ctx.attempt]);
      await value.ack();
    }
    assert.deepEqual(rest, [[2, 2], [3, 2]], "what was waiting unread on the old connection is not handed out");
  });

  it("comes back after a shutdown and stays away where it is not wanted", async () => {
    const c = client();
    const states = recorder();
    c.on("state", ({ state, error }) => states(state, error?.code));
    await c.connect();
    hub.cut(1001);
    await states.until((calls) => calls.filter(([state]) => state === "ready").length === 2);
    assert.deepEqual(states.calls[2], ["reconnecting", "shutting_down"]);
    hub.cut(4403);
    await states.until((calls) => calls.at(-1)[0] === "closed");
    assert.equal(states.calls.at(-1)[1], "forbidden");
    await assert.rejects(c.publish("a", 1), code("forbidden"));
  });

  it("connects as soon as there is a hub", async () => {
    // Time enough for a first try that fails, and for a later one that does not.
    const c = client("t", { ...fast, timeoutMs: 3_000 });
    const { port } = hub;
    await hub.stop();
    await assert.rejects(c.connect(), (error) => code("timeout")(error) && /ECONNREFUSED|lost/.test(error.message));
    hub = await FakeHub.start(port);
    await hub.until(() => hub.logins === 1);
    await c.connect();
  });
});

describe("tokens", () => {
  let hub;
  beforeEach(async () => {
    hub = await FakeHub.start();
  });
  afterEach(() => hub.stop());

  it("asks a provider before every connect and gives up after three refusals", async () => {
    const asked = recorder();
    const c = new PromClient(hub.url, async () => {
      asked();
      return `t${asked.calls.length}`;
    }, fast);
    await c.connect();
    hub.cut();
    await hub.until(() => hub.logins === 2);
    for (let n = 3; n < 9; n++) hub.refused.set(`t${n}`, "token_expired");
    const states = recorder();
    c.on("state", ({ state, error }) => states(state, error?.code));
    hub.cut();
    await states.until((calls) => calls.some(([state]) => state === "closed"));
    assert.deepEqual([states.calls.at(-1)[1], asked.calls.length], ["token_expired", 5]);
  });

  it("tells what a provider throws", async () => {
    const c = new PromClient(hub.url, () => Promise.reject(new Error("signed out")), { ...fast, timeoutMs: 3_000 });
    await assert.rejects(c.connect(), (error) => code("timeout")(error) && error.message.includes("signed out"));
    await c.close();
  });
});
