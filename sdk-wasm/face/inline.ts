/**
 * The SDK in one file, with the module inside, for what cannot fetch a file from beside a script: esbuild, plain Rollup,
 * the development servers of bundlers, a page that is one file. `bundle.mjs` makes `dist/single/inline.js` of it.
 */

import { BaseClient } from "./client.js";
import { loader } from "./load.js";
import type { ClientOptions, TokenSource } from "./types.js";

export * from "./exports.js";

// Decoded when the first client is used, not when a page starts.
const load = loader(async () => {
  const { default: base64 } = await import("./module.js");
  return Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
});

/** The client. One instance, one connection, any number of subscriptions. */
export class PromClient extends BaseClient {
  constructor(url: string, token: TokenSource, options?: ClientOptions) {
    super({ load }, url, token, options);
  }
}
