// A real hub, from the program that PROM_BIN names.

import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { folder, start, until } from "./run.mjs";

const root = fileURLToPath(new URL("../../../", import.meta.url));

export async function startHub() {
  const program = resolve(root, process.env.PROM_BIN ?? "target/debug/prom");
  const cwd = folder("hub");
  const args = ["dev", "--port", "0", "--ops-port", "0", "--data", join(cwd, "data"), "--no-heartbeat"];
  const hub = start(program, args, { cwd });
  let ended;
  void hub.ended.then((end) => (ended = end));
  return until("the hub's URL and token", () => {
    if (ended) throw new Error(`the hub ${program} ended: ${ended.error?.message ?? ""}\n${hub.printed()}`);
    const url = hub.printed().match(/ws:\/\/\S+/)?.[0];
    const token = hub.printed().match(/Token\s+(\S+)\s/)?.[1];
    // Not `url`: in a page's address that has a meaning of its own for Vite.
    return url && token && { hub: url, token };
  });
}
