/** The SDK for Node: the module comes as a script, for servers that are bundled, and engines without a WebSocket get that of `ws`. */

import { WebSocket } from "ws";

import { clientOf, type Client } from "./client.js";
import { loader } from "./load.js";
import type { WebSocketConstructor } from "./types.js";

export * from "./exports.js";

export const PromClient = clientOf({
  load: loader(async () => Buffer.from((await import("./module.js")).default, "base64")), WebSocket: WebSocket as unknown as WebSocketConstructor,
});
export type PromClient<M extends object = object> = Client<M>;
