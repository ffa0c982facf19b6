// The live page, unchanged, on a hub that keeps its events in a MongoDB replica set of three nodes.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, test } from "node:test";

import { launch, openPage, shot } from "../lib/browser.mjs";
import { devHub, freePort, temporaryFolder, until } from "../lib/hub.mjs";
import { replicaSet } from "../lib/mongod.mjs";

/** How long the page may stand still when the primary is gone. */
const LIMIT = 20_000;

let folder;
let set;
let hub;
let browser;
let page;
const children = [];

/** A process that is not among those the page shows yet. */
function newcomer() {
  const child = spawn(process.execPath, ["-e", "setInterval(() => { const end = Date.now() + 30; while (Date.now() < end); }, 50)"]);
  children.push(child);
  return child;
}

before(async () => {
  [folder, set] = await Promise.all([temporaryFolder(), replicaSet(3)]);
  hub = await devHub({ port: await freePort(), cwd: folder.path, env: { MONGO_URL: set.url } });
  browser = await launch();
  page = await openPage(browser, hub.url);
});

after(async () => {
  children.forEach((child) => child.kill("SIGKILL"));
  await browser?.close();
  await hub?.stop();
  await set?.stop();
  await folder?.remove();
});

/** Waits until the page shows a process as alive: its heartbeat was committed, projected, committed again and sent. */
async function shown(pid) {
  await page.fill("#filter", String(pid));
  const row = page.locator(`[data-row="process"][data-pid="${pid}"]`);
  await row.waitFor();
  await until("the process to be alive", async () => (await row.getAttribute("data-status")) === "alive");
}

test("shows the processes of this machine", async () => {
  await until("the page to be ready", async () => (await page.getAttribute("body", "data-connection")) === "ready");
  await shown(hub.pid);
  await shown(newcomer().pid);
});

test("goes on by itself within 20 s after the primary is killed", async (t) => {
  // How long a process takes here to come to the page when nothing is wrong.
  const started = Date.now();
  await shown(newcomer().pid);
  const usual = Date.now() - started;
  const primary = await set.primary();
  await set.kill(primary);
  const killed = Date.now();
  // It cannot be known from before.
  await shown(newcomer().pid);
  const stood = Date.now() - killed;
  const seconds = (ms) => (ms / 1000).toFixed(1);
  t.diagnostic(`the page stood still for ${seconds(stood)} s after the primary was killed; usual: ${seconds(usual)} s`);
  assert.ok(stood < LIMIT + 2 * usual, `${stood} ms`);
  assert.notEqual(await set.primary(), primary);
  assert.equal(await page.getAttribute("body", "data-connection"), "ready");
  await shot(page, "mongo-failover");
});

test("goes on when the hub is restarted, from what the set has", async () => {
  const { port } = new URL(hub.url);
  const known = newcomer();
  await shown(known.pid);
  await hub.stop();
  known.kill("SIGKILL");
  hub = await devHub({ port, cwd: folder.path, env: { MONGO_URL: set.url } });
  await until("the page to be ready again", async () => (await page.getAttribute("body", "data-connection")) === "ready");
  await page.reload();
  await page.fill("#filter", String(known.pid));
  // Nobody beats for it any more: only the set can know it.
  const row = page.locator(`[data-row="process"][data-pid="${known.pid}"]`);
  await until("its row to be stale", async () => (await row.getAttribute("data-status")) === "stale");
});

test("nothing went wrong in the page or the hub", () => {
  assert.deepEqual(page.errors, []);
  assert.doesNotMatch(hub.err, /panicked/);
});
