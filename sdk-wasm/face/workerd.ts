/** The SDK for Cloudflare's workers: nothing may be compiled there at run time, so the bundler brings the module compiled. */

import { BaseClient } from "./client.js";
import { loader } from "./load.js";
import module from "./prom_sdk_bg.wasm";
import type { Topics } from "./types.js";

export * from "./exports.js";

/** The client. One instance, one connection, any number of subscriptions. */
export class PromClient<M extends Topics = Topics> extends BaseClient<M> {
  /** @internal */
  static override environment = { load: loader(() => module) };
}
