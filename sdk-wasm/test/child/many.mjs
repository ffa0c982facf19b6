// Sixty wrong calls of one kind, each on a connected client of its own, in one process: it must end by itself with 0.
// Node once died with SIGSEGV at the 14th to 46th of them.

import { PromClient } from "@prom-hub/sdk";

import { FakeHub } from "../fake-hub.mjs";

const kinds = {
  topic: (c) => c.publish(7, 1),
  id: (c) => c.publish("a", 1, { id: 7n }),
  timeout: (c) => c.publish("a", 1, { timeoutMs: 1n }),
  group: (c) => c.subscribe("a", 7, () => {}),
  position: (c) => c.subscribe("a", "g", () => {}, { from: "afterSeq", afterSeq: 1n }),
};

const hub = await FakeHub.start();
// They stay open until the end, as in a process that serves many.
const clients = [];
const kind = process.argv[2];
for (let n = 0; n < 60; n++) {
  const c = new PromClient(hub.url, "t");
  clients.push(c);
  // Only clients that have worked brought Node down.
  await c.subscribe("works", `g${n}`, () => {});
  await c.publish("good", n);
  if (kind === "throw") {
    const nacks = hub.of("NACK").length;
    c.on("error", (error) => error.code === "handler_failed" || console.log(`call ${n}: ${error.code}`));
    await c.subscribe(`t${n}`, "g", (_, { attempt }) => {
      if (attempt === 1) throw Object.assign(new Error(), { message: ["name must be a string"] });
    });
    await c.publish(`t${n}`, 1);
    await hub.until(() => hub.of("NACK").length === nacks + 1);
  } else {
    await kinds[kind](c).then(
      () => console.log(`call ${n} was not refused`),
      (error) => error.code === "bad_frame" || console.log(`call ${n}: ${error.code}`),
    );
  }
  await new Promise(setImmediate);
  if (c.state !== "ready") console.log(`call ${n} ended the client`);
}
for (const c of clients) await c.close();
await hub.stop();
