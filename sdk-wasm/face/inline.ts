/**
 * The SDK in one file, with the module inside, for what cannot fetch a file from beside a script: esbuild, plain Rollup,
 * the development servers of bundlers, a page that is one file. `bundle.mjs` makes `dist/single/inline.js` of it.
 */

import { clientOf, type Client, type Topics } from "./client.js";
import { loader } from "./load.js";

export * from "./exports.js";

// Decoded when the first client is used, not when a page starts.
const load = loader(async () => Uint8Array.from(atob((await import("./module.js")).default), (char) => char.charCodeAt(0)));

export const PromClient = clientOf({ load });
export type PromClient<M extends Topics = Topics> = Client<M>;
