/** What the tests share: virtual time, and clients of a server in memory. */

import { afterEach, beforeEach, expect, vi } from "vitest";
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
