/** The SDK for Node: the module is read from beside this file, and engines without a WebSocket get that of `ws`. */

import { readFile } from "node:fs/promises";
import { WebSocket } from "ws";

import { BaseClient } from "./client.js";
import { loader } from "./load.js";
import type { Topics, WebSocketConstructor } from "./types.js";

export * from "./exports.js";

/** The client. One instance, one connection, any number of subscriptions. */
export class PromClient<M extends Topics = Topics> extends BaseClient<M> {
  /** @internal */
  static override environment = {
    load: loader(() => readFile(new URL("./prom_sdk_bg.wasm", import.meta.url))),
    get WebSocket(): WebSocketConstructor {
      return (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket ?? (WebSocket as unknown as WebSocketConstructor);
    },
  };
}
