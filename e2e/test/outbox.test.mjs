// A JavaScript service that writes a document and its event in one transaction, with nothing but MongoDB's own driver.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { PromClient } from "@prom-hub/sdk";
import { MongoClient } from "mongodb";

import { devHub, freePort, temporaryFolder, until } from "../lib/hub.mjs";
import { replicaSet } from "../lib/mongod.mjs";

let folder;
let set;
let hub;
let mongo;
let client;
const seen = [];

before(async () => {
  [folder, set] = await Promise.all([temporaryFolder(), replicaSet(1)]);
  hub = await devHub({
    port: await freePort(),
    cwd: folder.path,
    args: ["--no-heartbeat"],
    env: { MONGO_URL: set.url, PROM_OUTBOX: "outbox,shop.outbox" },
  });
  mongo = await MongoClient.connect(set.url);
  client = new PromClient(hub.ws, hub.token);
  await client.connect();
  await client.subscribe("orders.**", "shipping", async (event) => void seen.push(event));
});

after(async () => {
  await client?.close();
  await mongo?.close();
  await hub?.stop();
  await set?.stop();
  await folder?.remove();
});

/** Places an order: the document and its row, together or not at all. */
async function place(order, { fail = false } = {}) {
  const shop = mongo.db("shop");
  return await mongo.withSession((session) =>
    session.withTransaction(async () => {
      const { insertedId } = await shop.collection("orders").insertOne({ order, at: new Date() }, { session });
      await shop.collection("outbox").insertOne(
        { topic: "orders.placed", payload: { order, id: insertedId }, key: `order-${order}`, status: "pending", ts: new Date(), attempts: 0 },
        { session },
      );
      if (fail) throw new Error("no such customer");
      return insertedId;
    }),
  );
}

test("what a transaction has committed arrives, once", async () => {
  const id = await place(1);
  await until("the event of order 1", () => seen.length > 0);
  assert.deepEqual(seen[0].payload, { order: 1, id: id.toHexString() });
  assert.equal(seen[0].key, "order-1");
  const row = await mongo.db("shop").collection("outbox").findOne({ key: "order-1" });
  assert.equal(seen[0].id, row._id.toHexString(), "the row's id is the event's");
  await until("the row to be marked", async () => {
    return (await mongo.db("shop").collection("outbox").findOne({ key: "order-1" })).status === "sent";
  });
});

test("what was rolled back never does", async () => {
  await assert.rejects(place(2, { fail: true }), /no such customer/);
  // One that was written later is drained later: when it is here, the other one is not to come any more.
  await place(3);
  await until("the event of order 3", () => seen.length > 1);
  assert.deepEqual(seen.map((event) => event.payload.order), [1, 3]);
  assert.equal(await mongo.db("shop").collection("orders").countDocuments({ order: 2 }), 0);
});

test("a row with nothing but a topic and a payload is enough", async () => {
  await mongo.db("prom").collection("outbox").insertOne({ topic: "orders.noted", payload: [1, { two: null }, new Date(0)] });
  await until("the event", () => seen.length > 2);
  assert.deepEqual(seen[2].payload, [1, { two: null }, "1970-01-01T00:00:00.000Z"]);
});
