/**
 * Random lives of three documents over HTTP, where a fifth of all requests is lost.
 *
 * `HTTP_SEED=7` lives one again, `HTTP_SEEDS=500` more than usual.
 */

import { expect, vi } from "vitest";
import * as Y from "yjs";
import type { CollabDocument } from "../src/index.js";
import type { HttpServer } from "./http.js";
import type { Server } from "./server.js";
import { covers, pass, read, textOf } from "./world.js";

export const seeds =
  process.env["HTTP_SEED"] !== undefined
    ? [Number(process.env["HTTP_SEED"])]
    : Array.from({ length: Number(process.env["HTTP_SEEDS"] ?? 8) }, (_, seed) => seed);

/**
 * Write words, crash the server, and look whether all is true that is said.
 *
 * @param disturb What else may happen to the network, now and then.
 */
export async function live(
  server: Server,
  http: HttpServer,
  random: () => number,
  open: () => CollabDocument,
  disturb: () => void = () => {},
): Promise<void> {
  const pick = (count: number): number => Math.floor(random() * count);
  http.loss = 0.2;
  http.random = random;
  vi.spyOn(Math, "random").mockImplementation(random);
  try {
    const writers = [0, 1, 2].map(() => {
      const document = open();
      const written = new Y.Doc();
      document.doc.on("update", (update: Uint8Array, origin: unknown) => {
        // What comes from the server may not be on its disk yet, and is not ours to save.
        if (origin !== document) Y.applyUpdate(written, update);
      });
      return { document, written };
    });
    await pass(3_000);
    let words = 0;
    const lies: string[] = [];
    for (let step = 0; step < 150; step += 1) {
      const { document } = writers[pick(3)]!;
      if (random() < 0.7) {
        const text = textOf(document.doc);
        // Between words, so that each stays whole.
        const gaps = [...text.toString().matchAll(/(?<=>)|^/g)].map(({ index }) => index);
        text.insert(gaps[pick(gaps.length)]!, `<${(words += 1)}>`);
      } else if (random() < 0.2) {
        server.commits = !server.commits;
      } else if (random() < 0.1) {
        server.crash();
      } else if (random() < 0.2) {
        disturb();
      } else {
        document.awareness.setLocalStateField("step", step);
      }
      await pass(random() < 0.9 ? pick(300) : pick(20_000));
      const { disk } = server.room("doc");
      for (const [index, { document, written }] of writers.entries()) {
        if (document.saved && !covers(disk, written)) lies.push(`${index} at ${step}`);
      }
    }
    server.commits = true;
    server.commit();
    http.loss = 0;
    await pass(100_000);
    // As awareness does every 15 seconds, but not in virtual time.
    for (const { document } of writers) {
      document.awareness.setLocalState(document.awareness.getLocalState());
    }
    await pass(20_000);
    expect(lies).toEqual([]);
    const disk = textOf(server.room("doc").disk).toString();
    const found = disk.match(/<\d+>/g) ?? [];
    expect(found.length).toBe(words);
    expect(new Set(found).size).toBe(words);
    for (const { document } of writers) {
      expect(document.saved).toBe(true);
      expect(document.synced).toBe(true);
      expect(read(document)).toBe(disk);
      for (const { document: other } of writers) {
        const { clientID } = other.awareness;
        const state = document.awareness.getStates().get(clientID);
        expect(state).toEqual(other.awareness.getLocalState());
      }
    }
  } finally {
    vi.mocked(Math.random).mockRestore();
  }
}
