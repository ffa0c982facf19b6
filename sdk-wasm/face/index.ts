/** The SDK for pages: the module is fetched from beside this file on first use. */

import { clientOf, type Client } from "./client.js";
import { loader } from "./load.js";

export * from "./exports.js";

export const PromClient = clientOf({ load: loader(() => new URL("./prom_sdk_bg.wasm", import.meta.url)) });
export type PromClient<M extends object = object> = Client<M>;
