/** The SDK for Cloudflare's workers: nothing may be compiled there at run time, so the bundler brings the module compiled. */

import { BaseClient } from "./client.js";
import { loader } from "./load.js";
import module from "./prom_sdk_bg.wasm";
import type { ClientOptions, TokenSource } from "./types.js";

export * from "./exports.js";

const load = loader(() => module);

/** The client. One instance, one connection, any number of subscriptions. */
export class PromClient extends BaseClient {
  constructor(url: string, token: TokenSource, options?: ClientOptions) {
    super({ load }, url, token, options);
  }
}
