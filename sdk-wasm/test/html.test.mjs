// A server that answers every unknown address with the app's page (Vite's does in development, as do many hosts) gave
// "expected magic word 00 61 73 6d, found 3c 21 64 6f", which tells nobody what to do.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { it } from "node:test";

import { PromClient, setModule } from "@prom-hub/sdk/slim";

it("says that a page came in place of the module, from where, and what helps", async () => {
  const server = createServer((_, response) => response.writeHead(200, { "Content-Type": "text/html; charset=utf-8" }).end("<!doctype html>"));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}/assets/prom_sdk_bg.wasm`;
  setModule(new URL(url));
  const client = new PromClient("ws://127.0.0.1:9/", "t", { WebSocket: class {} });
  try {
    await assert.rejects(client.connect(), ({ code, message }) => {
      assert.equal(code, "load_failed");
      for (const part of [url, "HTML", "@prom-hub/sdk/inline"]) assert.ok(message.includes(part), `${part} is not in: ${message}`);
      return true;
    });
  } finally {
    server.close();
  }
});
