/** The SDK for Cloudflare's workers: nothing may be compiled there at run time, so the bundler brings the module compiled. */

import { clientOf, type Client } from "./client.js";
import { loader } from "./load.js";
import module from "./prom_sdk_bg.wasm";

export * from "./exports.js";

export const PromClient = clientOf({ load: loader(() => module) });
export type PromClient<M extends object = object> = Client<M>;
