// Programs and folders of one run: each program has a deadline, and all that is started or made here is ended and removed.

import { spawn } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const running = new Set();
const folders = new Set();
/** From the clean-up on nothing more is started or made. */
let over = false;

/** What `npm run` sets for its own script, and would steer the npm that runs in a consumer's folder. */
const OF_NPM_RUN = /^(npm_(config_(workspaces?|local_prefix|prefix)|package_|lifecycle_)|INIT_CWD$|NODE_ENV$|NODE_OPTIONS$)/i;

function environment(more) {
  const clean = Object.entries(process.env).filter(([name]) => !OF_NPM_RUN.test(name));
  return { ...Object.fromEntries(clean), CI: "true", NO_COLOR: "1", NEXT_TELEMETRY_DISABLED: "1", ...more };
}

/** Starts a program with its own process group. `printed()` is all it has written so far; `stop` ends the group. */
export function start(command, args, { cwd, env = {} }) {
  if (over) throw new Error("the run is over");
  const child = spawn(command, args, { cwd, env: environment(env), detached: true, stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (more) => (text += more));
  const ended = new Promise((resolve) => {
    child.on("error", (error) => resolve({ code: -1, error }));
    child.on("close", (code, signal) => resolve({ code: code ?? -1, signal }));
  });
  const signal = (name) => {
    try {
      process.kill(-child.pid, name);
    } catch {
      // It has ended.
    }
  };
  const stop = async () => {
    signal("SIGTERM");
    const late = setTimeout(() => signal("SIGKILL"), 5_000);
    await ended;
    clearTimeout(late);
    // What it started may have outlived it.
    signal("SIGKILL");
    running.delete(stop);
  };
  running.add(stop);
  return { ended, stop, printed: () => text };
}

/** Runs a program to its end and gives what it printed; fails with it when the program fails or takes too long. */
export async function run(command, args, { seconds = 300, ...options }) {
  const program = start(command, args, options);
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    void program.stop();
  }, seconds * 1000);
  const { code, error } = await program.ended;
  clearTimeout(timer);
  await program.stop();
  if (late) throw new Error(`${command} ${args.join(" ")}: not done after ${seconds} s\n${program.printed()}`);
  if (code !== 0) throw new Error(`${command} ${args.join(" ")}: ${error?.message ?? `exit ${code}`}\n${program.printed()}`);
  return program.printed();
}

export function folder(name) {
  if (over) throw new Error("the run is over");
  const path = mkdtempSync(join(tmpdir(), `prom-packaging-${name}-`));
  folders.add(path);
  return path;
}

export async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Waits until `condition` gives something; `what` says in the error what was waited for. */
export async function until(what, condition, seconds = 120) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`${what}: not after ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export async function cleanUp() {
  over = true;
  await Promise.all([...running].map((stop) => stop()));
  await Promise.all([...folders].map((path) => rm(path, { recursive: true, force: true, maxRetries: 5 })));
}
