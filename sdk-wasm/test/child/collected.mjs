// Clients that are closed, and what their functions hold, are collected. Here, because the test runner holds promises for itself.

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { PromClient } from "@prom-hub/sdk";

import { FakeHub } from "../fake-hub.mjs";

const PATIENCE = Number(process.env.TEST_PATIENCE ?? 60_000);

setFlagsFromString("--expose-gc");
const gc = runInNewContext("gc");
const hub = await FakeHub.start();
let wrong = 0;

/** A client that was used and closed, and what its functions hold. */
async function used(n) {
  const held = { n };
  const client = new PromClient(hub.url, () => `t${held.n}`.slice(0, 1));
  client.on("state", () => held.n++);
  await client.live("a", () => held.n);
  const queue = client.events("a", `g${n}`);
  await client.publish("a", n);
  await queue.next();
  await client.close();
  if (!(await queue.next()).done) console.log("a queue that goes on");
  await client.publish("a", 1).then(() => console.log("published"), ({ code }) => code === "closed" || console.log(code));
  await client.close();
  return [new WeakRef(client), new WeakRef(held)];
}

const refs = (await Promise.all(Array.from({ length: 20 }, (_, n) => used(n)))).flat();
const end = Date.now() + PATIENCE;
// The last ones may be held by a frame of the engine still.
do {
  // What was asked for is held until the turn is over.
  await new Promise((resolve) => setTimeout(resolve, 10));
  gc();
  wrong = refs.filter((ref) => ref.deref()).length;
} while (wrong > 2 && Date.now() < end);
if (wrong > 2) console.log(`${wrong} of ${refs.length} are still held`);
await hub.stop();
