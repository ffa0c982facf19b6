/** Loading the module: once, and again only if it failed. */

import { HubError } from "./error.js";
import init from "./prom_sdk.js";

/** What the module can be made of. */
export type ModuleSource = ArrayBuffer | ArrayBufferView | CompiledModule | Response | URL;
type Source = () => ModuleSource | Promise<ModuleSource>;
/** `WebAssembly.Module`, where the compiler knows it: a project without the library `dom` does not. */
type CompiledModule = typeof globalThis extends { WebAssembly: { Module: new (...args: never[]) => infer M } } ? M : never;

/** A function that loads the module from what `source` gives, on its first call and again after a failure. */
export function loader(source: Source): () => Promise<unknown> {
  let loading: Promise<unknown> | undefined;
  return () => (loading ??= start(source).catch((error: unknown) => {
    loading = undefined;
    if (error instanceof HubError) throw error;
    throw new HubError("load_failed", `the SDK's module could not be loaded: ${error instanceof Error ? error.message : String(error)}`, true);
  }));
}

async function start(source: Source): Promise<unknown> {
  let module = await source();
  if (module instanceof URL) module = await fetch(module);
  if (typeof Response !== "undefined" && module instanceof Response) {
    if (!module.ok) throw new Error(`HTTP ${module.status} for ${module.url}`);
    const type = module.headers.get("Content-Type");
    if (type?.startsWith("text/html")) throw new Error(`HTML came for ${module.url}: put the file there, or import "@prom-hub/sdk/inline"`);
    // A server that does not know the type of `.wasm` is no reason to fail, nor to warn the page's visitors.
    if (type !== "application/wasm") module = await module.arrayBuffer();
  }
  return init({ module_or_path: module });
}
