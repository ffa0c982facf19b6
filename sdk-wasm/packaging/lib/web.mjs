// Files over HTTP as a plain web server gives them, and pages in a real Chromium.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

import { chromium } from "playwright-core";

const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" };
/** Deadline of every wait in a page: far beyond what is waited for. */
const PATIENCE = 120_000;

/** Serves a folder; `csp` is the Content-Security-Policy of all it sends. */
export async function serve(root, csp) {
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    const path = join(root, normalize(pathname.endsWith("/") ? `${pathname}index.html` : pathname));
    try {
      const body = await readFile(path);
      const type = TYPES[extname(path)] ?? "application/octet-stream";
      response.writeHead(200, { "Content-Type": type, ...(csp && { "Content-Security-Policy": csp }) }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return { url: `http://127.0.0.1:${server.address().port}/`, close };
}

let browser;

async function launch() {
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

/** Opens a page that says in `data-result` of its root element how it went, and fails when that is not `ok`, or with any error in the page. */
export async function openPage(url, hub) {
  browser ??= launch();
  const context = await (await browser).newContext();
  try {
    context.setDefaultTimeout(PATIENCE);
    const page = await context.newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(error.message));
    page.on("console", (message) => {
      // A page without a picture of its own is no fault.
      const icon = message.location().url.endsWith("/favicon.ico");
      if (message.type() === "error" && !icon) errors.push(message.text());
    });
    await page.goto(`${url}?${new URLSearchParams(hub)}`);
    try {
      await page.waitForFunction(() => document.documentElement.dataset.result);
    } catch {
      throw new Error(`the page came to no end: ${errors.join("; ") || (await page.content()).slice(0, 500)}`);
    }
    const result = await page.evaluate(() => document.documentElement.dataset.result);
    if (result !== "ok") throw new Error(`the page says: ${result} ${errors.join("; ")}`);
    if (errors.length > 0) throw new Error(`errors in the page: ${errors.join("; ")}`);
  } finally {
    await context.close();
  }
}

export async function closeBrowser() {
  await (await browser)?.close();
}
