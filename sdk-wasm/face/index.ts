/** The SDK for pages: the module is fetched from beside this file on first use. */

import { BaseClient } from "./client.js";
import { loader } from "./load.js";
import type { ClientOptions, TokenSource, Topics } from "./types.js";

export * from "./exports.js";

const load = loader(() => new URL("./prom_sdk_bg.wasm", import.meta.url));

/** The client. One instance, one connection, any number of subscriptions. */
export class PromClient<M extends Topics = Topics> extends BaseClient<M> {
  constructor(url: string, token: TokenSource, options?: ClientOptions) {
    super({ load }, url, token, options);
  }
}
