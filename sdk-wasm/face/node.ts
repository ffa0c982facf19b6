/** The SDK for Node: the module is read from beside this file, and engines without a WebSocket get that of `ws`. */

import { readFile } from "node:fs/promises";
import { WebSocket } from "ws";

import { BaseClient } from "./client.js";
import { loader } from "./load.js";
import type { ClientOptions, TokenSource, Topics, WebSocketConstructor } from "./types.js";

export * from "./exports.js";

const load = loader(() => readFile(new URL("./prom_sdk_bg.wasm", import.meta.url)));

/** The client. One instance, one connection, any number of subscriptions. */
export class PromClient<M extends Topics = Topics> extends BaseClient<M> {
  constructor(url: string, token: TokenSource, options?: ClientOptions) {
    const native = (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
    super({ load, WebSocket: native ?? (WebSocket as unknown as WebSocketConstructor) }, url, token, options);
  }
}
