/** What is measured, the same in Node and in a page. `connect` gives a connected client: the plain one or the SDK's. */

import { PlainClient } from "./plain.mjs";

/** The ways to connect. `sdk` is the SDK's entry for this engine; `WebSocket` what the plain client uses. */
export const clients = ({ url, token, sdk, WebSocket }) => {
  const ofSdk = (options) => async () => {
    const client = new sdk.PromClient(url, token, options);
    await client.connect();
    return client;
  };
  return {
    plain: () => PlainClient.connect(url, token, WebSocket),
    sdk: ofSdk({ batch: false }),
    "sdk, batch": ofSdk({ batch: true }),
  };
};

const payload = (n) => ({ n, name: "a thing", at: 1767225600000, tags: ["a", "b"], price: 19.5 });
let topics = 0;
const newTopic = () => `bench.js-${Date.now().toString(36)}-${Math.floor(Math.random() * 1e9).toString(36)}-${topics++}`;

/** Publishes `count` events with so many in flight. */
async function publishAll(client, topic, count, inFlight) {
  let next = 0;
  const worker = async () => {
    while (next < count) await client.publish(topic, payload(next++));
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
}

/** Publishes a second. */
export async function publishRound(connect, { count, inFlight }) {
  const client = await connect();
  try {
    const topic = newTopic();
    await publishAll(client, topic, Math.ceil(count / 10), inFlight);
    const start = performance.now();
    await publishAll(client, topic, count, inFlight);
    return (count * 1000) / (performance.now() - start);
  } finally {
    await client.close();
  }
}

/** Events a second that reach a handler and are acknowledged. They are on the hub before the time runs. */
export async function deliverRound(connect, { count, inFlight }) {
  const client = await connect();
  try {
    const topic = newTopic();
    await publishAll(client, topic, count, inFlight);
    let left = count;
    let done;
    const all = new Promise((resolve) => (done = resolve));
    const start = performance.now();
    await client.subscribe(topic, "bench", () => --left === 0 && done(), { from: "earliest", maxInFlight: inFlight });
    await all;
    // Comes after the acknowledgements on the same connection, and its answer after the hub has read them.
    await client.publish(topic, null);
    return (count * 1000) / (performance.now() - start);
  } finally {
    await client.close();
  }
}

/** Publishes, receives and acknowledges `count` events by one client, in parts; calls `part` with how many after each. */
export async function longRun(connect, { count, inFlight, part }) {
  const client = await connect();
  try {
    const topic = newTopic();
    let got = 0;
    let want = 0;
    let reached = () => {};
    await client.subscribe(topic, "bench", () => ++got === want && reached(), { maxInFlight: inFlight });
    while (got < count) {
      want = Math.min(got + 20_000, count);
      const all = new Promise((resolve) => (reached = resolve));
      await publishAll(client, topic, want - got, inFlight);
      if (got < want) await all;
      await part(got);
    }
  } finally {
    await client.close();
  }
}
