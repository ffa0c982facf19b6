// The live page, in a real Chromium, on a real hub, with the real processes of this machine.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, test } from "node:test";

import { launch, openPage, shot } from "../lib/browser.mjs";
import { devHub, freePort, temporaryFolder, until } from "../lib/hub.mjs";

let folder;
let port;
let hub;
let browser;
let page;
const children = [];

/** A process that works a little, so that it is among the busiest. */
function worker() {
  const child = spawn(process.execPath, ["-e", "setInterval(() => { const end = Date.now() + 30; while (Date.now() < end); }, 50)"]);
  children.push(child);
  return child;
}

before(async () => {
  folder = await temporaryFolder();
  port = await freePort();
  hub = await devHub({ port, cwd: folder.path });
  browser = await launch();
  page = await openPage(browser, hub.url);
});

after(async () => {
  children.forEach((child) => child.kill("SIGKILL"));
  await browser?.close();
  await hub?.stop();
  await folder?.remove();
});

const row = (pid) => page.locator(`[data-row="process"][data-pid="${pid}"]`);
const connection = () => page.getAttribute("body", "data-connection");

/** The rows on screen; the list is virtual, so only those exist. */
const rows = () =>
  page.$$eval('[data-row="process"]', (all) =>
    all.map((row) => ({
      pid: Number(row.dataset.pid),
      status: row.dataset.status,
      name: row.querySelector('[data-cell="name"]')?.textContent ?? "",
      cpu: row.querySelector('[data-cell="cpu"]')?.textContent ?? "",
    })),
  );

async function filter(text) {
  await page.fill("#filter", text);
}

test("shows at least ten real processes, the hub's own among them, with CPU that changes", async () => {
  await until("the page to be ready", async () => (await connection()) === "ready");
  const list = await until("ten rows", async () => {
    const list = await rows();
    return list.length >= 10 && list;
  });
  assert.ok(list.every((row) => row.pid > 0 && row.name.length > 0));
  await until("CPU values of three processes or more to change", async () => {
    const now = new Map((await rows()).map((row) => [row.pid, row.cpu]));
    const changed = list.filter((row) => now.has(row.pid) && now.get(row.pid) !== row.cpu);
    return changed.length >= 1;
  });
  await filter(String(hub.pid));
  await row(hub.pid).waitFor();
  assert.match(await row(hub.pid).locator('[data-cell="name"]').textContent(), /prom/);
  await filter("");
  await shot(page, "live");
});

test("the token leaves the address bar and a reload works", async () => {
  assert.equal(new URL(page.url()).hash, "");
  await page.reload();
  await until("rows after the reload", async () => (await rows()).length >= 10);
});

test("filters by name, and Escape clears the filter", async () => {
  // The header follows the rows a moment later.
  await until("the count of processes", async () => Number((await page.textContent("#count")).replace(/\D/g, "")) >= 10);
  await page.keyboard.press("/");
  await page.keyboard.type("prom");
  await until("only matching rows", async () => {
    const list = await rows();
    return list.length > 0 && list.every((row) => row.name.includes("prom"));
  });
  await page.keyboard.press("Escape");
  await until("all rows again", async () => (await rows()).length >= 10);
});

test("sorts by memory, both ways", async () => {
  const memory = () =>
    page.$$eval('[data-row="process"]', (all) =>
      all
        .sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)
        .map((row) => row.querySelector('[data-cell="mem"]')?.textContent ?? ""),
    );
  const size = (text) => {
    const [, number, unit] = text.match(/([\d.,]+)\s*([KMGT])?/) ?? [];
    return Number(number?.replace(",", "")) * { K: 1 / 1024, M: 1, G: 1024, T: 1024 * 1024 }[unit ?? "M"];
  };
  const direction = () => page.locator('[role="columnheader"]:has([data-sort="mem"])').getAttribute("aria-sort");
  const seen = new Set();
  for (let click = 0; click < 2; click++) {
    await page.click('[data-sort="mem"]');
    const sign = (await direction()) === "ascending" ? 1 : -1;
    seen.add(sign);
    // A value may change between two sorts by less than its last digit shows.
    await until(`memory to be ${await direction()}`, async () => {
      const sizes = (await memory()).map(size).slice(0, 8);
      return sizes.length >= 5 && sizes.every((value, i) => i === 0 || sign * (value - sizes[i - 1]) >= -1);
    });
  }
  assert.equal(seen.size, 2);
  await page.click('[data-sort="name"]');
});

