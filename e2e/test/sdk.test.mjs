// The npm package, by its public entry, in Node and in a page, against a real hub.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { HubError, PromClient } from "@prom-hub/sdk";

import { devHub, freePort, temporaryFolder, until } from "../lib/hub.mjs";

let folder;
let port;
let hub;
const clients = [];

before(async () => {
  folder = await temporaryFolder();
  port = await freePort();
  hub = await devHub({ port, cwd: folder.path, args: ["--no-heartbeat"] });
});

after(async () => {
  await Promise.all(clients.map((client) => client.close()));
  await hub?.stop();
  await folder?.remove();
});

async function connected(options) {
  const client = new PromClient(hub.ws, hub.token, options);
  clients.push(client);
  await client.connect();
  return client;
}

test("publishes and learns id and seq; the same id is a duplicate", async () => {
  const client = await connected();
  assert.equal(client.state, "ready");
  const first = await client.publish("sdk.publish", { a: 1 }, { id: "mine", key: "k" });
  assert.deepEqual({ ...first }, { id: "mine", seq: 1, duplicate: false });
  const again = await client.publish("sdk.publish", { a: 2 }, { id: "mine" });
  assert.deepEqual({ ...again }, { id: "mine", seq: 1, duplicate: true });
});

test("a handler that resolves acknowledges, one that throws gets it again", async () => {
  const client = await connected();
  const seen = [];
  await client.subscribe("sdk.handler", "g", async (event, ctx) => {
    seen.push([event.payload.n, ctx.attempt]);
    if (event.payload.n === 1 && ctx.attempt === 1) throw new Error("once");
  });
  await client.publish("sdk.handler", { n: 1 });
  await until("both attempts", () => seen.length >= 2);
  await client.publish("sdk.handler", { n: 2 });
  await until("the next", () => seen.length >= 3);
  assert.deepEqual(seen, [[1, 1], [1, 2], [2, 1]]);
  await client.unsubscribe("sdk.handler", "g");
  await assert.rejects(client.unsubscribe("sdk.handler", "g"), (error) => error instanceof HubError && error.code === "not_subscribed");
});

test("events() gives deliveries to settle by hand", async () => {
  const client = await connected();
  for (let n = 0; n < 3; n++) await client.publish("sdk.iterate", n);
  const seen = [];
  for await (const delivery of client.events("sdk.iterate", "g", { from: "earliest" })) {
    seen.push(delivery.event.payload);
    await delivery.ack();
    if (seen.length === 3) break;
  }
  assert.deepEqual(seen, [0, 1, 2]);
});

test("watch() is the newest of each key, and stays so", async () => {
  const client = await connected();
  await client.publish("sdk.watch", 1, { key: "a" });
  await client.publish("sdk.watch", 2, { key: "a" });
  await client.publish("sdk.watch", 3, { key: "b" });
  const view = await client.watch("sdk.watch");
  assert.deepEqual([...view].map(([key, event]) => [key, event.payload]).sort(), [["a", 2], ["b", 3]]);
  await client.publish("sdk.watch", 4, { key: "b" });
  await until("the change", () => view.get("b")?.payload === 4);
  await view.close();
});

test("what the hub refuses is a HubError with its code", async () => {
  const client = await connected();
  const code = (expected) => (error) => error instanceof HubError && error.code === expected;
  await assert.rejects(client.publish("not a topic", 1), code("bad_topic"));
  await assert.rejects(client.publish("$audit", 1), code("forbidden"));
  await assert.rejects(client.publish("sdk.bad", undefined), code("bad_payload"));
  await assert.rejects(client.publish("sdk.bad", Number.NaN), code("bad_payload"));
  await client.subscribe("sdk.twice", "g", () => {});
  await assert.rejects(client.subscribe("sdk.twice", "g", () => {}), code("already_subscribed"));
  await assert.rejects(new PromClient(hub.ws, "nonsense").connect(), code("jwt_invalid"));
});

test("goes on by itself when the hub is restarted: publishes arrive, subscriptions resume, promises settle", async () => {
  const client = await connected({ reconnectMinMs: 50, reconnectMaxMs: 500 });
  const states = [];
  client.on("state", ({ state }) => states.push(state));
  const seen = [];
  await client.subscribe("sdk.restart", "g", (event) => void seen.push(event.payload), { from: "earliest" });
  await client.publish("sdk.restart", "before");
  await until("the first event", () => seen.length === 1);
  await hub.stop();
  await until("the client to notice", () => client.state === "reconnecting");
  const publishing = client.publish("sdk.restart", "while away", { id: "away-1" });
  hub = await devHub({ port, cwd: folder.path, args: ["--no-heartbeat"] });
  const published = await publishing;
  assert.equal(published.id, "away-1");
  assert.equal(published.duplicate, false);
  await until("the event", () => seen.includes("while away"));
  assert.equal(client.state, "ready");
  assert.deepEqual(seen, ["before", "while away"]);
  assert.ok(states.includes("reconnecting") && states.at(-1) === "ready");
});

