import { defineConfig } from "vite";

export default defineConfig({
  // The hub may serve the page below a path of a proxy.
  base: "./",
  // The SDK finds its wasm file next to its own module, which pre-bundling would move.
  optimizeDeps: { exclude: ["@prom-hub/sdk"] },
  build: {
    // The page's content security policy allows no data: scripts or wasm.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: {
    proxy: { "/ws": { target: "ws://127.0.0.1:8090", ws: true, rewriteWsOrigin: true } },
  },
});
