import { IDBFactory, IDBKeyRange } from "fake-indexeddb";
import { beforeEach, describe, expect, it, vi } from "vitest";
import * as Y from "yjs";
import { CollabDocument } from "../src/index.js";
import { indexedDb } from "../src/persistence.js";
import { Server } from "./server.js";
import {
  connect,
  covers,
  createRandom,
  openDocument,
  pass,
  read,
  textOf,
  type,
  useVirtualTime,
  whileThrowing,
} from "./world.js";

useVirtualTime();

beforeEach(() => {
  Object.assign(globalThis, { indexedDB: new IDBFactory(), IDBKeyRange });
});

/** A page that is loaded: a document whose browser may have kept something. */
async function load(server: Server, name = "doc"): Promise<CollabDocument> {
  return openDocument(server, name, { persistence: indexedDb() });
}

describe("what is kept in the browser", () => {
  it("is there without the server", async () => {
    const server = new Server();
    server.edit("doc", (doc) => textOf(doc).insert(0, "hello"));
    (await load(server)).destroy();
    await pass(100);
    server.mode = "down";
    const document = await load(server);
    await document.whenLoaded;
    expect(read(document)).toBe("hello");
    expect(document.saved).toBe(true);
    expect(document.synced).toBe(false);
  });

  it("saves asking for it again", async () => {
    const server = new Server();
    server.edit("doc", (doc) => textOf(doc).insert(0, "x".repeat(5_000)));
    (await load(server)).destroy();
    await pass(100);
    server.edit("doc", (doc) => textOf(doc).insert(0, "new "));
    const document = await load(server);
    expect(server.line.heard[1]).toBe("open doc  e1 1");
    expect(server.line.sent).toBeLessThan(200);
    expect(read(document)).toMatch(/^new x/);
    expect(document.saved).toBe(true);
  });

  it("is not saved before the server has said so, however often the page is loaded", async () => {
    const server = new Server();
    server.mode = "down";
    const first = await load(server);
    type(first, "offline");
    await pass(50);
    first.destroy();
    await pass(50);

    const second = await load(server);
    expect(read(second)).toBe("offline");
    expect(second.saved).toBe(false);
    expect(second.unsaved).toBe(1);
    second.destroy();
    await pass(50);

    server.mode = "up";
    server.commits = false;
    const third = await load(server);
    expect(third.synced).toBe(true);
    expect(third.saved).toBe(false);
    server.commit();
    await pass(100);
    expect(third.saved).toBe(true);
    expect(textOf(server.room("doc").disk).toString()).toBe("offline");
    third.destroy();
    await pass(50);

    server.mode = "down";
    expect((await load(server)).saved).toBe(true);
  });

  /** Delete a letter of "abc" offline, and leave: it is only kept here. */
  async function leaveDeletion(): Promise<Server> {
    const server = new Server();
    server.edit("doc", (doc) => textOf(doc).insert(0, "abc"));
    const first = await load(server);
    server.mode = "down";
    server.crash();
    textOf(first.doc).delete(0, 1);
    await pass(50);
    first.destroy();
    await pass(50);
    return server;
  }

  it("is not saved if only deletions are not", async () => {
    const server = await leaveDeletion();
    server.mode = "up";
    const second = await load(server);
    await pass(200);
    expect(second.saved).toBe(true);
    expect(textOf(server.room("doc").disk).toString()).toBe("bc");
  });

  it("is not saved if the application fails while it is loaded", async () => {
    const server = await leaveDeletion();
    const doc = new Y.Doc();
    textOf(doc).observe(() => {
      throw new Error("ours");
    });
    await whileThrowing(async () => {
      const second = await openDocument(server, "doc", { doc, persistence: indexedDb() });
      expect(read(second)).toBe("bc");
      expect([second.saved, second.unsaved]).toEqual([false, 1]);
      server.mode = "up";
      await pass(30_000);
      expect([second.saved, second.kept]).toEqual([true, true]);
      expect(textOf(server.room("doc").disk).toString()).toBe("bc");
    });
  });

  it("is not called saved while it is loaded", async () => {
    const server = new Server();
    const document = new CollabDocument(connect(server), "doc", { persistence: indexedDb() });
    expect(document.saved).toBe(false);
    await pass(100);
    expect(document.saved).toBe(true);
  });

  it("takes what was typed before it was loaded", async () => {
    const server = new Server();
    server.mode = "down";
    const first = new CollabDocument(connect(server), "doc", { persistence: indexedDb() });
    type(first, "quick");
    await pass(100);
    expect(first.saved).toBe(false);
    first.destroy();
    await pass(50);
    const second = await load(server);
    expect(read(second)).toBe("quick");
    expect(second.saved).toBe(false);
  });

  it("takes what was in the document before", async () => {
    const server = new Server();
    server.mode = "down";
    const doc = new Y.Doc();
    textOf(doc).insert(0, "template");
    const first = await openDocument(server, "doc", { doc, persistence: indexedDb() });
    expect(first.saved).toBe(false);
    first.destroy();
    await pass(50);
    const second = await load(server);
    expect(read(second)).toBe("template");
    expect(second.saved).toBe(false);
  });

  it("is joined when it is many rows, and stays what it was", async () => {
    const server = new Server();
    const first = await load(server);
    for (let edit = 0; edit < 1_200; edit += 1) {
      type(first, "x");
      if (edit % 3 === 0) textOf(first.doc).delete(0, 1);
      if (edit % 100 === 0) await pass(50);
    }
    await pass(5_000);
    server.mode = "down";
    server.crash();
    type(first, "unsaved");
    // The database of these tests takes a moment for each row.
    await pass(2_000);
    first.destroy();
    await pass(2_000);
    expect(await countRows("updates")).toBeLessThan(600);
    const second = await load(server);
    await pass(2_000);
    expect(read(second)).toBe(`${"x".repeat(800)}unsaved`);
    expect(second.unsaved).toBe(1);
  });

  it("is not kept once more each time that it is loaded", async () => {
    const server = new Server();
    const first = await load(server);
    type(first, "x");
    await pass(100);
    first.destroy();
    await pass(50);
    const rows = await countRows("updates");
    for (let page = 0; page < 5; page += 1) {
      (await load(server)).destroy();
      await pass(50);
    }
    expect(await countRows("updates")).toBe(rows);
  });

  it("is loaded but for what is damaged, and compared with the server's", async () => {
    const warned = vi.spyOn(console, "warn").mockImplementation(() => {});
    const server = new Server();
    const first = await load(server);
    type(first, "abc");
    await pass(100);
    server.mode = "down";
    server.crash();
    textOf(first.doc).delete(0, 1);
    await pass(50);
    first.destroy();
    await pass(50);
    const request = indexedDB.open("collab");
    while (request.readyState === "pending") await pass(10);
    const stores = request.result.transaction(["updates", "unsaved"], "readwrite");
    stores.objectStore("updates").put(new Uint8Array([9, 9, 9]), ["doc", "damaged"]);
    await pass(50);
    request.result.close();

    const second = await load(server);
    expect(read(second)).toBe("bc");
    expect(second.saved).toBe(false);
    expect(warned).toHaveBeenCalled();
    server.mode = "up";
    await pass(30_000);
    expect(second.saved).toBe(true);
    expect(textOf(server.room("doc").disk).toString()).toBe("bc");
    warned.mockRestore();
  });

  it("belongs to its document", async () => {
    const server = new Server();
    type(await load(server, "a"), "in a");
    type(await load(server, "ab"), "in ab");
    await pass(100);
    server.mode = "down";
    expect(read(await load(server, "a"))).toBe("in a");
    expect(read(await load(server, "ab"))).toBe("in ab");
    expect(read(await load(server, "b"))).toBe("");
  });

  it("says when what waits is on the disk, and when it never will be", async () => {
    const server = new Server();
    server.mode = "down";
    const document = await load(server);
    await document.whenLoaded;
    type(document, "offline");
    expect([document.unsaved, document.kept]).toEqual([1, false]);
    await pass(50);
    expect([document.unsaved, document.kept]).toEqual([1, true]);

    const warn = vi.spyOn(console, "warn").mockReturnValue();
    Object.assign(globalThis, { indexedDB: { open: () => { throw new Error("private window"); } } });
    const other = await load(server, "other");
    await other.whenLoaded;
    type(other, "offline");
    await pass(50);
    expect([other.unsaved, other.kept]).toEqual([1, false]);
    expect(warn).toHaveBeenCalled();
    warn.mockRestore();
  });

  it("is shared by two tabs, and true for both", async () => {
    const server = new Server();
    const one = await load(server);
    const two = await load(server);
    server.mode = "down";
    server.crash();
    type(one, "one");
    type(two, "two");
    await pass(100);
    for (const tab of [one, two]) tab.destroy();
    await pass(100);
    const three = await load(server);
    expect(read(three)).toHaveLength(6);
    expect(three.unsaved).toBe(2);
    server.mode = "up";
    await pass(30_000);
    expect(three.saved).toBe(true);
    expect(textOf(server.room("doc").disk).toString()).toBe(read(three));
  });

  it("can be forgotten, one document or all", async () => {
    const server = new Server();
    for (const name of ["a", "b", "c"]) {
      const document = await load(server, name);
      type(document, name);
      await pass(50);
      document.destroy();
    }
    await pass(50);
    server.mode = "down";
    const clearing = indexedDb().clear("a");
    await pass(50);
    await clearing;
    expect(read(await load(server, "a"))).toBe("");
    expect(read(await load(server, "b"))).toBe("b");
    const all = indexedDb().clear();
    await pass(50);
    await all;
    expect(read(await load(server, "c"))).toBe("");
  });
});

