/** The SDK for bundlers and strict pages that bring the module themselves: see `setModule`. */

import { clientOf, type Client } from "./client.js";
import { HubError } from "./error.js";
import { loader, type ModuleSource } from "./load.js";

export * from "./exports.js";
export type { ModuleSource } from "./load.js";

let given: ModuleSource | Promise<ModuleSource> | undefined;

/** Says what the module is made of: the bytes of `@prom-hub/sdk/prom_sdk_bg.wasm`, compiled, fetched, or where to fetch them. Call it before the first client is used. */
export function setModule(source: ModuleSource | Promise<ModuleSource>): void { given = source; }

export const PromClient = clientOf({ load: loader(() => given ?? Promise.reject(new HubError("load_failed", "call setModule() first", false))) });
export type PromClient<M extends object = object> = Client<M>;
