/** What a page loads: each entry with what it needs, but for yjs and React. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build, type Rolldown } from "vite";
import { expect, it } from "vitest";
import { AGENT } from "../src/link.js";

/** Octets, minified and compressed. */
const LIMITS = { index: 15_000, persistence: 2_000, tabs: 6_000, react: 15_000 };

async function bundle(code: string, external: string[]): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "collab-client-"));
  try {
    const entry = join(folder, "entry.ts");
    writeFileSync(entry, code);
    const output = (await build({
      configFile: false,
      logLevel: "error",
      build: {
        write: false,
        minify: true,
        lib: { entry, formats: ["es"] },
        // Said twice, as Vite leaves the blanks in what it takes for a library.
        rolldownOptions: { external, output: { minify: true } },
      },
    })) as Rolldown.RolldownOutput[];
    return output
      .flatMap(({ output }) => output.map((one) => ("code" in one ? one.code : "")))
      .join("");
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function source(name: string): string {
  return JSON.stringify(fileURLToPath(new URL(`../src/${name}.ts`, import.meta.url)));
}

it.each(Object.entries(LIMITS))("%s is at most %i octets", async (name, limit) => {
  const code = await bundle(`export * from ${source(name)}`, ["yjs", "react"]);
  const size = gzipSync(code, { level: 9 }).length;
  console.info(`${name}: ${size} octets compressed, ${code.length} as they are`);
  expect(size).toBeLessThan(limit);
});

it("what isn't used is not loaded", async () => {
  const code = await bundle(`export { webSocket } from ${source("index")}`, ["yjs"]);
  expect(code.length).toBeLessThan(2_000);
  const index = await bundle(`export * from ${source("index")}`, ["yjs"]);
  expect(index).not.toContain("indexedDB");
  expect(index).not.toContain("BroadcastChannel");
});

it("the version is that of the package", () => {
  const path = fileURLToPath(new URL("../package.json", import.meta.url));
  const { name, version } = JSON.parse(readFileSync(path, "utf8")) as Record<string, string>;
  expect(AGENT).toBe(`${name}/${version}`);
});
