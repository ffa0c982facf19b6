// Makes of the face in `dist`:
//   module.js             the module in base64, for whatever cannot fetch a file from beside a script
//   single/inline.js      the SDK and the module in one file
//   cjs/*.js, cjs/*.d.ts  the SDK for `require`, where a runtime or its tests cannot require ES modules
// and, with a path given, the scripts that a page loads of the default entry, minified, for their size to be measured.

import { copyFile, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const dist = fileURLToPath(new URL("dist/", import.meta.url));
const utf8 = fileURLToPath(new URL("utf8.mjs", import.meta.url));
const [measured] = process.argv.slice(2);

const common = { absWorkingDir: dist, bundle: true, target: "es2022", logLevel: "warning" };

for (const folder of ["single", "cjs"]) {
  await rm(join(dist, folder), { recursive: true, force: true });
  await mkdir(join(dist, folder));
}

const base64 = JSON.stringify((await readFile(join(dist, "prom_sdk_bg.wasm"))).toString("base64"));
await writeFile(join(dist, "module.js"), `export default ${base64};\n`);
await writeFile(join(dist, "cjs/module.js"), `module.exports = ${base64};\n`);

await build({ ...common, entryPoints: ["inline.js"], outdir: "single", format: "esm" });

const cjs = { ...common, outdir: "cjs", format: "cjs", external: ["./module.js", "react", "ws"], supported: { "dynamic-import": false } };
await build({ ...cjs, entryPoints: ["node.js"], platform: "node", inject: [utf8] });
await build({ ...cjs, entryPoints: ["react.js"] });
await build({ ...cjs, entryPoints: ["inline.js", "slim.js"], inject: [utf8] });
for (const name of await readdir(dist)) {
  if (name.endsWith(".d.ts")) await copyFile(join(dist, name), join(dist, "cjs", name));
}
await writeFile(join(dist, "cjs/package.json"), '{ "type": "commonjs" }\n');

if (measured) await build({ ...common, entryPoints: ["index.js"], outfile: measured, format: "esm", minify: true });