describe("a browser that keeps nothing", () => {
  it.each<[string, () => void]>([
    ["has no IndexedDB", () => Object.assign(globalThis, { indexedDB: undefined })],
    [
      "refuses",
      () =>
        vi.spyOn(indexedDB, "open").mockImplementation(() => {
          throw new DOMException("no", "SecurityError");
        }),
    ],
    [
      "never answers",
      () => vi.spyOn(indexedDB, "open").mockReturnValue({} as IDBOpenDBRequest),
    ],
  ])("%s: the document works without", async (_, spoil) => {
    const warned = vi.spyOn(console, "warn").mockImplementation(() => {});
    spoil();
    const server = new Server();
    const document = await load(server);
    type(document, "fine");
    await pass(6_000);
    expect(document.synced).toBe(true);
    expect(document.saved).toBe(true);
    expect(warned).toHaveBeenCalledOnce();
    warned.mockRestore();
  });

  it("since its storage was cleared leaves a document that goes on", async () => {
    const warned = vi.spyOn(console, "warn").mockImplementation(() => {});
    const server = new Server();
    const document = await load(server);
    type(document, "a");
    await pass(100);
    indexedDB.deleteDatabase("collab");
    await pass(100);
    type(document, "b");
    await pass(100);
    expect([document.saved, document.kept]).toEqual([true, false]);
    expect(textOf(server.room("doc").disk).toString()).toBe("ab");
    warned.mockRestore();
    // And a page that is loaded afterwards starts anew.
    document.destroy();
    const next = await load(server);
    expect(read(next)).toBe("ab");
    expect(server.line.heard[1]).toBe("open doc   0");
    expect(next.kept).toBe(true);
  });
});

