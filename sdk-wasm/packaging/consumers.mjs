// Whoever uses the package, with the versions they are tried in. An app is one clean folder with the packed package and
// what is pinned here; each of its consumers runs there. `quick`: few downloads, seconds; all others only in the full run.

import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { freePort, until } from "./lib/run.mjs";
import { openPage, serve } from "./lib/web.mjs";

const TYPESCRIPT = { typescript: "7.0.2", "@types/node": "26.6.7", "@types/react": "19.3.3" };
const NEXT = { next: "16.4.6", react: "19.3.1", "react-dom": "19.3.1" };
const STRICT_CSP = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'";
const WORKER_PLACES = ["worker", "shared"];

export function apps({ tarball }) {
  return [
    node(),
    lint(tarball),
    types("TypeScript 7", TYPESCRIPT, true),
    staticPages("static files", "index.js", (page) => ({
      "script type=module": page("page"),
      "strict CSP": page("page", STRICT_CSP),
      Worker: page("worker"),
      SharedWorker: page("shared"),
    })),
    staticPages("one static file", "single/inline.js", (page) => ({
      "script type=module, one file": page("page", STRICT_CSP),
    })),
    esbuild(),
    vite("8.4.0"),
    types("TypeScript 5", { ...TYPESCRIPT, typescript: "5.9.3" }, false),
    vite("7.3.8"),
    vite("6.4.6"),
    vite("5.4.21"),
    webpack(),
    rollup(),
    next(),
    vitest(),
    jest("30.5.2"),
    jest("29.7.0"),
    react("19.3.1"),
    react("18.3.1"),
    workers(),
    otherRuntimes(),
  ];
}

function node() {
  const script = (file) => (app) => app.node([file, JSON.stringify(app.parameters())]);
  return {
    name: "node",
    fixtures: ["node"],
    // Of the package itself; for the entries that leave it to the app.
    packages: {},
    quick: true,
    consumers: { "Node import": script("import.mjs"), "Node require": script("require.cjs") },
  };
}

/** As the packages of npm name their programs: without scripts at installation, which put them in place. */
function otherRuntimes() {
  const { platform, arch } = process;
  const bun = `@oven/bun-${platform}-${arch === "arm64" ? "aarch64" : arch}`;
  const deno = `@deno/${platform}-${arch}${platform === "linux" ? "-glibc" : ""}`;
  const script = (program, args) => (app) => app.program(program, ["run", ...args, "import.mjs", JSON.stringify(app.parameters())]);
  return {
    name: "other runtimes",
    fixtures: ["node"],
    packages: { [bun]: "1.4.5", [deno]: "2.9.6" },
    consumers: {
      Bun: script(`${bun}/bin/bun`, []),
      Deno: script(`${deno}/deno`, ["-A"]),
    },
  };
}

function lint(tarball) {
  const attw = ["attw", tarball, "--profile", "node16", "--exclude-entrypoints", "prom_sdk_bg.wasm", "package.json"];
  return {
    name: "lint",
    fixtures: [],
    packages: { publint: "0.3.25", "@arethetypeswrong/cli": "0.18.5" },
    quick: true,
    consumers: {
      publint: (app) => app.tool(["publint", "run", tarball, "--strict"]),
      // Module resolution of Node 10 knows no `exports`; TypeScript 7 has dropped it.
      attw: (app) => app.tool(attw),
    },
  };
}

function types(name, packages, quick) {
  const check = (resolution, compilerOptions, files) => async (app) => {
    const config = `tsconfig.${resolution}.json`;
    const options = { strict: true, noEmit: true, target: "es2022", types: ["node"], skipLibCheck: false, exactOptionalPropertyTypes: true };
    await writeFile(join(app.cwd, config), JSON.stringify({ compilerOptions: { ...options, ...compilerOptions }, files }));
    await app.tool(["tsc", "-p", config]);
  };
  const dom = ["es2023", "dom", "dom.iterable"];
  const node = (module) => ({ module, moduleResolution: module, lib: dom });
  return {
    name,
    fixtures: ["types"],
    packages,
    quick,
    async prepare(app) {
      await cp(join(app.cwd, "use.ts"), join(app.cwd, "use.cts"));
    },
    consumers: {
      [`${name} bundler`]: check("bundler", { module: "esnext", moduleResolution: "bundler", lib: dom }, ["use.ts", "hooks.ts"]),
      [`${name} node16`]: check("node16", node("node16"), ["use.ts", "use.cts", "hooks.ts"]),
      [`${name} nodenext`]: check("nodenext", node("nodenext"), ["use.ts", "use.cts", "hooks.ts"]),
      [`${name} without Node`]: check("nonode", { module: "esnext", moduleResolution: "bundler", lib: ["es2022", "dom"], types: [] }, ["hooks.ts"]),
      [`${name} without dom`]: check("nodom", { ...node("nodenext"), lib: ["es2023"] }, ["use.ts", "use.cts"]),
    },
  };
}

