/** The SDK for pages: the module is fetched from beside this file on first use. */

import { BaseClient } from "./client.js";
import { loader } from "./load.js";
import type { Topics } from "./types.js";

export * from "./exports.js";

/** The client. One instance, one connection, any number of subscriptions. */
export class PromClient<M extends Topics = Topics> extends BaseClient<M> {
  /** @internal */
  static override environment = { load: loader(() => new URL("./prom_sdk_bg.wasm", import.meta.url)) };
}
