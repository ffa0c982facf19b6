/**
 * The SDK beside a plain hand-written client, in interleaved rounds on one hub, in Node and in Chromium.
 *
 *     PROM_BIN=target/release/prom node bench/js/run.mjs [--rounds 5] [--count 20000] [--in-flight 500]
 *         [--only node|chromium] [--heap 1000000]
 *
 * Ratios are medians over the rounds of (this client / the plain client of the same round); what other work on the
 * machine does to one round it does to all clients of it. `CHROMIUM` names the browser.
 */

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { WebSocket } from "ws";

import { launch } from "../../e2e/lib/browser.mjs";
import { realHub } from "../../sdk-wasm/test/helpers.mjs";
import { clients, deliverRound, longRun, publishRound } from "./rounds.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    count: { type: "string", default: "20000" },
    "in-flight": { type: "string", default: "500" },
    only: { type: "string" },
    heap: { type: "string" },
  },
});
const number = (name) => {
  const value = Number(flags[name]);
  if (!Number.isInteger(value) || value < 1) throw new Error(`--${name} must be a whole number of at least 1`);
  return value;
};
const rounds = number("rounds");
const size = { count: number("count"), inFlight: number("in-flight") };
const heap = flags.heap === undefined ? 0 : number("heap");
if (![undefined, "node", "chromium"].includes(flags.only)) throw new Error("--only must be node or chromium");

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
const names = ["plain", "sdk", "sdk, batch"];

/** Rounds A B C A B C of both kinds; `run(kind, name)` gives one figure. Prints a line a client. */
async function compare(where, run) {
  for (const kind of ["publish", "deliver and ack"]) {
    const figures = Object.fromEntries(names.map((name) => [name, []]));
    for (let round = 0; round < rounds; round++) for (const name of names) figures[name].push(await run(kind, name));
    for (const name of names) {
      const ratio = median(figures[name].map((figure, round) => figure / figures.plain[round]));
      const [low, high] = [Math.min(...figures[name]), Math.max(...figures[name])].map(Math.round);
      const columns = [where.padEnd(9), kind.padEnd(16), name.padEnd(11), `${Math.round(median(figures[name]))}`.padStart(8), `${low}..${high}`.padStart(16), ratio.toFixed(2).padStart(6)];
      console.log(columns.join(" "));
    }
  }
}

function heapLine(where, name, marks) {
  console.log(`${where.padEnd(9)} heap, MiB, after ${marks.map(([got, bytes]) => `${got}: ${(bytes / 2 ** 20).toFixed(1)}`).join(", ")} events (${name})`);
}

/** About ten marks over the run, the first after a tenth: what warms up is in it. */
const markEvery = (read) => {
  const marks = [];
  const part = async (got) => {
    if (got >= ((marks.length + 1) * heap) / 10) marks.push([got, await read()]);
  };
  return { marks, part };
};

async function inNode(hub) {
  const sdk = await import("@prom-hub/sdk");
  const ways = clients({ ...hub, sdk, WebSocket });
  await compare("node", (kind, name) => (kind === "publish" ? publishRound : deliverRound)(ways[name], size));
  if (!heap) return;
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc");
  const { marks, part } = markEvery(() => (collect(), process.memoryUsage().heapUsed + process.memoryUsage().arrayBuffers));
  await longRun(ways["sdk, batch"], { count: heap, inFlight: size.inFlight, part });
  heapLine("node", "sdk, batch", marks);
}

/** Files of the checkout for the page, from a free port. */
async function files() {
  const types = { ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".html": "text/html" };
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    if (pathname === "/") return response.writeHead(200, { "Content-Type": "text/html" }).end("<!doctype html><title>bench</title>");
    try {
      const bytes = await readFile(join(root, normalize(pathname)));
      response.writeHead(200, { "Content-Type": types[extname(pathname)] ?? "application/octet-stream" }).end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, stop: () => (server.closeAllConnections(), server.close()) };
}

async function inChromium(hub) {
  const served = await files();
  const browser = await launch();
  const open = async () => {
    const context = await browser.newContext();
    const page = await context.newPage();
    await page.goto(served.url);
    return { page, context };
  };
  const login = { url: hub.url, token: hub.token };
  try {
    const firsts = [];
    const seconds = [];
    for (let round = 0; round < rounds; round++) {
      const { page, context } = await open();
      const [first, second] = await page.evaluate(async ({ url, token }) => {
        const connect = async () => {
          const start = performance.now();
          const { PromClient } = await import("/sdk-wasm/dist/index.js");
          const client = new PromClient(url, token);
          await client.connect();
          const took = performance.now() - start;
          await client.close();
          return took;
        };
        return [await connect(), await connect()];
      }, login);
      firsts.push(first);
      seconds.push(second);
      await context.close();
    }
    const { page, context } = await open();
    await page.evaluate(async (given) => {
      const { clients: ways, publishRound: publish, deliverRound: deliver, longRun: long } = await import("/bench/js/rounds.mjs");
      const sdk = await import("/sdk-wasm/dist/index.js");
      globalThis.bench = { ways: ways({ ...given, sdk, WebSocket }), publish, "deliver and ack": deliver, long };
    }, login);
    await compare("chromium", (kind, name) => page.evaluate(([what, who, how]) => bench[what](bench.ways[who], how), [kind, name, size]));
    console.log(`chromium  first connect ${median(firsts).toFixed(0)} ms, second client ${median(seconds).toFixed(1)} ms`);
    if (heap) {
      const devtools = await context.newCDPSession(page);
      const { marks, part } = markEvery(async () => {
        await devtools.send("HeapProfiler.collectGarbage");
        return (await devtools.send("Runtime.getHeapUsage")).usedSize;
      });
      await page.exposeFunction("part", part);
      await page.evaluate(([count, inFlight]) => bench.long(bench.ways["sdk, batch"], { count, inFlight, part: globalThis.part }), [heap, size.inFlight]);
      heapLine("chromium", "sdk, batch", marks);
    }
  } finally {
    await browser.close();
    served.stop();
  }
}

const hub = await realHub();
try {
  console.log(`${rounds} rounds of ${size.count} events, ${size.inFlight} in flight; figures a second: median, range; ratio to plain`);
  if (flags.only !== "chromium") await inNode(hub);
  if (flags.only !== "node") await inChromium(hub);
} finally {
  await hub.stop();
}
