// Real MongoDB replica sets, by the program `prom-mongod` (mongod/src/main.rs), which ends them when this process is over.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));
const PROM_MONGOD = resolve(root, process.env.PROM_MONGOD_BIN ?? "target/debug/prom-mongod");

/** Starts a replica set of so many nodes in a temporary folder, and waits for its primary. Nodes are numbers, from 0. */
export async function replicaSet(nodes) {
  const child = spawn(PROM_MONGOD, [String(nodes)], { stdio: ["pipe", "pipe", "inherit"] });
  // Rejects when the program cannot be run.
  await once(child, "spawn");
  const ended = once(child, "exit");
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const answer = async () => {
    const { value, done } = await lines.next();
    const said = done ? { error: "it ended; its reason is above" } : JSON.parse(value);
    if (said.error) throw new Error(`prom-mongod: ${said.error}`);
    return said;
  };
  const ask = (command) => (child.stdin.write(`${command}\n`), answer());
  const stop = () => (child.stdin.end(), ended);
  const { url } = await answer();
  return { url, stop, kill: (node) => ask(`kill ${node}`), primary: async () => (await ask("primary")).primary };
}
