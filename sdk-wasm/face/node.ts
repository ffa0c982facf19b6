/** The SDK for Node: the module comes as a script, for servers that are bundled, and engines without a WebSocket get that of `ws`. */

import { WebSocket } from "ws";

import { clientOf, type Client, type Topics } from "./client.js";
import { loader } from "./load.js";
import type { WebSocketConstructor } from "./types.js";

export * from "./exports.js";

const load = loader(async () => Buffer.from((await import("./module.js")).default, "base64"));

export const PromClient = clientOf({ load, WebSocket: WebSocket as unknown as WebSocketConstructor });
export type PromClient<M extends Topics = Topics> = Client<M>;
