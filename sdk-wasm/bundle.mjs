// Makes of the face in `dist` what has to be one file:
//   single/inline.js      the SDK with the module inside
//   cjs/*.js, cjs/*.d.ts  the same for `require`, where a runtime or its tests cannot require ES modules
// and, with a path given, the scripts that a page loads of the default entry, minified, for their size to be measured.

import { copyFile, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const dist = fileURLToPath(new URL("dist/", import.meta.url));
const [measured] = process.argv.slice(2);

const module = await readFile(join(dist, "prom_sdk_bg.wasm"));
const common = {
  absWorkingDir: dist,
  bundle: true,
  target: "es2022",
  logLevel: "warning",
  define: { MODULE_BASE64: JSON.stringify(module.toString("base64")) },
};

for (const folder of ["single", "cjs"]) {
  await rm(join(dist, folder), { recursive: true, force: true });
  await mkdir(join(dist, folder));
}

await build({ ...common, entryPoints: ["inline.js"], outdir: "single", format: "esm" });

await build({ ...common, entryPoints: ["inline.js", "slim.js", "react.js"], outdir: "cjs", format: "cjs", external: ["react"] });
// It reads the module from beside the ES module that it is made of.
const banner = 'const esModule = require("node:url").pathToFileURL(require("node:path").join(__dirname, "../node.js")).href;';
await build({
  ...common,
  entryPoints: ["node.js"],
  outdir: "cjs",
  format: "cjs",
  platform: "node",
  external: ["ws"],
  banner: { js: banner },
  define: { "import.meta.url": "esModule" },
});
for (const name of await readdir(dist)) {
  if (name.endsWith(".d.ts")) await copyFile(join(dist, name), join(dist, "cjs", name));
}
await writeFile(join(dist, "cjs/package.json"), '{ "type": "commonjs" }\n');

if (measured) await build({ ...common, entryPoints: ["index.js"], outfile: measured, format: "esm", minify: true });
