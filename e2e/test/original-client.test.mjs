// The client people already have must keep working against this hub, unmodified.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { devHub, freePort, temporaryFolder, until } from "../lib/hub.mjs";
import { OriginalClient } from "../lib/original-client.mjs";

let folder;
let hub;
const clients = [];

before(async () => {
  folder = await temporaryFolder();
  hub = await devHub({ port: await freePort(), cwd: folder.path, args: ["--no-heartbeat"] });
});

after(async () => {
  clients.forEach((client) => client.close());
  await hub?.stop();
  await folder?.remove();
});

async function connected() {
  const client = new OriginalClient(hub.ws, hub.token);
  await client.connect();
  clients.push(client);
  return client;
}

test("a login that is refused says why", async () => {
  await assert.rejects(new OriginalClient(hub.ws, "nonsense").connect(), /JWT/);
});

test("200 published, 200 received in order from earliest", async () => {
  const client = await connected();
  for (let i = 0; i < 200; i++) client.publish("original.order", { i });
  const seen = [];
  client.subscribe("original.order", "reader", (event) => seen.push(event.payload.i), { from: "earliest" });
  await until("200 events", () => seen.length >= 200);
  assert.deepEqual(seen, Array.from({ length: 200 }, (_, i) => i));
});

test("a handler that throws gets the event again, as attempt 2", async () => {
  const client = await connected();
  const attempts = [];
  client.subscribe("original.nack", "g", (_event, ctx) => {
    attempts.push(ctx.attempt);
    if (ctx.attempt === 1) throw new Error("not now");
  }, { from: "earliest" });
  client.publish("original.nack", 1);
  await until("two attempts", () => attempts.length >= 2);
  assert.deepEqual(attempts, [1, 2]);
});

test("two members share a group, two groups both get all", async () => {
  const seen = { one: [], two: [], other: [] };
  const [one, two, other] = [await connected(), await connected(), await connected()];
  const slowly = (list) => async (event) => {
    list.push(event.payload);
    // Each has one at a time, and keeps its first until the other has one too.
    await until("both to work", () => seen.one.length > 0 && seen.two.length > 0);
  };
  one.subscribe("original.share", "both", slowly(seen.one), { from: "earliest", maxInFlight: 1 });
  two.subscribe("original.share", "both", slowly(seen.two), { from: "earliest", maxInFlight: 1 });
  other.subscribe("original.share", "alone", (event) => seen.other.push(event.payload), { from: "earliest" });
  for (let i = 0; i < 50; i++) other.publish("original.share", i);
  await until("all events", () => seen.one.length + seen.two.length >= 50 && seen.other.length >= 50);
  const all = Array.from({ length: 50 }, (_, i) => i);
  assert.deepEqual([...seen.one, ...seen.two].sort((a, b) => a - b), all);
  assert.deepEqual(seen.other, all);
  assert.ok(seen.one.length > 0 && seen.two.length > 0, "both work");
});

test("an event refused five times is dead, and the next one is delivered", async () => {
  const client = await connected();
  const attempts = [];
  const fine = [];
  const dead = [];
  client.subscribe("dlq.original.poison", "g", (event) => dead.push(event.payload), { from: "earliest" });
  client.subscribe("original.poison", "g", (event, ctx) => {
    if (event.payload !== "poison") return fine.push(event.payload);
    attempts.push(ctx.attempt);
    throw new Error("never");
  }, { from: "earliest" });
  client.publish("original.poison", "poison");
  await until("a dead letter", () => dead.length > 0);
  client.publish("original.poison", "fine");
  await until("the next event", () => fine.length > 0);
  assert.deepEqual(attempts, [1, 2, 3, 4, 5]);
  assert.equal(dead[0].topic, "original.poison");
  assert.equal(dead[0].original.payload, "poison");
  assert.equal(dead[0].err, "never");
  assert.equal(dead[0].attempts, 5);
});
