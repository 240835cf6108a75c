import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

/** The server that `npm run dev` passes WebSockets on to. */
const server = "ws://127.0.0.1:8000";

/** The fonts that are shipped with the page, and so are their licences. */
const fonts = ["inter", "source-serif-4"];

/** Our client as it is in this repository, so that it needs no build of its own. */
const client = (module: string): string =>
  fileURLToPath(new URL(`../client/src/${module}.ts`, import.meta.url));

export default defineConfig({
  // Relative, so that the page also works under a prefix such as /collab/.
  base: "./",
  build: {
    outDir: "../../collab/static/demo",
    emptyOutDir: true,
    target: "es2022",
    // Nothing as a data: URL: files can be cached, and the policy stays strict.
    assetsInlineLimit: 0,
    license: { fileName: "licenses.md" },
  },
  plugins: [
    {
      name: "font-licenses",
      apply: "build",
      generateBundle() {
        for (const font of fonts) {
          const path = `node_modules/@fontsource-variable/${font}/LICENSE`;
          const source = readFileSync(new URL(path, import.meta.url));
          this.emitFile({ type: "asset", fileName: `license-${font}.txt`, source });
        }
      },
    },
  ],
  resolve: {
    alias: [
      { find: /^collab-client$/, replacement: client("index") },
      { find: /^collab-client\/(\w+)$/, replacement: client("$1") },
    ],
    // What the client needs is taken from here: its own folder may have nothing, or
    // another Yjs, and two of them don't understand each other.
    dedupe: ["lib0", "y-protocols", "yjs"],
  },
  server: { proxy: { "/ws": { target: server, ws: true } } },
  test: { include: ["tests/**/*.test.ts"] },
});