test("light and dark can be switched and are remembered", async () => {
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const one = await background();
  await page.click("#theme");
  await until("another background", async () => (await background()) !== one);
  await shot(page, "other-theme");
  await page.reload();
  await until("the page to be ready", async () => (await connection()) === "ready");
  assert.notEqual(await background(), one);
  await page.click("#theme");
});

test("a process that is killed turns stale within 25 seconds", async () => {
  const victim = worker();
  const started = Date.now();
  await filter(String(victim.pid));
  await row(victim.pid).waitFor();
  await until("the process to be alive", async () => (await row(victim.pid).getAttribute("data-status")) === "alive");
  // How long anything takes here to come to the page.
  const usual = Date.now() - started;
  const killed = Date.now();
  victim.kill("SIGKILL");
  await until("its row to be stale", async () => (await row(victim.pid).getAttribute("data-status")) === "stale");
  const stale = Date.now() - killed;
  console.log(`stale after ${(stale / 1000).toFixed(1)} s, where it was shown after ${(usual / 1000).toFixed(1)} s`);
  assert.ok(stale < 25_000 + usual, `${stale} ms`);
  await shot(page, "stale");
  await filter("");
});

test("the page goes on by itself when the hub is restarted", async () => {
  await hub.stop();
  await until("the page to notice", async () => (await connection()) === "reconnecting");
  await shot(page, "reconnecting");
  hub = await devHub({ port, cwd: folder.path });
  await until("the page to be ready again", async () => (await connection()) === "ready");
  await filter(String(hub.pid));
  await row(hub.pid).waitFor();
  await filter("");
  await until("ten rows", async () => (await rows()).length >= 10);
});

test("the page goes on by itself when the hub is killed, and what ended meanwhile is known and turns stale", async () => {
  const victim = worker();
  await filter(String(victim.pid));
  await row(victim.pid).waitFor();
  await until("the process to be alive", async () => (await row(victim.pid).getAttribute("data-status")) === "alive");
  // Heartbeats come every second, so this is among them.
  await hub.stop("SIGKILL");
  await until("the page to notice", async () => (await connection()) === "reconnecting");
  victim.kill("SIGKILL");
  hub = await devHub({ port, cwd: folder.path });
  assert.doesNotMatch(hub.err, /damaged|panicked|ERROR/);
  await until("the page to be ready again", async () => (await connection()) === "ready");
  // Nobody beats for it any more: only the log can know it.
  await until("its row to be stale", async () => (await row(victim.pid).getAttribute("data-status")) === "stale");
  await filter(String(hub.pid));
  await row(hub.pid).waitFor();
  await until("the new hub to be alive", async () => (await row(hub.pid).getAttribute("data-status")) === "alive");
  await filter("");
  await until("ten rows", async () => (await rows()).length >= 10);
});

test("works on a narrow screen and with a bad token asks for another", async () => {
  const narrow = await openPage(browser, `http://127.0.0.1:${port}/#token=nonsense`, { viewport: { width: 360, height: 720 } });
  await narrow.waitForSelector("#token-panel", { state: "visible" });
  await shot(narrow, "token");
  await narrow.fill("#token-input", hub.token);
  await narrow.click("#token-submit");
  await narrow.waitForSelector('[data-row="process"]');
  await shot(narrow, "narrow");
  const overflow = await narrow.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert.ok(overflow <= 0, `the page is ${overflow} px too wide`);
  assert.deepEqual(narrow.errors, []);
  await narrow.closeAll();
});

test("nothing went wrong in the page", () => {
  assert.deepEqual(page.errors, []);
});
