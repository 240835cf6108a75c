/** What the tests share: virtual time, and clients of a server in memory. */

import { afterEach, beforeEach, expect, vi } from "vitest";
import * as encoding from "lib0/encoding";
import * as Y from "yjs";
import { CollabClient, CollabDocument } from "../src/index.js";
import type { ClientOptions, DocumentOptions } from "../src/index.js";
import { textOf } from "./plain.js";
import { Server } from "./server.js";

export { createRandom, read, textOf } from "./plain.js";

/** Let time stand still but for {@link pass}, and clean up. */
export function useVirtualTime(): void {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    for (const client of clients.splice(0)) client.destroy();
    vi.useRealTimers();
  });
}

const clients: CollabClient[] = [];

/** Let so many milliseconds pass. */
export async function pass(milliseconds: number): Promise<void> {
  await vi.advanceTimersByTimeAsync(milliseconds);
}

export function connect(server: Server, options: Partial<ClientOptions> = {}): CollabClient {
  const client = new CollabClient({
    url: "ws://test/ws",
    transport: server.transport,
    random: () => 0.5,
    ...options,
  });
  clients.push(client);
  return client;
}

/** Do something meanwhile errors are thrown that nobody catches, as those of handlers are. */
export async function whileThrowing(act: () => Promise<void>): Promise<void> {
  const thrown = vi.fn();
  process.on("uncaughtException", thrown);
  try {
    await act();
    await pass(0);
  } finally {
    process.off("uncaughtException", thrown);
  }
  expect(thrown).toHaveBeenCalled();
}

/** A document of a client of its own, in which everything has arrived. */
export async function openDocument(
  server: Server,
  name = "doc",
  options: DocumentOptions & { client?: Partial<ClientOptions> } = {},
): Promise<CollabDocument> {
  const document = new CollabDocument(connect(server, options.client), name, options);
  await pass(200);
  return document;
}

export function type({ doc }: { doc: Y.Doc }, text: string): void {
  textOf(doc).insert(textOf(doc).length, text);
}

/** Have a server wish that whoever is on a line moves. */
export function advise(line: Server["line"], after: number, window: number): void {
  line.send(0, 2, (to) => {
    encoding.writeVarUint(to, after);
    encoding.writeVarUint(to, window);
  });
}

/** Do one of what happens to everybody: somebody types, a server or a line to it fails. */
export function disturb(server: Server, text: Y.Text, random: () => number): string {
  const pick = (count: number): number => Math.floor(random() * count);
  const line = server.lines[pick(server.lines.length)];
  switch (pick(11)) {
    case 0:
      if (text.length > 0) text.delete(pick(text.length), 1);
      return "delete";
    case 1:
      server.commits = random() < 0.5;
      return `commits ${server.commits}`;
    case 2:
      server.commit();
      return "commit";
    case 3:
      server.crash();
      return "crash";
    case 4:
      if (line !== undefined) line.budget = line.sent + pick(300);
      return "cut soon";
    case 5:
      if (line !== undefined) line.dead = true;
      return "dead";
    case 6:
      server.mode = (["up", "up", "up", "down", "silent"] as const)[pick(5)]!;
      return server.mode;
    default: {
      const letters = String.fromCharCode(97 + pick(26)).repeat(1 + pick(5));
      text.insert(pick(text.length + 1), letters);
      return "insert";
    }
  }
}

/** Whether one document has all that another has, deletions too. */
export function covers(all: Y.Doc, part: Y.Doc): boolean {
  const before = Y.encodeStateAsUpdate(all);
  const copy = new Y.Doc();
  Y.applyUpdate(copy, before);
  let changed = false;
  copy.on("update", () => (changed = true));
  Y.applyUpdate(copy, Y.encodeStateAsUpdate(part));
  return !changed && copy.store.pendingStructs === null && copy.store.pendingDs === null;
}
