/**
 * Random lives of two documents: typing, crashes, cuts, silence, moves, lost answers.
 *
 * After each step: whoever says that everything is saved must have on the server's
 * disk whatever is in its copy that it wrote. In the end all have the same.
 *
 * `SAVED_SEED=7 npx vitest run tests/saved.test.ts` lives one again, `SAVED_SEEDS=5000`
 * more than usual.
 */

import { expect, it } from "vitest";
import * as encoding from "lib0/encoding";
import * as Y from "yjs";
import { CollabDocument } from "../src/index.js";
import { Server } from "./server.js";
import { advise, connect, covers, createRandom, disturb, pass, textOf, useVirtualTime } from "./world.js";

useVirtualTime();

const seeds =
  process.env["SAVED_SEED"] !== undefined
    ? [Number(process.env["SAVED_SEED"])]
    : Array.from({ length: Number(process.env["SAVED_SEEDS"] ?? 60) }, (_, seed) => seed);

/** A document, a copy of all that was written in it, and when `saved` wasn't true. */
interface Writer {
  document: CollabDocument;
  written: Y.Doc;
  lies: string[];
}

function openWriter(server: Server, random: () => number): Writer {
  const document = new CollabDocument(connect(server, { random }), "doc");
  const written = new Y.Doc();
  document.doc.on("update", (update: Uint8Array, origin: unknown) => {
    // What comes from the server may not be on its disk yet, and is not ours to save.
    if (origin !== document) Y.applyUpdate(written, update);
  });
  return { document, written, lies: [] };
}

function check(server: Server, { document, written, lies }: Writer, what: string): void {
  if (!document.saved) return;
  const disk = server.room("doc").disk;
  if (!covers(disk, written)) lies.push(what);
}

it.each(seeds)("never lies: seed %i", async (seed) => {
  const random = createRandom(seed);
  const server = new Server();
  const writers = [openWriter(server, random), openWriter(server, random)];
  const pick = (count: number): number => Math.floor(random() * count);
  const steps: string[] = [];

  const act = (): string => {
    const { document } = writers[pick(writers.length)]!;
    switch (pick(15)) {
      case 0:
        server.mute = random() < 0.3;
        return `mute ${server.mute}`;
      case 1: {
        const line = server.lines[pick(server.lines.length)];
        if (line?.isOpen && !line.over) advise(line, pick(500), pick(500));
        return "advise";
      }
      case 2: {
        const room = server.room("doc");
        room.writable = !room.writable;
        // Edits may be on their way, and are refused.
        for (const place of room.places) {
          place.send(10, (to) => encoding.writeUint8(to, room.writable ? 1 : 0));
        }
        return `writable ${room.writable}`;
      }
      case 3:
        server.room("doc").epoch = `e${pick(3)}`;
        return "another epoch";
      default:
        return disturb(server, textOf(document.doc), random);
    }
  };

  for (let step = 0; step < 120; step += 1) {
    steps.push(act());
    await pass(random() < 0.8 ? pick(60) : pick(20_000));
    for (const writer of writers) check(server, writer, steps.slice(-12).join(", "));
  }
  server.mode = "up";
  server.mute = false;
  server.commits = true;
  server.commit();
  server.room("doc").writable = true;
  // What was lost with a connection that lives on is said again on the next one.
  server.crash();
  await pass(120_000);

  const [one, two] = writers as [Writer, Writer];
  expect(writers.flatMap(({ lies }) => lies), `seed ${seed}`).toEqual([]);
  const disk = textOf(server.room("doc").disk).toString();
  for (const { document } of [one, two]) {
    expect(document.saved, `seed ${seed}`).toBe(true);
    expect(document.synced).toBe(true);
    expect(textOf(document.doc).toString(), `seed ${seed}`).toBe(disk);
  }
});