/** Opens `index.html` of a folder, with the SDK used in the page, in a Worker, or in a SharedWorker. */
async function open(app, root, place, csp) {
  const server = await serve(root, csp);
  try {
    await openPage(server.url, app.parameters({ place }));
  } finally {
    await server.close();
  }
}

/** Uses another entry of the package, or files, in the scripts of an app. */
async function importFrom(app, specifier) {
  for (const file of ["main.js", "worker.js"]) {
    const text = await readFile(join(app.cwd, file), "utf8");
    await writeFile(join(app.cwd, file), text.replace('"@prom-hub/sdk"', JSON.stringify(specifier)));
  }
}

function staticPages(name, entry, consumers) {
  const page = (place, csp) => (app) => open(app, app.cwd, place, csp && `${csp}; connect-src 'self' ${new URL(app.parameters().hub).origin}`);
  return {
    name,
    fixtures: ["web"],
    packages: {},
    quick: true,
    async prepare(app) {
      await cp(join(app.cwd, "node_modules/@prom-hub/sdk/dist"), join(app.cwd, "sdk"), { recursive: true });
      await importFrom(app, `./sdk/${entry}`);
    },
    consumers: consumers(page),
  };
}

function esbuild() {
  return {
    name: "esbuild",
    fixtures: ["web"],
    packages: { esbuild: "0.28.2" },
    quick: true,
    async prepare(app) {
      await importFrom(app, "@prom-hub/sdk/inline");
      await app.tool(["esbuild", "main.js", "worker.js", "--bundle", "--minify", "--format=esm", "--outdir=out"]);
      await cp(join(app.cwd, "index.html"), join(app.cwd, "out/index.html"));
    },
    consumers: {
      "esbuild /inline": (app) => open(app, join(app.cwd, "out"), "page"),
      "esbuild /inline, strict CSP": (app) => open(app, join(app.cwd, "out"), "page", `${STRICT_CSP}; connect-src ${new URL(app.parameters().hub).origin}`),
      "esbuild /inline, Worker": (app) => open(app, join(app.cwd, "out"), "worker"),
      async "one HTML file"(app) {
        const [html, script] = await Promise.all(["index.html", "out/main.js"].map((file) => readFile(join(app.cwd, file), "utf8")));
        const tag = '<script type="module" src="./main.js"></script>';
        await writeFile(join(app.cwd, "one.html"), html.replace(tag, () => `<script type="module">${script}</script>`));
        await openPage(`file://${join(app.cwd, "one.html")}`, app.parameters({ place: "page" }));
      },
    },
  };
}

/** Starts a server of the app on a free port, waits until it answers, and ends it after `use`. */
async function withServer(app, args, use) {
  const port = await freePort();
  const server = app.start(args(port));
  let ended = false;
  void server.ended.then(() => (ended = true));
  const url = `http://localhost:${port}/`;
  try {
    await until("the server's answer", async () => {
      if (ended) throw new Error("the server ended");
      return fetch(url).then((response) => response.ok, () => false);
    });
    await use(url);
  } catch (error) {
    throw new Error(`${error.message}\n${server.printed()}`);
  } finally {
    await server.stop();
  }
}

function vite(version) {
  const name = `Vite ${version.split(".")[0]}`;
  const isNewest = name === "Vite 8";
  const dev = (app) =>
    withServer(app, (port) => ["vite", "--port", String(port), "--strictPort"], async (url) => {
      for (const place of ["page", ...WORKER_PLACES]) await openPage(url, app.parameters({ place }));
    });
  const built = (place) => (app) => open(app, join(app.cwd, "dist"), place);
  return {
    name,
    fixtures: ["web"],
    packages: { vite: version },
    quick: isNewest,
    prepare: (app) => app.tool(["vite", "build"]),
    consumers: {
      [`${name} build`]: built("page"),
      [`${name} build, Worker`]: built("worker"),
      [`${name} build, SharedWorker`]: built("shared"),
      [`${name} dev`]: dev,
    },
  };
}

