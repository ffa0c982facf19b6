import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { describe, it } from "node:test";

import { WebSocket } from "ws";

import { FakeHub } from "./fake-hub.mjs";

/** A fresh copy of an entry: its module is not loaded yet. */
let copies = 0;
const fresh = (entry) => import(`${import.meta.resolve(entry)}?copy=${copies++}`);

describe("loading", () => {
  it("uses the module a caller brings, and tries again after a failure", async () => {
    const hub = await FakeHub.start();
    const { PromClient, setModule } = await fresh("@prom-hub/sdk/slim");
    const client = new PromClient(hub.url, "t", { WebSocket });
    await assert.rejects(client.connect(), { code: "load_failed" });
    setModule(new Uint8Array([1, 2, 3]));
    await assert.rejects(client.connect(), { code: "load_failed", retryable: true });
    const bytes = await readFile(new URL(import.meta.resolve("@prom-hub/sdk/prom_sdk_bg.wasm")));

    let status = 503;
    const server = createServer((_, response) => {
      response.writeHead(status, { "Content-Type": "text/plain" });
      response.end(bytes);
    }).listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    setModule(new URL(`http://127.0.0.1:${server.address().port}/x.wasm`));
    await assert.rejects(client.connect(), { code: "load_failed" });
    status = 200;
    await client.connect(); // of the wrong type, and loaded all the same
    await client.close();
    server.close();
    await hub.stop();
  });

  it("asks for a longer lease up front in a hidden page", async () => {
    const page = Object.assign(new EventTarget(), { hidden: true });
    globalThis.document = page;
    // The modules behind an entry are shared, so this must be the first to load them with a page around.
    const { HandlerSink } = await import(new URL("./handler.js?hidden", import.meta.resolve("@prom-hub/sdk")).href);
    const extended = [];
    const engine = { connection: 1, extendQuietly: (_, ms) => extended.push(ms), ackQuietly() {} };
    const ctx = { attempt: 1, max_attempts: 5, ack_deadline_ms: 30_000, lease: "1", redelivered: false };
    let finish;
    const sink = new HandlerSink(engine, "a", "g", () => new Promise((resolve) => (finish = resolve)), {}, () => {});
    sink.event({ subscription: 1, connection: 1, event: { id: "e" }, ctx });
    assert.deepEqual(extended, [300_000]);
    page.hidden = false;
    page.dispatchEvent(new Event("visibilitychange"));
    assert.equal(extended.length, 1);
    page.hidden = true;
    page.dispatchEvent(new Event("visibilitychange"));
    assert.equal(extended.length, 2);
    finish();
    sink.ended();
    delete globalThis.document;
  });
});
