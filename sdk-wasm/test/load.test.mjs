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
    const hub = await FakeHub.start();
    const { PromClient } = await import("@prom-hub/sdk");
    const client = new PromClient(hub.url, "t");
    let finish;
    await client.subscribe("a", "g", () => new Promise((resolve) => (finish = resolve)));
    hub.publish("a", 1);
    await hub.until(() => hub.of("MODACK").length === 1);
    assert.equal(hub.of("MODACK")[0].extend_ms, 300_000);
    page.hidden = false;
    page.dispatchEvent(new Event("visibilitychange"));
    page.hidden = true;
    page.dispatchEvent(new Event("visibilitychange"));
    await hub.until(() => hub.of("MODACK").length === 2);
    finish();
    await hub.until(() => hub.of("ACK").length === 1);
    await client.close();
    page.dispatchEvent(new Event("visibilitychange"));
    delete globalThis.document;
    await hub.stop();
    assert.equal(hub.of("MODACK").length, 2);
  });
});