test("when the hub is killed: what was acknowledged is there, and what was queued meanwhile arrives once", async () => {
  const client = await connected({ reconnectMinMs: 50, reconnectMaxMs: 500 });
  const publish = (from, to) => Array.from({ length: to - from }, (_, i) => client.publish("sdk.killed", from + i));
  const seen = [];
  await client.subscribe("sdk.killed", "g", (event) => void seen.push(event.payload), { from: "earliest" });
  await Promise.all(publish(0, 100));
  await until("the first hundred", () => seen.length === 100);
  const underWay = publish(100, 300);
  await hub.stop("SIGKILL");
  await until("the client to notice", () => client.state === "reconnecting");
  const queued = publish(300, 400);
  hub = await devHub({ port, cwd: folder.path, args: ["--no-heartbeat"] });
  const published = await Promise.all([...underWay, ...queued]);
  assert.deepEqual(published.map(({ seq }) => seq), Array.from({ length: 300 }, (_, i) => 101 + i));
  await until("all events", () => new Set(seen).size === 400);
  // Only a settle that was not stored yet may bring an event again.
  assert.deepEqual([...new Set(seen)], Array.from({ length: 400 }, (_, i) => i));
  const headers = { Authorization: `Bearer ${hub.token}` };
  const replay = await fetch(`http://127.0.0.1:${port}/replay?topic=sdk.killed&from=earliest&limit=1000`, { headers });
  const { events } = await replay.json();
  assert.deepEqual(events.map(({ payload }) => payload), Array.from({ length: 400 }, (_, i) => i));
});

test("a thousand publishes at once all settle, in order", async () => {
  const client = await connected();
  const results = await Promise.all(Array.from({ length: 1000 }, (_, i) => client.publish("sdk.many", i)));
  assert.deepEqual(results.map((result) => result.seq), Array.from({ length: 1000 }, (_, i) => i + 1));
});

test("a drain lets handlers publish, and their events do not come again", async () => {
  const client = await connected();
  let go;
  const gate = new Promise((resolve) => (go = resolve));
  let started = 0;
  await client.subscribe("sdk.drain.in", "g", async (event) => {
    started++;
    await gate;
    await client.publish("sdk.drain.out", event.payload);
  }, { from: "earliest" });
  for (let n = 0; n < 3; n++) await client.publish("sdk.drain.in", n);
  await until("three handlers", () => started === 3);
  const closing = client.close({ drain: true });
  go();
  await closing;
  const headers = { Authorization: `Bearer ${hub.token}` };
  const replay = await fetch(`http://127.0.0.1:${port}/replay?topic=sdk.drain.out&from=earliest`, { headers });
  assert.deepEqual((await replay.json()).events.map(({ payload }) => payload).sort(), [0, 1, 2]);
  const next = await connected();
  await next.publish("sdk.drain.in", "new");
  const { value } = await next.events("sdk.drain.in", "g").next();
  assert.deepEqual([value.event.payload, value.ctx.attempt], ["new", 1]);
  await value.ack();
});

test("a wrong argument is refused and nothing else happens", async () => {
  const client = await connected();
  const seen = [];
  await client.subscribe("sdk.wrong", "g", (event) => void seen.push(event.payload));
  for (const call of [() => client.publish(7, 1), () => client.publish("sdk.wrong", 1, { id: 7 }), () => client.subscribe("sdk.wrong", 7, () => {})]) {
    await assert.rejects(call(), (error) => error instanceof HubError && error.code === "bad_frame");
  }
  await client.publish("sdk.wrong", "goes on");
  await until("the event", () => seen.length === 1);
  assert.equal(client.state, "ready");
});

test("close() settles what is open", async () => {
  const client = new PromClient(`ws://127.0.0.1:${await freePort()}/ws`, hub.token);
  const publishing = client.publish("sdk.closed", 1);
  const failed = assert.rejects(publishing, (error) => error.code === "closed");
  await client.close();
  await failed;
  assert.equal(client.state, "closed");
  await assert.rejects(client.publish("sdk.closed", 2), (error) => error.code === "closed");
});
