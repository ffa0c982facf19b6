// A real hub as its own process, in a folder and on a port of its own.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));

/** The binary under test. */
export const PROM = resolve(root, process.env.PROM_BIN ?? "target/debug/prom");

/** Waits until `check` gives something truthy. The deadline is far beyond what is waited for. */
export async function until(what, check, ms = 120_000) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await check();
    if (value) return value;
    if (Date.now() > end) throw new Error(`waited ${ms} ms for ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

export async function temporaryFolder() {
  const path = await mkdtemp(join(tmpdir(), "prom-e2e-"));
  return { path, remove: () => rm(path, { recursive: true, force: true }) };
}

/** Starts `prom <args>` and collects what it prints. */
export function start(args, { env = {}, cwd } = {}) {
  const child = spawn(PROM, args, { cwd, env: { ...cleanEnvironment(), ...env }, stdio: ["pipe", "pipe", "pipe"] });
  const running = { child, pid: child.pid, out: "", err: "" };
  child.stdout.setEncoding("utf8").on("data", (text) => (running.out += text));
  child.stderr.setEncoding("utf8").on("data", (text) => (running.err += text));
  const ended = once(child, "exit").then(([code, signal]) => ({ code, signal }));
  running.ended = ended;
  running.stop = async (signal = "SIGTERM") => {
    if (child.exitCode === null && child.signalCode === null) child.kill(signal);
    return ended;
  };
  return running;
}

/** What surrounds this test run must not configure the hubs it starts. */
function cleanEnvironment() {
  const own = /^(WS_|OPS_|JWT_|PROM_|MONGO_|BIND$|RUST_LOG$)/;
  const rest = Object.entries(process.env).filter(([name]) => !own.test(name));
  // Many hubs run at once; each takes a free port for operators unless a test names one.
  return { ...Object.fromEntries(rest), OPS_PORT: "0" };
}

/** A `prom dev` with its page, this machine's processes and a token for everything. */
export async function devHub({ port, cwd, args = [], env = {} }) {
  const hub = start(["dev", "--port", String(port), ...args], { cwd, env });
  const url = await until("the page's URL", () => {
    if (hub.child.exitCode !== null) throw new Error(`prom dev ended: ${hub.out}${hub.err}`);
    return hub.out.match(/http:\/\/\S+/)?.[0];
  });
  const mint = start(["token", "mint", "--scope", "*:**", "--ttl", "1h"], { cwd });
  await mint.ended;
  return Object.assign(hub, { url, ws: `ws://127.0.0.1:${port}/ws`, token: mint.out.trim() });
}
