/** The SDK for Node: the module comes as a script, for servers that are bundled, and engines without a WebSocket get that of `ws`. */

import { WebSocket } from "ws";

import { BaseClient } from "./client.js";
import { loader } from "./load.js";
import type { Topics, WebSocketConstructor } from "./types.js";

export * from "./exports.js";

/** The client. One instance, one connection, any number of subscriptions. */
export class PromClient<M extends Topics = Topics> extends BaseClient<M> {
  /** @internal */
  static override environment = {
    load: loader(async () => Buffer.from((await import("./module.js")).default, "base64")),
    get WebSocket(): WebSocketConstructor {
      return (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket ?? (WebSocket as unknown as WebSocketConstructor);
    },
  };
}
