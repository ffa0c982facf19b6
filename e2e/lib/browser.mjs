// A real Chromium.

import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const shots = fileURLToPath(new URL("../screenshots/", import.meta.url));

/** Deadline of every wait in a page: far beyond what is waited for. */
const PATIENCE = 120_000;

export function launch() {
  return chromium.launch({
    timeout: PATIENCE,
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--no-first-run",
    ],
  });
}

/** A page whose errors fail the test that made it. */
export async function openPage(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(`page: ${error.message}`));
  page.on("console", (message) => {
    // A lost connection is a part of some tests, and Chromium reports it.
    if (message.type() === "error" && !/WebSocket|ERR_CONNECTION_REFUSED/.test(message.text())) errors.push(message.text());
  });
  await page.goto(url);
  return Object.assign(page, { errors, closeAll: () => context.close() });
}

/** Keeps a picture for people to look at. */
export async function shot(page, name) {
  mkdirSync(shots, { recursive: true });
  await page.screenshot({ path: `${shots}${name}.png` });
}