it.each(Array.from({ length: 30 }, (_, seed) => seed))(
  "pages that come and go never lie: seed %i",
  async (seed) => {
    const random = createRandom(seed);
    const pick = (count: number): number => Math.floor(random() * count);
    const server = new Server();
    const written = new Y.Doc();
    const open = (): CollabDocument => {
      const document = new CollabDocument(connect(server, { random }), "doc", {
        persistence: indexedDb(),
      });
      document.doc.on("update", (update: Uint8Array, origin: unknown) => {
        if (origin !== document) Y.applyUpdate(written, update);
      });
      return document;
    };
    let document = open();
    await pass(100);
    for (let step = 0; step < 60; step += 1) {
      const text = textOf(document.doc);
      const what = pick(10);
      if (what < 4) text.insert(pick(text.length + 1), "x".repeat(1 + pick(3)));
      else if (what === 4 && text.length > 0) text.delete(pick(text.length), 1);
      else if (what === 5) server.commits = !server.commits;
      else if (what === 6) server.commit();
      else if (what === 7) server.crash();
      else if (what === 8) server.mode = server.mode === "up" ? "down" : "up";
      else {
        // What was typed is on this computer's disk by then.
        await pass(50);
        document.destroy();
        await pass(50);
        document = open();
        await pass(50);
      }
      await pass(pick(2_000));
      if (document.saved) expect(covers(server.room("doc").disk, written), `seed ${seed}`).toBe(true);
    }
    server.mode = "up";
    server.commits = true;
    server.commit();
    await pass(60_000);
    expect(document.saved).toBe(true);
    expect(covers(server.room("doc").disk, written)).toBe(true);
    expect(read(document)).toBe(textOf(server.room("doc").disk).toString());
  },
);

async function countRows(store: string): Promise<number> {
  const request = indexedDB.open("collab");
  while (request.readyState === "pending") await pass(10);
  const count = request.result.transaction(store).objectStore(store).count();
  while (count.readyState === "pending") await pass(10);
  request.result.close();
  return count.result;
}
