/** The SDK for Node: the module comes as a script, for servers that are bundled, and engines without a WebSocket get that of `ws`. */

import { WebSocket } from "ws";

import { BaseClient } from "./client.js";
import { loader } from "./load.js";
import type { ClientOptions, TokenSource, WebSocketConstructor } from "./types.js";

export * from "./exports.js";

const load = loader(async () => Buffer.from((await import("./module.js")).default, "base64"));

/** The client. One instance, one connection, any number of subscriptions. */
export class PromClient extends BaseClient {
  constructor(url: string, token: TokenSource, options?: ClientOptions) {
    const native = (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
    super({ load, WebSocket: native ?? (WebSocket as unknown as WebSocketConstructor) }, url, token, options);
  }
}
