/**
 * Random lives of documents between two servers of one database: moves, crashes, cuts,
 * tokens that come late or never, documents that are opened and closed all the while.
 *
 * After each step: whoever says that everything is saved must have on the disk whatever
 * was written there, and whoever says up to which position it has everything must have it.
 * In the end all have the same.
 *
 * `MOVING_SEED=7 npx vitest run tests/moving.test.ts` lives one again, `MOVING_SEEDS=5000`
 * more than usual.
 */

import { expect, it } from "vitest";
import * as Y from "yjs";
import { CollabClient, CollabDocument, type Transport } from "../src/index.js";
import { Server } from "./server.js";
import { advise, connect, covers, createRandom, disturb, pass, textOf, useVirtualTime } from "./world.js";

useVirtualTime();

const seeds =
  process.env["MOVING_SEED"] !== undefined
    ? [Number(process.env["MOVING_SEED"])]
    : Array.from({ length: Number(process.env["MOVING_SEEDS"] ?? 40) }, (_, seed) => seed);

const NAMES = ["a", "b"];

/** A document, and a copy of all that was written in it. */
interface Writer {
  client: CollabClient;
  document: CollabDocument;
  written: Y.Doc;
}

/** What a document will say of itself when it comes back. */
interface Claim {
  epoch: string;
  position: number;
}

it.each(seeds)("nothing is lost, and nothing claimed that isn't so: seed %i", async (seed) => {
  const random = createRandom(seed);
  const pick = (count: number): number => Math.floor(random() * count);
  const one = <Value>(values: readonly Value[]): Value => values[pick(values.length)]!;
  const servers = [new Server(), new Server()] as const;
  servers[1].others.push(servers[0]);
  for (const name of NAMES) for (const server of servers) server.room(name);
  servers[0].others.push(servers[1]);
  servers[1].latency = 25;
  const transport: Transport = {
    name: "memory",
    open: (url, handlers) => one(servers).transport.open(url, handlers),
  };
  let isCalm = false;
  const token = (): string | Promise<string> => {
    if (isCalm || random() < 0.5) return "t";
    if (random() < 0.2) throw new Error("no session");
    if (random() < 0.1) return new Promise(() => {});
    const wait = pick(2_000);
    return new Promise((resolve) => setTimeout(() => resolve("t"), wait));
  };

  const open = (client: CollabClient, name: string, before?: Writer): Writer => {
    // The same document, or another one. A deletion that others have seen and nobody has
    // saved is lost with its author, and not found by a state vector: so authors stay.
    const isKept = before !== undefined && (random() < 0.5 || !before.document.saved);
    const doc = isKept ? before.document.doc : new Y.Doc();
    const written = isKept ? before.written : new Y.Doc();
    const document = new CollabDocument(client, name, { doc });
    if (!isKept) {
      doc.on("update", (update: Uint8Array, origin: unknown) => {
        // What comes from the server is not ours to save.
        if (!(origin instanceof CollabDocument)) Y.applyUpdate(written, update);
      });
    }
    return { client, document, written };
  };
  const clients = [0, 1].map(() => connect(servers[0], { transport, random, token }));
  const writers = clients.flatMap((client) => NAMES.map((name) => open(client, name)));

  const act = (): string => {
    const server = one(servers);
    const { client, document } = one(writers);
    switch (pick(16)) {
      case 0:
      case 1:
        for (const line of server.lines) {
          if (!line.isOpen || line.over || random() < 0.3) continue;
          advise(line, pick(300), pick(300));
        }
        return "advise";
      case 2: {
        const at = pick(writers.length);
        const before = writers[at]!;
        const after = open(before.client, before.document.name, before);
        before.document.destroy();
        writers[at] = after;
        return "close and open";
      }
      case 3:
        client.setToken(token);
        return "token";
      case 4:
        if (random() < 0.5) client.disconnect();
        else client.connect();
        return "connect or disconnect";
      default:
        return disturb(server, textOf(document.doc), random);
    }
  };

  const steps: string[] = [];
  const lies: string[] = [];
  const check = (): void => {
    for (const { document, written } of writers) {
      const room = servers[0].room(document.name);
      const what = steps.slice(-12).join(", ");
      if (document.saved && !covers(room.disk, written)) lies.push(`saved: ${what}`);
      const { epoch, position } = document as unknown as Claim;
      if (epoch !== room.epoch) continue;
      const claimed = new Y.Doc();
      for (const { update } of room.log.slice(0, position)) Y.applyUpdate(claimed, update);
      if (!covers(document.doc, claimed)) lies.push(`position ${position}: ${what}`);
    }
  };

  for (let step = 0; step < 120; step += 1) {
    steps.push(act());
    await pass(random() < 0.8 ? pick(80) : pick(15_000));
    check();
  }
  isCalm = true;
  for (const server of servers) {
    server.mode = "up";
    server.commits = true;
    server.commit();
  }
  for (const client of clients) client.connect();
  await pass(180_000);
  check();

  expect(lies, `seed ${seed}`).toEqual([]);
  for (const { document } of writers) {
    const { disk } = servers[0].room(document.name);
    expect(document.synced, `seed ${seed}`).toBe(true);
    expect(document.saved, `seed ${seed}`).toBe(true);
    expect(textOf(document.doc).toString(), `seed ${seed}`).toBe(textOf(disk).toString());
    expect(covers(document.doc, disk) && covers(disk, document.doc)).toBe(true);
  }
  const alive = servers.flatMap(({ lines }) => lines.filter(({ over }) => !over));
  expect(alive.filter(({ dead }) => !dead).length, `seed ${seed}`).toBe(clients.length);
});