function webpack() {
  const build = (mode) => async (app) => {
    await app.tool(["webpack", "./main.js", "--mode", mode, "-o", mode]);
    await cp(join(app.cwd, "index.html"), join(app.cwd, mode, "index.html"));
    for (const place of ["page", ...WORKER_PLACES]) await open(app, join(app.cwd, mode), place);
  };
  return {
    name: "webpack",
    fixtures: ["web"],
    packages: { webpack: "5.113.0", "webpack-cli": "7.3.1" },
    consumers: { "webpack 5 production": build("production"), "webpack 5 development": build("development") },
  };
}

function rollup() {
  const build = (specifier, plugins) => async (app) => {
    await importFrom(app, specifier);
    const args = plugins.flatMap((plugin) => ["-p", plugin]);
    await app.tool(["rollup", "main.js", "-d", "out", "-f", "es", ...args]);
    await cp(join(app.cwd, "index.html"), join(app.cwd, "out/index.html"));
    await open(app, join(app.cwd, "out"), "page");
  };
  const resolve = "node-resolve={browser: true}";
  return {
    name: "Rollup",
    fixtures: ["web"],
    packages: { rollup: "4.68.8", "@rollup/plugin-node-resolve": "16.0.3", "@web/rollup-plugin-import-meta-assets": "2.3.3" },
    consumers: {
      "Rollup, with a plugin for assets": build("@prom-hub/sdk", [resolve, "@web/rollup-plugin-import-meta-assets"]),
      "Rollup /inline": build("@prom-hub/sdk/inline", [resolve]),
    },
  };
}

function next() {
  const both = async (app, url) => {
    await openPage(url, app.parameters());
    const response = await fetch(`${url}api?${new URLSearchParams(app.parameters())}`);
    const text = await response.text();
    if (text !== "ok") throw new Error(`the route handler says: ${response.status} ${text.slice(0, 1000)}`);
  };
  return {
    name: "Next",
    fixtures: ["next"],
    packages: NEXT,
    consumers: {
      async "Next build"(app) {
        await app.tool(["next", "build"]);
        await withServer(app, (port) => ["next", "start", "-p", String(port)], (url) => both(app, url));
      },
      async "Next build --webpack"(app) {
        await app.tool(["next", "build", "--webpack"]);
        await withServer(app, (port) => ["next", "start", "-p", String(port)], (url) => both(app, url));
      },
      "Next dev": (app) => withServer(app, (port) => ["next", "dev", "-p", String(port)], (url) => both(app, url)),
    },
  };
}

function vitest() {
  const file = (name) => (app) => app.tool(["vitest", "run", `${name}.test.js`], { env: { HUB: JSON.stringify(app.parameters()) } });
  return {
    name: "vitest",
    fixtures: ["vitest"],
    packages: { vitest: "4.1.12", jsdom: "26.1.0", "happy-dom": "20.0.0" },
    consumers: { "vitest node": file("node"), "vitest jsdom": file("jsdom"), "vitest happy-dom": file("happy-dom") },
  };
}

function jest(version) {
  const name = `Jest ${version.split(".")[0]}`;
  const file = (environment) => (app) => app.tool(["jest", `${environment}.test.js`], { env: { HUB: JSON.stringify(app.parameters()) } });
  return {
    name,
    fixtures: ["jest"],
    packages: { jest: version, "jest-environment-jsdom": version },
    type: "commonjs",
    consumers: { [`${name} node`]: file("node"), [`${name} jsdom`]: file("jsdom") },
  };
}

function react(version) {
  const name = `React ${version.split(".")[0]}`;
  return {
    name,
    fixtures: ["web", "react"],
    packages: { vite: "8.4.0", react: version, "react-dom": version },
    consumers: {
      [`${name} StrictMode`]: (app) =>
        withServer(app, (port) => ["vite", "--port", String(port), "--strictPort"], (url) => openPage(url, app.parameters())),
    },
  };
}

function workers() {
  return {
    name: "workers",
    fixtures: ["workers"],
    packages: { wrangler: "4.50.0" },
    consumers: {
      "Cloudflare workerd": (app) =>
        withServer(app, (port) => ["wrangler", "dev", "--port", String(port)], async (url) => {
          const response = await fetch(`${url}scenario?${new URLSearchParams(app.parameters())}`);
          const text = await response.text();
          if (text !== "ok") throw new Error(`the worker says: ${response.status} ${text.slice(0, 1000)}`);
        }),
    },
  };
}
