// The driver of the client that one writes by hand in sixty lines: what it cannot do is skipped.

import { WebSocket } from "ws";

import { PlainClient } from "../../bench/js/plain.mjs";
import { serve } from "./serve.mjs";

/** Of the protocol's table of errors; the client itself does not know. */
const TEMPORARY = ["rate_limited", "overloaded", "ack_failed", "store_unavailable", "shutting_down", "internal"];

let client;
let closed = false;

/** The outcome of a call, with errors as a driver tells them. */
async function told(call) {
  if (closed) throw Object.assign(new Error("the client is closed"), { code: "closed" });
  try {
    return await call();
  } catch (error) {
    throw Object.assign(error, { retryable: TEMPORARY.includes(error.code), retryAfterMs: error.retry_after_ms });
  }
}

serve(["subscribe"], {
  connect: ({ url, token }) => told(async () => void (client = await PlainClient.connect(url, token, WebSocket))),
  publish: ({ topic, payload, options: { timeoutMs, ...opts } = {} }) =>
    told(async () => {
      const { id, seq, duplicate = false } = await client.publish(topic, payload, opts);
      return { id, seq, duplicate };
    }),
  subscribe: ({ topic, group, handler, options }) =>
    told(async () => void (await client.subscribe(topic, group, (event, ctx) => handler(event, ctx.attempt), options))),
  close: async () => {
    closed = true;
    await client.close();
  },
});
