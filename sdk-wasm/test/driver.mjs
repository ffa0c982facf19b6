// The driver of this SDK for the conformance suite.

import { PromClient } from "@prom-hub/sdk";

import { serve } from "../../conformance/js/serve.mjs";

let client;
const views = new Map();

const can = ["subscribe", "unsubscribe", "live", "watch", "reconnect", "ping", "renew", "extend", "exclusive", "batch", "drain"];

serve(can, {
  connect: async ({ url, token, tokens, options }, say) => {
    let asked = 0;
    client = new PromClient(url, tokens ? () => tokens[Math.min(asked++, tokens.length - 1)] : token, options);
    client.on("state", ({ state, error }) => say({ state, error }));
    client.on("gap", (gap) => say({ gap }));
    client.on("revoked", ({ topic, group, error }) => say({ revoked: { topic, group, code: error.code } }));
    client.on("error", ({ code, message }) => say({ unasked: { code, message } }));
    await client.connect();
  },
  publish: ({ topic, payload, options }) => client.publish(topic, payload, options),
  subscribe: ({ topic, group, handler, options }) => client.subscribe(topic, group, (event, { attempt }) => handler(event, attempt), options),
  unsubscribe: ({ topic, group }) => client.unsubscribe(topic, group),
  live: async ({ topic, options }, say) => void (await client.live(topic, (event) => say({ event }), options)),
  watch: async ({ topic }) => void views.set(topic, await client.watch(topic)),
  view: ({ topic }) => Object.fromEntries([...views.get(topic)].map(([key, { payload }]) => [key, payload])),
  close: ({ drain, timeoutMs }) => client.close({ drain, timeoutMs }),
});
