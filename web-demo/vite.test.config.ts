import { readdirSync } from "node:fs";
import { defineConfig } from "vite";

/** Bundles each test file for `node --test`: Node 20 cannot run TypeScript itself. */
export default defineConfig({
  build: {
    ssr: true,
    target: "node20",
    outDir: "../target/web-demo-test",
    emptyOutDir: true,
    rolldownOptions: {
      input: readdirSync("test").filter((name) => name.endsWith(".test.ts")).map((name) => `test/${name}`),
      // The folder has no package.json that would make .js a module.
      output: { entryFileNames: "[name].mjs", chunkFileNames: "shared/[name].mjs" },
    },
  },
});
