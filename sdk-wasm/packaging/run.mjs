// Packs the package, installs it in clean folders, and runs it there as its users do: against a real hub (PROM_BIN), in a
// real Chromium. `--quick`: the cheap ones. Words: only consumers with one of them in their names.
//
//   npm run packaging -w @prom-hub/sdk [-- --quick] [-- vite jest]

import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { transform } from "esbuild";

import { apps } from "./consumers.mjs";
import { startHub } from "./lib/hub.mjs";
import { cleanUp, folder, run, start } from "./lib/run.mjs";
import { closeBrowser } from "./lib/web.mjs";

const LIMIT_MINUTES = 30;
/** Apps at a time: they wait for disk and network as much as they compute. */
const AT_ONCE = 2;

const here = fileURLToPath(new URL("./", import.meta.url));
const words = process.argv.slice(2).filter((word) => !word.startsWith("--"));
const quick = process.argv.includes("--quick");

async function pack() {
  const into = folder("tarball");
  const printed = await run("npm", ["pack", "--json", "--pack-destination", into], { cwd: join(here, "..") });
  const names = printed.match(/[\w.-]+\.tgz/g);
  return join(into, names.at(-1));
}

/** The clean folder of an app, with all it needs installed. */
async function install({ name, fixtures, packages, type = "module" }, tarball) {
  const cwd = folder(name.replace(/\W+/g, "-"));
  const dependencies = { "@prom-hub/sdk": `file:${tarball}`, ...packages };
  await writeFile(join(cwd, "package.json"), JSON.stringify({ name: "app", private: true, type, dependencies }));
  for (const fixture of fixtures) await cp(join(here, "fixtures", fixture), cwd, { recursive: true });
  const scenario = await readFile(join(here, "fixtures/scenario.js"), "utf8");
  const { code } = type === "module" ? { code: scenario } : await transform(scenario, { format: "cjs" });
  await writeFile(join(cwd, "scenario.js"), code);
  const args = ["install", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  await run("npm", args, { cwd });
  return cwd;
}

let failures = 0;
const wanted = (consumer) => words.length === 0 || words.some((word) => consumer.toLowerCase().includes(word.toLowerCase()));

/** Runs one step and prints one line of it. */
async function step(name, body) {
  const begin = performance.now();
  const line = (result) => console.log(`${name.padEnd(36)} ${result.padEnd(7)} ${((performance.now() - begin) / 1000).toFixed(1)} s`);
  try {
    await body();
    line("ok");
    return true;
  } catch (error) {
    failures += 1;
    line("FAILED");
    console.log(error.message.trim().replace(/^/gm, "    "));
    return false;
  }
}

async function runApp(app, tarball, hub) {
  const consumers = Object.entries(app.consumers).filter(([name]) => wanted(name));
  if (consumers.length === 0) return;
  let context;
  const prepared = await step(`${app.name}: install`, async () => {
    const cwd = await install(app, tarball);
    // Not through npx, which takes some options for its own.
    const path = (tool) => join(cwd, "node_modules/.bin", tool);
    context = {
      cwd,
      program: (name, args) => run(join(cwd, "node_modules", name), args, { cwd }),
      node: (args) => run("node", args, { cwd }),
      tool: ([tool, ...args], options) => run(path(tool), args, { cwd, ...options }),
      start: ([tool, ...args]) => start(path(tool), args, { cwd }),
    };
    await app.prepare?.(context);
  });
  for (const [name, consumer] of consumers) {
    // A topic for each, so that none takes another's events.
    let count = 0;
    const topic = name.toLowerCase().replace(/\W+/g, "-");
    const own = { ...context, parameters: (more) => ({ ...hub, name: `${topic}-${(count += 1)}`, ...more }) };
    if (prepared) await step(name, () => consumer(own));
    else console.log(`${name.padEnd(36)} FAILED  not installed`);
  }
}

async function main() {
  const tarball = await pack();
  const hub = await startHub();
  const queue = apps({ tarball }).filter((app) => app.quick || !quick);
  const lane = async () => {
    for (let app = queue.shift(); app; app = queue.shift()) await runApp(app, tarball, hub);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
}

async function end(code) {
  await closeBrowser();
  await cleanUp();
  process.exit(code);
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => void end(1));
// Nobody reads on (`| head`): without this the hub and the folders would stay.
process.stdout.once("error", () => void end(1)).on("error", () => undefined);
setTimeout(() => {
  console.log(`not done after ${LIMIT_MINUTES} minutes`);
  void end(1);
}, LIMIT_MINUTES * 60_000).unref();

try {
  await main();
} catch (error) {
  failures += 1;
  console.log(error.stack);
}
console.log(failures === 0 ? "every consumer works" : `${failures} failed`);
await end(failures === 0 ? 0 : 1);
