// Sixty clients, each connected and treated badly in eight ways: the process must live to tell it.

import { PromClient } from "@prom-hub/sdk";

const url = process.argv[2];
let refused = 0;
for (let n = 0; n < 60; n++) {
  const c = new PromClient(url, "t");
  await c.connect();
  await c.subscribe(`bad.t${n}`, "g", () => {
    throw Object.assign(new Error(), { message: ["m"] });
  });
  await c.publish(`bad.t${n}`, n);
  const calls = [
    () => c.publish(undefined, 1),
    () => c.publish(7, 1),
    () => c.publish("a", 1, { id: 7 }),
    () => c.publish("a", 1, { timeoutMs: 1n }),
    () => c.subscribe(undefined, "g", () => {}),
    () => c.subscribe("a", 7, () => {}),
    () => c.subscribe("a", "h", () => {}, { from: "afterSeq", afterSeq: 1n }),
    () => c.events("a", {}).next(),
  ];
  for (const call of calls) await call().catch((error) => (refused += error.code === "bad_frame" ? 1 : 0));
  if (c.state !== "ready") throw new Error(`client ${n} is ${c.state}`);
  await c.close();
}
console.log("done", refused);
