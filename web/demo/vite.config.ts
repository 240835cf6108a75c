import { defineConfig } from "vitest/config";

/** The server that `npm run dev` passes WebSockets on to. */
const server = "ws://127.0.0.1:8000";

export default defineConfig({
  // Relative, so that the page also works under a prefix such as /collab/.
  base: "./",
  build: {
    outDir: "../../collab/static/demo",
    emptyOutDir: true,
    target: "es2022",
    // Nothing as a data: URL: files can be cached, and the policy stays strict.
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 1000,
    license: { fileName: "licenses.md" },
  },
  server: { proxy: { "/ws": { target: server, ws: true } } },
  test: { include: ["tests/**/*.test.ts"] },
});
