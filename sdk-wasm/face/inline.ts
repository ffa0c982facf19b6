/** The SDK in one file, with the module inside, for what cannot fetch a file from beside a script: esbuild, plain Rollup, the development
 * servers of bundlers, a page that is one file. `bundle.mjs` makes `dist/single/inline.js` of it. */

import { clientOf, type Client } from "./client.js";
import { loader } from "./load.js";

export * from "./exports.js";

export const PromClient = clientOf({
  // Decoded when the first client is used, not when a page starts.
  load: loader(async () => Uint8Array.from(atob((await import("./module.js")).default), (char) => char.charCodeAt(0))),
});
export type PromClient<M extends object = object> = Client<M>;
